"""Contents of no meaning in the sizes that occur: 16 passages and 16 pictures. No JAX here."""

from __future__ import annotations

from typing import Any

from PIL import Image

QUERY = "which of these " * 8
_WORDS = "one two three four five six seven eight nine ten "


def candidates() -> list[Any]:
    """Passages of 16 to 160 words, and pictures of 160 to 320 pixels, all different."""
    texts = [f"{n} " + _WORDS * (1 + n) for n in range(16)]
    sides = [160 + 32 * (n % 6) for n in range(16)]
    pictures = [
        Image.new("RGB", (sides[n], sides[-n]), (16 * n, 255 - 16 * n, 128)) for n in range(16)
    ]
    return [*texts, *pictures]

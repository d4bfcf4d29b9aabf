"""Text as a picture: black on white in Pillow's built-in font, for the baseline of images only.

A picture is made of whole visual tokens, as few as hold the text in letters of half a token's
side. What the largest budget does not hold so gets smaller letters, down to half of that; what it
does not hold even then gets a larger picture, which a model's own resize makes smaller: nothing is
cut, very long texts get illegible.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from PIL import Image, ImageDraw, ImageFont

from unirank_jax.images import ImageSpec

LARGEST, SMALLEST = 2, 4  # letters have a token's side by these: 12 down to 6 pixels of 24
LONGEST = 2  # sides of a picture differ by this factor at most
MARGIN = 2  # pixels around the text
# What the font lacks and no decomposition gives; Greek letters are spelled by their names.
_SPELLINGS = {
    **dict.fromkeys("–—−‐‑", "-"),
    **{"×": "x", "·": ".", "•": "*", "≤": "<=", "≥": ">=", "→": "->", "←": "<-", "′": "'"},
    **{"″": '"', "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "©": "(c)", "®": "(R)"},
    **{"Æ": "AE", "Œ": "OE", "Ø": "O", "Ł": "L", "«": '"', "»": '"', "¿": "?", "¡": "!"},
}


@dataclass(frozen=True)
class Layout:
    """Where a text goes: letters and line height in pixels, visual tokens across and down."""

    size: int
    columns: int
    rows: int
    lines: tuple[str, ...]


def spell(text: str) -> tuple[str, str]:
    """A text in the font's characters, and the characters for which it has nothing.

    The font has ASCII and little more: accents are dropped (é: e), Greek letters become their
    names, some signs their likes. Other scripts cannot be drawn; the text lacks them.
    """
    spelled = [(char, _spell(char)) for char in text]
    missing = dict.fromkeys(char for char, found in spelled if found is None)
    return "".join(found or "" for _, found in spelled), "".join(missing)


def typeset(text: str, images: Sequence[Image.Image], spec: ImageSpec) -> Image.Image:
    """An RGB picture of a text, below the images that belong to it, for a model's image budget.

    Images are never enlarged, and no longer than the side of a square that is the whole budget.
    Raises ValueError where the font lacks a character (see `spell`).
    """
    spelled, missing = spell(text)
    if missing:
        raise ValueError(f"the font has no {missing[:10]!r}")
    side = math.sqrt(spec.max_visual_tokens) * spec.factor
    images = [image.resize(_scaled(image.size, side / max(image.size))) for image in images]
    plan = lay_out(spelled, [image.size for image in images], spec)
    width = plan.columns * spec.factor
    picture = Image.new("RGB", (width, plan.rows * spec.factor), "white")
    top = 0
    for image in images:
        shown = image.resize(_scaled(image.size, width / image.width))
        picture.paste(shown, (0, top))
        top += shown.height
    pen = ImageDraw.Draw(picture)
    for number, line in enumerate(plan.lines):
        place = (MARGIN, top + MARGIN + number * _line_height(plan.size))
        pen.text(place, line, fill="black", font=_font(plan.size))
    return picture


def lay_out(text: str, images: Sequence[tuple[int, int]], spec: ImageSpec) -> Layout:
    """The layout of a text below images of these (width, height), by the rule of this module."""
    limit = spec.max_visual_tokens
    sizes = range(max(1, spec.factor // LARGEST), max(1, spec.factor // SMALLEST) - 1, -1)
    while True:
        for size in sizes:
            found = _smallest(text, images, spec, size, limit)
            if found is not None:
                return found
        sizes, limit = sizes[-1:], 2 * limit


def wrap(text: str, size: int, width: float) -> list[str] | None:
    """The lines of a text at a letter size: broken at spaces, after hyphens and brackets, at need
    anywhere; None where a letter is wider than the line."""
    advances = _advances(size)
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line, used = "", 0.0
        for gap, piece in _pieces(paragraph):
            gap = gap if line else ""
            wide = sum(advances[char] for char in gap + piece)
            if line and used + wide > width:
                lines.append(line)
                line, used, gap = "", 0.0, ""
                wide = sum(advances[char] for char in piece)
            while not line and wide > width:
                ends = list(accumulate(advances[char] for char in piece))
                fits = bisect_right(ends, width)
                if not fits:
                    return None
                lines.append(piece[:fits])
                piece, wide = piece[fits:], wide - ends[fits - 1]
            line += gap + piece
            used += wide
        lines.append(line)
    return lines


def _smallest(
    text: str, images: Sequence[tuple[int, int]], spec: ImageSpec, size: int, limit: int
) -> Layout | None:
    """The layout of this letter size with the fewest visual tokens, the squarest of those."""
    best: Layout | None = None
    advances = _advances(size)
    ink = sum(advances[char] for char in text if not char.isspace())
    for columns in range(1, math.isqrt(LONGEST * limit) + 1):
        width = columns * spec.factor
        least = ink / width * _line_height(size)  # a text's height if no line had room left
        if least > LONGEST * width:
            continue
        lines = wrap(text, size, width - 2 * MARGIN)
        if lines is None:
            continue
        height = 2 * MARGIN + len(lines) * _line_height(size)
        height += sum(_scaled(image, width / image[0])[1] for image in images)
        rows = max(
            math.ceil(height / spec.factor),
            math.ceil(columns / LONGEST),
            math.ceil(spec.min_visual_tokens / columns),
        )
        if rows > LONGEST * columns or rows * columns > limit:
            continue
        found = Layout(size, columns, rows, tuple(lines))
        if best is None or _cost(found) < _cost(best):
            best = found
    return best


def _cost(plan: Layout) -> tuple[int, int]:
    return plan.columns * plan.rows, abs(plan.columns - plan.rows)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """The size of an image that may get smaller, not larger."""
    scale = min(1.0, scale)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _pieces(paragraph: str) -> list[tuple[str, str]]:
    """What stays on one line, each with the space before it, if any."""
    found: list[tuple[str, str]] = []
    for word in paragraph.split():
        parts = re.findall(r"[^-,)\]/]*[-,)\]/]+|[^-,)\]/]+", word)
        found += [(" " if not number else "", part) for number, part in enumerate(parts)]
    return found


@lru_cache(maxsize=4096)
def _spell(char: str) -> str | None:
    if char == "\n" or _drawable(char):
        return char
    if char.isspace():
        return " "
    if unicodedata.category(char) in ("Cf", "Cc", "Mn"):
        return ""  # a sign for layout, or an accent that stands alone
    if char in _SPELLINGS:
        return _SPELLINGS[char]
    plain = unicodedata.normalize("NFKD", char)
    name = re.fullmatch(r"GREEK .* LETTER (\w+)( WITH .*)?", unicodedata.name(plain[0], ""))
    if name is not None:
        return name[1].lower()
    letters = [part for part in plain if unicodedata.category(part) != "Mn"]
    if plain == char or not letters or not all(_drawable(part) for part in letters):
        return None
    return "".join(letters)


@lru_cache(maxsize=4096)
def _drawable(char: str) -> bool:
    """Whether the font has its own picture of a character: not the box of unknown ones."""
    return char == " " or bytes(_font(16).getmask(char)) != bytes(_font(16).getmask("\uffff"))


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The basic layout, whatever else this Pillow can do: the same lines everywhere.
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow has no FreeType; install a wheel of Pillow from PyPI")
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=64)
def _advances(size: int) -> _Advances:
    return _Advances(size)


class _Advances(dict[str, float]):
    """Character -> how far it moves the pen; kerning, which mostly narrows, is left to MARGIN."""

    def __init__(self, size: int):
        super().__init__()
        self._font = _font(size)

    def __missing__(self, char: str) -> float:
        return self.setdefault(char, self._font.getlength(char))


def _line_height(size: int) -> int:
    return sum(_font(size).getmetrics())

"""Folders of random rerankers of the tiny shape, whose label rows are scaled, so that logits spread
as real ones do; and contents for them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from PIL import Image

import unirank_jax
from unirank_jax import export
from unirank_jax.calibration import Calibration
from unirank_jax.config import preset
from unirank_jax.manifest import Manifest
from unirank_jax.model import Model
from unirank_jax.prompt import DEFAULT_INSTRUCTION

TOKENIZER = Path(unirank_jax.__file__).parent / "assets" / "tokenizer"
LABEL_IDS = (525, 462)


def picture(height: int, width: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def save(out: Path, prompt_id: str, max_tokens: int = 256, seed: int = 0) -> Path:
    """A folder with a random model of this prompt."""
    model = Model(preset("tiny"), nnx.Rngs(seed))
    table = model.text.embed.table
    table[...] = table[...].at[np.array(LABEL_IDS)].multiply(20.0)
    manifest = Manifest(
        prompt_id=prompt_id,
        instruction=DEFAULT_INSTRUCTION,
        label_tokens=("yes", "no"),
        label_ids=LABEL_IDS,
        min_visual_tokens=1,
        max_visual_tokens=16,
        max_tokens=max_tokens,
        max_query_tokens=48,
        calibration=Calibration(bias=0.5, temperature=2.0, fit_on="nothing"),
        base=None,
        base_revision=None,
        dtype="float32",
        train_config_hash=None,
    )
    return export.save_pretrained(out, model, manifest, TOKENIZER, "# a card\n", dtype="float32")


def candidates() -> list[Any]:
    """24 of every kind: short and long text, images of several sizes, mixed, interleaved."""
    found: list[Any] = []
    for n in range(6):
        image = picture(24 * (1 + n % 4), 24 * (1 + (n * 3) % 5), n)
        found += [
            f"passage number {n} " + "with more words " * n,
            image,
            {"text": f"figure {n}", "image": encoded(image)},
            [f"first {n}", image, "then", picture(48, 48, 100 + n)],
        ]
    return found


QUERY = "which of these is it?"

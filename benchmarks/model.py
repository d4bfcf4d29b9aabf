"""A reranker of about 100M parameters with random weights, in the published layout, for timing.

Its shape keeps the proportions of Qwen3-VL-2B (a visual token costs the tower about what it costs
the decoder). Labels are scaled so that logits spread like real ones and rankings mean something.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from flax import nnx

from train.initial import ASSETS
from unirank_jax.calibration import IDENTITY
from unirank_jax.config import ModelConfig, preset
from unirank_jax.export import save_pretrained
from unirank_jax.manifest import LABEL_TOKENS, Manifest
from unirank_jax.model import Model
from unirank_jax.prompt import DEFAULT_INSTRUCTION, DOCUMENT_FIRST
from unirank_jax.tokenizer import Tokenizer

MAX_VISUAL_TOKENS = 1024
LABEL_SCALE = 20.0


def hundred_million() -> ModelConfig:
    """102M parameters: 69M in ten decoder layers, 31M in the tower and its mergers."""
    tiny = preset("tiny")
    text = replace(
        tiny.text,
        width=768,
        depth=10,
        mlp_width=2304,
        heads=12,
        kv_heads=4,
        head_dim=64,
        rope_sections=(12, 10, 10),
    )
    vision = replace(
        tiny.vision,
        depth=10,
        width=384,
        mlp_width=1536,
        heads=6,
        patch_size=16,
        table_size=48 * 48,
        out_width=768,
        deepstack_layers=(2, 5),
    )
    return replace(tiny, text=text, vision=vision)


def document_first(folder: Path) -> Path:
    """The same weights with the prompt that puts the document first, beside the folder."""
    other = folder.with_name(folder.name + "-document-first")
    if not (other / "config.json").exists():
        shutil.copytree(folder, other)
        manifest = Manifest.read(folder)
        replace(manifest, prompt_id=DOCUMENT_FIRST).write(other)
    return other


def save(folder: Path, seed: int = 0) -> Path:
    """Write the model; what lies in `folder` already is used again."""
    if (folder / "config.json").exists():
        return folder
    tokenizer = ASSETS / "tokenizer"
    label_ids = tuple(Tokenizer.from_file(tokenizer).single(word) for word in LABEL_TOKENS)
    model = Model(hundred_million(), nnx.Rngs(seed))
    table = model.text.embed.table
    table[...] = table[...].at[np.array(label_ids)].multiply(LABEL_SCALE)
    manifest = Manifest(
        prompt_id="unirank-native-1",
        instruction=DEFAULT_INSTRUCTION,
        label_tokens=LABEL_TOKENS,
        label_ids=(label_ids[0], label_ids[1]),
        min_visual_tokens=4,
        max_visual_tokens=MAX_VISUAL_TOKENS,
        max_tokens=4096,
        max_query_tokens=512,
        calibration=IDENTITY,
        base=None,
        base_revision=None,
        dtype="float32",
        train_config_hash=None,
    )
    return save_pretrained(folder, model, manifest, tokenizer, "# for timing\n", dtype="float32")

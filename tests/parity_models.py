"""Small random Qwen3-VL models in torch, inputs for both sides, and the comparison.

Every branch is on: non-zero biases and norm scales, grouped heads, head_dim unlike width / heads,
unequal rotary sections, DeepStack at unequal layers, and label rows scaled so that logits spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

from benchmarks import torchvision_ops
from unirank_jax.batch import Batch
from unirank_jax.config import ModelConfig, TextConfig, VisionConfig
from unirank_jax.keys import entries, flatten, to_theirs
from unirank_jax.layers import Compute
from unirank_jax.model import Model, score
from unirank_jax.packing import compact_needs, needs, pack
from unirank_jax.weights import load_model

torchvision_ops.declare()
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration  # noqa: E402

torch.set_num_threads(1)  # models this small only lose time to threads

LABEL_IDS = (7, 11)  # both also occur as ordinary tokens in the sequences
IMAGE, VISION_START, VISION_END = 590, 592, 593
COMPUTE = Compute()
SPREAD = 2.0  # least standard deviation of the label logits


def tiny_config(
    *,
    tied: bool = True,
    text_depth: int = 3,
    deepstack_layers: tuple[int, ...] = (0, 2),
    vision_depth: int = 4,
) -> ModelConfig:
    """A network of a few thousand parameters with every branch of the published ones."""
    return ModelConfig(
        text=TextConfig(
            vocabulary=600,
            width=40,
            depth=text_depth,
            mlp_width=72,
            heads=4,
            kv_heads=2,
            head_dim=16,
            rope_theta=500.0,
            rope_sections=(3, 3, 2),
            norm_eps=1e-5,
            tied=tied,
            max_positions=1024,
        ),
        vision=VisionConfig(
            depth=vision_depth,
            width=24,
            mlp_width=52,
            heads=2,
            patch_size=4,
            merge_size=2,
            temporal_patch_size=2,
            table_size=25,
            out_width=40,
            deepstack_layers=deepstack_layers,
        ),
        image_token_id=IMAGE,
        video_token_id=591,
        vision_start_id=VISION_START,
        vision_end_id=VISION_END,
    )


@dataclass(frozen=True)
class Picture:
    """Random patches of a still image, as packing wants them."""

    pixels: np.ndarray
    grid: tuple[int, int]
    digest: bytes


@dataclass(frozen=True)
class Sequence_:
    """Token ids with their images."""

    tokens: np.ndarray
    images: tuple[Picture, ...] = ()

    def __add__(self, other: Sequence_) -> Sequence_:
        tokens = np.concatenate([self.tokens, other.tokens])
        return Sequence_(tokens, self.images + other.images)


def picture(random: np.random.Generator, rows: int, columns: int, config: ModelConfig) -> Picture:
    pixels = random.integers(0, 256, (rows * columns, config.vision.patch_dim), dtype=np.uint8)
    return Picture(pixels, (rows, columns), pixels.tobytes())


def words(random: np.random.Generator, count: int) -> Sequence_:
    return Sequence_(random.integers(0, 580, count).astype(np.int32))


def shown(image: Picture) -> Sequence_:
    """An image between its vision marks."""
    count = len(image.pixels) // 4
    ids = [VISION_START, *[IMAGE] * count, VISION_END]
    return Sequence_(np.array(ids, np.int32), (image,))


def mixed_pairs(config: ModelConfig, seed: int = 0) -> list[tuple[Sequence_, Sequence_]]:
    """(prefix, candidate) pairs: odd sizes, several images, image first, text only, image query;
    the longest candidate first."""
    random = np.random.default_rng(seed)

    def image(rows: int, columns: int) -> Sequence_:
        return shown(picture(random, rows, columns, config))

    def text(count: int) -> Sequence_:
        return words(random, count)

    labels = Sequence_(np.array(LABEL_IDS, np.int32))
    plain, pictured = text(9) + labels, text(4) + image(4, 10) + text(3)
    pairs = [
        (plain, text(12)),
        (plain, image(6, 2) + text(5)),
        (plain, text(3) + image(2, 14) + text(4) + image(10, 6) + text(6)),
        (plain, image(4, 4) + image(8, 6) + text(7)),
        (plain, text(1)),
        (pictured, text(10) + labels + text(2)),
        (pictured, image(2, 2) + text(8)),
        (pictured, text(2) + image(12, 4) + text(1)),
    ]
    return sorted(pairs, key=lambda pair: len(pair[1].tokens), reverse=True)


# ------------------------------------------------------------------------------------ torch side


def random_torch_model(
    config: ModelConfig, seed: int = 0, settle: bool = True
) -> Qwen3VLForConditionalGeneration:
    """A transformers model in fp32 whose every parameter matters (nothing left at 0 or 1).

    `settle` scales the label rows until the logits of `mixed_pairs` spread.
    """
    torch.manual_seed(seed)
    made = Qwen3VLConfig(**config.to_hf())
    made._attn_implementation = "eager"
    model = Qwen3VLForConditionalGeneration(made).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn_like(value)
            if name.endswith("bias"):
                value.copy_(0.3 * noise)
            elif "norm" in name:
                value.copy_(1 + 0.3 * noise)
            elif "embed_tokens" in name or "pos_embed" in name:
                value.copy_(noise)
            else:
                value.copy_(1.3 * noise / value[0].numel() ** 0.5)
        pairs = mixed_pairs(config) if settle else []
        for _ in range(4 * settle):  # the label words also occur in the sequences: a few rounds
            spread = torch.stack(torch_logits(model, pairs)).std()
            if spread >= SPREAD:
                break
            model.lm_head.weight[list(LABEL_IDS)] *= 1.2 * SPREAD / spread
    return model


def torch_inputs(sequence: Sequence_, config: Any) -> dict[str, torch.Tensor]:
    """Arguments of the transformers model for one sequence; a still image repeats its frame."""
    tokens = torch.tensor(sequence.tokens, dtype=torch.long)[None]
    inputs = {"input_ids": tokens, "mm_token_type_ids": (tokens == IMAGE).int()}
    if sequence.images:
        vision = config.vision_config
        rows = [
            torch.tensor(image.pixels)
            .float()
            .reshape(len(image.pixels), vision.in_channels, 1, vision.patch_size, vision.patch_size)
            for image in sequence.images
        ]
        pixels = torch.cat(rows) / 255.0
        pixels = ((pixels - 0.5) / 0.5).expand(-1, -1, vision.temporal_patch_size, -1, -1)
        inputs["pixel_values"] = pixels.reshape(len(pixels), -1)
        grids = [(1, *image.grid) for image in sequence.images]
        inputs["image_grid_thw"] = torch.tensor(grids, dtype=torch.long)
    return inputs


def torch_logits(
    model: Qwen3VLForConditionalGeneration, pairs: Sequence[tuple[Sequence_, Sequence_]]
) -> list[torch.Tensor]:
    """z_yes - z_no at the last token of prefix + candidate, one forward pass each."""
    out = []
    for prefix, candidate in pairs:
        inputs = torch_inputs(prefix + candidate, model.config)
        last = model(**inputs, logits_to_keep=1, use_cache=False).logits[0, -1]
        out.append(last[LABEL_IDS[0]] - last[LABEL_IDS[1]])
    return out


# -------------------------------------------------------------------------------------- our side


LAYOUTS = {
    "whole rows": {"shared": False},
    "shared prefix": {"shared": True},
    "shared prefix, no padding": {"shared": True, "compact": True},
}


def pack_pairs(
    config: ModelConfig,
    pairs: Sequence[tuple[Sequence_, Sequence_]],
    shared: bool,
    compact: bool = False,
) -> Batch:
    """One batch; `shared` puts each distinct prefix in the prefix rows, else all in the rows.
    `compact` computes the tokens and patches that exist, not the padding."""
    if shared:
        prefixes = list({id(prefix): prefix for prefix, _ in pairs}.values())
        index = [[p is prefix for p in prefixes].index(True) for prefix, _ in pairs]
        candidates = [candidate for _, candidate in pairs]
    else:
        prefixes, index = [Sequence_(np.zeros(0, np.int32))], [0] * len(pairs)
        candidates = [prefix + candidate for prefix, candidate in pairs]
    bucket = needs(prefixes, candidates)
    if compact:
        bucket = compact_needs(prefixes, candidates, lambda digest: 0)
        bucket = replace(
            bucket,
            cells=bucket.cells + 7,
            patch_cells=bucket.patch_cells + 12,
            prefix_cells=bucket.prefix_cells + 5 if shared else 0,
        )
    # Padding everywhere: one more prefix, row and image slot, and odd extra lengths.
    padded = replace(
        bucket,
        prefixes=bucket.prefixes + 1,
        prefix_tokens=bucket.prefix_tokens + 3 if shared else 0,
        rows=bucket.rows + 1,
        tokens=bucket.tokens + 5,
        images=bucket.images + 1 if bucket.images else 0,
        patches=bucket.patches + 8 if bucket.images else 0,
    )
    assert not compact or len(padded.blocks.sizes) == 4
    return pack(config, prefixes, candidates, index, padded)


def our_logits(model: Model, batch: Batch, count: int) -> np.ndarray:
    """The first `count` logits of a batch, compiled."""
    graph, state = nnx.split(model)

    def run(state: Any, batch: Batch) -> jax.Array:
        return score(nnx.merge(graph, state), batch, LABEL_IDS, COMPUTE)

    return np.asarray(jax.jit(run)(state, batch))[0, :count]


def our_gradients(
    model: Model, batch: Batch, weights: np.ndarray, compute: Compute = COMPUTE
) -> dict[str, np.ndarray]:
    """Gradient of sum(weights * logits) by published key, through the key table."""
    graph, state = nnx.split(model)

    def loss(state: Any, batch: Batch) -> jax.Array:
        logits = score(nnx.merge(graph, state), batch, LABEL_IDS, compute)
        return (logits[0, : len(weights)] * weights).sum()

    leaves = flatten(jax.jit(jax.grad(loss))(state, batch))
    out = {}
    for entry in entries(model.config):
        leaf = leaves[entry.name] if entry.offset is None else leaves[entry.name][entry.offset]
        out[entry.key] = to_theirs(np.asarray(leaf), entry.kind, model.config)
    return out


def torch_gradients(
    model: Qwen3VLForConditionalGeneration,
    pairs: Sequence[tuple[Sequence_, Sequence_]],
    weights: np.ndarray,
) -> dict[str, np.ndarray]:
    """The same gradient from torch, by parameter name (a tied head appears once)."""
    model.zero_grad()
    logits = torch.stack(torch_logits(model, pairs))
    (logits * torch.tensor(weights, dtype=torch.float32)).sum().backward()
    return {name: value.grad.numpy() for name, value in model.named_parameters()}


@dataclass(frozen=True)
class Twin:
    """A torch model and ours, loaded from the folder that torch saved."""

    config: ModelConfig
    theirs: Qwen3VLForConditionalGeneration
    ours: Model
    folder: Path


def make_twin(config: ModelConfig, folder: Path, seed: int = 0) -> Twin:
    theirs = random_torch_model(config, seed)
    theirs.save_pretrained(folder)
    return Twin(config, theirs, load_model(folder), folder)


def expected_logits(twin: Twin, pairs: Sequence[tuple[Sequence_, Sequence_]]) -> np.ndarray:
    """Logits of the torch model; a spread that would hide errors is refused."""
    with torch.no_grad():
        logits = np.array([float(logit) for logit in torch_logits(twin.theirs, pairs)])
    assert logits.std() >= SPREAD, logits
    return logits


def logit_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest logit error in units of the logits' standard deviation; printed (pytest -rP)."""
    error = float(np.abs(found - expected).max() / expected.std())
    print(f"largest error of a logit: {error:.1e} standard deviations")
    return error


def gradient_errors(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> dict[str, float]:
    """Per tensor: largest error relative to the largest entry of the expected gradient.

    An expected gradient of zero must be met exactly (error 0, else infinite). The largest is
    printed (pytest -rP).
    """
    assert set(found) == set(expected), set(found) ^ set(expected)
    errors = {}
    for key, value in expected.items():
        difference, scale = np.abs(found[key] - value).max(), np.abs(value).max()
        errors[key] = float(difference / scale) if scale else (np.inf if difference else 0.0)
    print(f"largest error of a gradient: {max(errors.values()):.1e} of its tensor's largest entry")
    return errors


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 products, and a compiler that is quick rather than clever."""
    quick = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with jax.default_matmul_precision("highest"):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", quick)

"""The parity check can fail: each classical porting mistake, made on purpose, turns it red."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from parity_models import (
    Twin,
    exact_arithmetic,
    expected_logits,
    logit_error,
    make_twin,
    mixed_pairs,
    our_logits,
    pack_pairs,
    tiny_config,
)

from unirank_jax import attention, keys, packing, text, vision
from unirank_jax.weights import load_model

TOLERANCE = 1e-5  # of tests/test_parity.py
FAR = 1e-3  # a mistake must stand out, not scratch the tolerance
FAR_GELU = 5e-5  # the two GELUs differ by at most 5e-4 at any input


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    with exact_arithmetic():
        yield


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return make_twin(tiny_config(), tmp_path_factory.mktemp("model"))


def error_of(twin: Twin) -> float:
    """The parity error of the code as it is now."""
    pairs = mixed_pairs(twin.config)
    found = our_logits(twin.ours, pack_pairs(twin.config, pairs, shared=True), len(pairs))
    return logit_error(found, expected_logits(twin, pairs))


def gelu(approximate_merger: bool) -> Callable[[pytest.MonkeyPatch], None]:
    real = jax.nn.gelu

    def wrong(x: jax.Array, approximate: bool = True) -> jax.Array:
        return real(x, approximate=True if approximate_merger else False)

    return lambda patch: patch.setattr(vision.jax.nn, "gelu", wrong)


def rope_base(module: Any) -> Callable[[pytest.MonkeyPatch], None]:
    real = module.inverse_frequencies
    return lambda patch: patch.setattr(
        module, "inverse_frequencies", lambda theta, size: real(theta * 2, size)
    )


def contiguous_sections(patch: pytest.MonkeyPatch) -> None:
    """Qwen2-VL's layout: time, height and width pairs in three runs."""
    patch.setattr(text, "rope_axes", lambda config: np.repeat(np.arange(3), config.rope_sections))


def token_index_after_image(patch: pytest.MonkeyPatch) -> None:
    """Text after an image continues at its token index instead of max + 1."""
    real = packing.rope_positions

    def wrong(tokens: Any, grids: Any, config: Any, start: int) -> tuple[np.ndarray, int]:
        positions, _ = real(tokens, grids, config, start)
        plain = np.asarray(tokens) != config.image_token_id
        positions[:, plain] = (start + np.arange(len(tokens)))[plain]
        return positions, start + len(tokens)

    patch.setattr(packing, "rope_positions", wrong)


def no_deepstack(patch: pytest.MonkeyPatch) -> None:
    real = vision.Vision.__call__

    def wrong(self: Any, images: Any, compute: Any) -> vision.Features:
        features = real(self, images, compute)
        return features._replace(deepstack=features.deepstack * 0)

    patch.setattr(vision.Vision, "__call__", wrong)


def swapped_deepstack(patch: pytest.MonkeyPatch) -> None:
    real = vision.Vision.__call__

    def wrong(self: Any, images: Any, compute: Any) -> vision.Features:
        features = real(self, images, compute)
        return features._replace(deepstack=features.deepstack[::-1])

    patch.setattr(vision.Vision, "__call__", wrong)


def attention_with(**changed: Any) -> Callable[[Any], Callable[[pytest.MonkeyPatch], None]]:
    real = attention.attend

    def wrong(*arguments: Any, **options: Any) -> jax.Array:
        return real(*arguments, **{**options, **changed})

    return lambda module: lambda patch: patch.setattr(module, "attend", wrong)


def prefix_padding_visible(patch: pytest.MonkeyPatch) -> None:
    real = attention.attend

    def wrong(*arguments: Any, prefixes: Any = (), **options: Any) -> jax.Array:
        seen = [p._replace(lengths=p.lengths * 0 + p.k.shape[1]) for p in prefixes]
        return real(*arguments, prefixes=seen, **options)

    patch.setattr(text, "attend", wrong)


def flat_positions(patch: pytest.MonkeyPatch) -> None:
    """The learned position table read at its nearest row, not interpolated."""
    real = packing.grid_indices

    def wrong(*arguments: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        where, index, weight = real(*arguments)
        return where, index, np.eye(4, dtype=np.float32)[weight.argmax(-1)]

    patch.setattr(packing, "grid_indices", wrong)


MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "tanh GELU in the mergers": gelu(approximate_merger=True),
    "erf GELU in the tower": gelu(approximate_merger=False),
    "rotary base of the decoder": rope_base(text),
    "rotary base of the tower": rope_base(vision),
    "M-RoPE sections in runs": contiguous_sections,
    "position after an image": token_index_after_image,
    "DeepStack missing": no_deepstack,
    "DeepStack at the wrong layer": swapped_deepstack,
    "no causal mask": attention_with(causal=False)(text),
    "causal mask in the tower": attention_with(causal=True)(vision),
    "padding patches attended": attention_with(key_lengths=None)(vision),
    "padding of the prefix attended": prefix_padding_visible,
    "positions not interpolated": flat_positions,
}


def test_unbroken_code_passes(twin: Twin) -> None:
    assert error_of(twin) < TOLERANCE


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_caught(twin: Twin, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    MUTATIONS[name](monkeypatch)
    assert error_of(twin) > (FAR_GELU if "GELU" in name else FAR)


SWAPS = {
    "gate and up": ("mlp.gate_proj", "mlp.up_proj"),
    "two norms": ("input_layernorm", "post_attention_layernorm"),
    "query and key norms": ("self_attn.q_norm", "self_attn.k_norm"),
    "tower norms": ("blocks.{l}.norm1", "blocks.{l}.norm2"),
}


@pytest.mark.parametrize("name", SWAPS)
def test_swapped_tensors_are_caught(twin: Twin, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Equal shapes hide a swapped key from every shape check; parity sees it."""
    one, other = SWAPS[name]

    def swap(key: str) -> str:
        if one in key:
            return key.replace(one, other)
        return key.replace(other, one) if other in key else key

    table = tuple((ours, swap(theirs), kind) for ours, theirs, kind in keys.TABLE)
    monkeypatch.setattr(keys, "TABLE", table)
    broken = dataclasses.replace(twin, ours=load_model(twin.folder))
    assert error_of(broken) > FAR

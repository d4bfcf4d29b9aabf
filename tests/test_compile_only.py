"""`--compile-only`: the step of a run compiled for devices that need not be there."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from tiny_reranker import preset

from train import compile_only
from train.compile_only import Memory, Plan, plan, remedy, render
from train.config import ConfigError, load
from train.flops import forward
from train.stage import SupervisedStage
from train.tpu_cost import CHIPS, Cost, seconds
from train.tpu_program import EstimateError
from unirank_jax.batch import Bucket

SETTINGS = ["batch.lists=4", "data.list_size=4", "data.max_visual_tokens=4", "mesh.tensor=2"]


def example(**changes: float) -> Plan:
    memory = Memory(4 << 30, 8 << 30, 0, 1 << 20, 1 << 30)
    return replace(
        Plan(
            "v5e:4x4",
            {"data": 1, "fsdp": 16, "tensor": 1},
            Bucket(2, 128, 16, 576, 16, 2048),
            memory,
            Cost(1e13, 1e11, 0, {"all-gather": 2e9}),
            seconds(Cost(1e13, 1e11, 0, {"all-gather": 2e9}), 0.0, CHIPS["v5e"]),
            1e14,
            0,
            CHIPS["v5e"],
            1,
        ),
        **changes,
    )


def test_what_to_change_first() -> None:
    config = load("configs/sci.py:2b", [])
    assert "13.00 of 16 GiB" in render(config, example()) and "fits: yes" in render(
        config, example()
    )
    large = example(memory=Memory(8 << 30, 16 << 30, 0, 0, 0))
    assert not large.fits and "take more chips, or LoRA" in remedy(config, large)
    spread = replace(large, mesh={"data": 4, "fsdp": 4, "tensor": 1})
    assert "give all devices to mesh.fsdp" in remedy(config, spread)
    activations = example(memory=Memory(1 << 30, 2 << 30, 0, 0, 20 << 30))
    assert "raise batch.accumulate" in remedy(config, activations)
    kept = load("configs/sci.py:2b", ["model.remat=dots"])
    assert "model.remat=full" in remedy(kept, activations)
    one = replace(activations, bucket=replace(activations.bucket, prefixes=1))
    assert "lower data.max_visual_tokens" in remedy(config, one)


def test_what_cannot_be_planned(
    eight_devices: list[jax.Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_only, "devices", lambda topology: eight_devices)
    config = load("configs/sci.py:2b", ["batch.lists=12"])
    with pytest.raises(ConfigError, match="batch.lists = 12 must be a multiple of 8 shards"):
        plan(config, "v5e:2x4", SupervisedStage(config).step)
    nameless = replace(config, model=replace(config.model, preset=""))
    with pytest.raises(ConfigError, match="model.preset names the shape"):
        plan(nameless, "v5e:2x4", SupervisedStage(nameless).step)


def test_a_loop_that_is_counted_once_is_no_estimate() -> None:
    compile_only._check_loops(0.95e15, 1e15)
    with pytest.raises(EstimateError, match="counts 5e.14 products of 1e.15 that are needed"):
        compile_only._check_loops(5e14, 1e15)


def test_products_are_those_of_the_matrices() -> None:
    """One row of one token after a prefix of one, no image: each matrix once, twice its size."""
    config = preset("tiny")
    text = config.text
    bucket = Bucket(1, 1, 1, 1, 0, 0)
    found = forward(config, bucket, prefixes=False)
    layer = text.width * (2 * text.heads + 2 * text.kv_heads) * text.head_dim
    layer += 3 * text.width * text.mlp_width
    assert found.decoder == 2 * layer * text.depth and found.tower == 0
    assert found.decoder_attention == 4 * 2 * text.heads * text.head_dim * (text.depth - 1)
    both = forward(config, bucket, prefixes=True)
    kv = 2 * text.width * text.kv_heads * text.head_dim
    assert both.decoder == 2 * (layer * text.depth + layer * (text.depth - 1) + kv)
    patches = config.vision.merge_unit
    seen = forward(config, replace(bucket, images=1, patches=patches), prefixes=False)
    vision = config.vision
    block = vision.width * (4 * vision.width + 2 * vision.mlp_width) * vision.depth
    joined = vision.width * vision.merge_unit
    mergers = joined * (joined + vision.out_width) * (1 + len(vision.deepstack_layers))
    expected = 2 * (patches * (block + vision.patch_dim * vision.width) + mergers)
    assert seen.tower == expected and np.isfinite(seen.total)

"""`--compile-only` as a whole, on CPU devices that stand for chips: five compilations, minutes.

Run as `python -m pytest tests/prove_compile_only.py -rP`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import pytest
from tiny_reranker import preset

from train import compile_only
from train.compile_only import plan, render
from train.config import load
from train.flops import forward
from train.stage import SupervisedStage

SETTINGS = ["batch.lists=4", "data.list_size=4", "data.max_visual_tokens=4", "mesh.tensor=2"]


def here(lower: Callable[..., Any], *arguments: Any) -> tuple[str, int]:
    """Without another process, which would not know the devices."""
    return lower(*arguments).compile().as_text(), 0


def test_a_step_is_planned(
    eight_devices: list[jax.Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CPU devices with a chip's peaks: four shards of one list, everything split over eight."""
    config = load("configs/sci.py:2b", SETTINGS)
    shape = preset("tiny")
    monkeypatch.setattr(compile_only, "preset", lambda name: shape)
    monkeypatch.setattr(compile_only, "devices", lambda topology: eight_devices)
    monkeypatch.setattr(compile_only, "optimised", here)
    found = plan(config, "v5e:2x4", SupervisedStage(config).step)
    assert found.mesh == {"data": 1, "fsdp": 4, "tensor": 2} and found.kernels == 0
    assert (found.bucket.prefixes, found.bucket.rows, found.bucket.images) == (1, 4, 4)
    parameters = found.memory.trained
    assert found.memory.moments == pytest.approx(2 * parameters, rel=0.01)
    assert found.memory.frozen == 0 and found.memory.temporaries > 0 and found.fits
    assert {"all-gather"} <= found.cost.collectives.keys()
    products = forward(shape, found.bucket, prefixes=True)
    assert found.needed_flops == pytest.approx(4 * 3 * products.total)
    # what eight chips compute: the need, what remat computes again, padding, losses, the update
    assert found.needed_flops < 8 * found.cost.flops < 4 * found.needed_flops
    told = render(config, found)
    assert "mesh data 1 x fsdp 4 x tensor 2" in told and "fits: yes" in told
    assert "nothing ran, seconds are estimates" in told

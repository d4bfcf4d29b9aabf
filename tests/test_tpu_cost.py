"""Estimates for TPUs: traffic between chips read from a program's text, and terms that add up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from train.tpu_cost import (
    CHIPS,
    Cost,
    chip_of,
    collective_bytes,
    cost_of,
    seconds,
    widened,
)
from train.tpu_program import EstimateError
from unirank_jax import sharding

LINES = """
  %all-gather.3 = bf16[4096,2048]{1,0:T(8,128)} all-gather(%p), replica_groups=[4,8]<=[32]
  %all-reduce.1 = (f32[100]{0}, f32[28]{0}) all-reduce(%a, %b), replica_groups={{0,1},{2,3}}
  %reduce-scatter.9 = f32[16,10]{1,0} reduce-scatter(%c), replica_groups=[1,4]<=[4], dimensions={0}
  %ag = (bf16[8,4]{1,0}, bf16[32,4]{1,0}) all-gather-start(%d), replica_groups=[1,4]<=[4]
  %done = bf16[32,4]{1,0} all-gather-done(%ag)
  %fusion.2 = bf16[4096,2048]{1,0} fusion(%all-gather.3), calls=%f
"""


def test_bytes_between_chips_are_read_from_the_program() -> None:
    found = collective_bytes(LINES, 32)
    assert found == {
        "all-gather": 7 / 8 * 4096 * 2048 * 2 + 3 / 4 * 32 * 4 * 2,
        "all-reduce": 2 * 1 / 2 * 128 * 4,
        "reduce-scatter": 3 / 4 * 4 * 160 * 4,
    }


def test_a_real_program_is_counted(eight_devices: list[jax.Device]) -> None:
    """x (64, 128) @ y (128, 32) with the inner dimension over eight devices: one all-reduce."""
    mesh = sharding.mesh(1, 1, 8, eight_devices)
    split = [NamedSharding(mesh, PartitionSpec(*s)) for s in ((None, "tensor"), ("tensor", None))]
    x, y = (
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
        for shape, place in zip(((64, 128), (128, 32)), split, strict=True)
    )
    program = jax.jit(jnp.matmul, out_shardings=NamedSharding(mesh, PartitionSpec()))
    found = cost_of(program.lower(x, y).compile().as_text(), 8)
    assert found.flops == 2 * 64 * 128 * 32 / 8
    assert found.collectives == {"all-reduce": 2 * 7 / 8 * 64 * 32 * 4}
    assert found.kernels == 0


def test_depth_is_a_difference_times_layers() -> None:
    one, two = Cost(10, 5, 1, {"all-gather": 3}), Cost(14, 6, 2, {"all-gather": 3, "all-reduce": 2})
    whole = one + (two - one) * 9
    assert (whole.flops, whole.traffic, whole.kernels) == (46, 14, 10)
    assert whole.collectives == {"all-gather": 3, "all-reduce": 18}


def test_terms_and_what_cannot_be() -> None:
    chip = CHIPS["v5e"]
    found = seconds(Cost(0.8 * chip.flops, 1.6 * chip.bandwidth, 2, {"a": chip.link}), 5e13, chip)
    assert found.products == pytest.approx(1.0) and found.memory == pytest.approx(2.0)
    assert found.kernels == pytest.approx(5e13 / (0.5 * chip.flops)) and found.links == 1.0
    assert found.total == pytest.approx(2.0 + found.kernels + 1.0)
    with pytest.raises(EstimateError, match="below zero: {'flops': -1"):
        seconds(Cost(-1, 0), 0.0, chip)
    with pytest.raises(EstimateError, match="2 kernel calls and 0 products"):
        seconds(Cost(1, 1, 2), 0.0, chip)
    assert chip_of("v6e:4x4") is CHIPS["v6e"]
    with pytest.raises(EstimateError, match="v9: no peaks of v9; choose one of v5e"):
        chip_of("v9")


def test_a_kernel_fills_whole_lanes() -> None:
    assert [widened(head) for head in (64, 128, 192)] == [2.0, 1.0, 256 / 192]

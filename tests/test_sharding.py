"""The mesh over several TPU slices, with devices that only say where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from unirank_jax import sharding


@dataclass(frozen=True)
class Chip:
    id: int
    slice_index: int
    coords: tuple[int, int, int]
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0


def two_slices() -> list[Any]:
    """Of 4 x 2 chips, the second one first."""
    places = [(s, x, y) for s in (1, 0) for y in range(2) for x in range(4)]
    return [Chip(8 * s + 4 * y + x, s, (x, y, 0), s) for s, x, y in places]


@pytest.mark.parametrize("sizes", [(2, 8, 1), (2, -1, 1), (4, 2, 2)])
def test_slices_lie_along_the_data_axis(sizes: tuple[int, int, int]) -> None:
    found = sharding.mesh(*sizes, two_slices())
    assert found.size == 16 and found.shape["data"] == sizes[0]
    slices = [{chip.slice_index for chip in row.flat} for row in found.devices]
    half = sizes[0] // 2
    assert slices == [{0}] * half + [{1}] * half


def test_slices_cannot_share_copies_of_the_parameters() -> None:
    with pytest.raises(sharding.ShardingError, match="data=1 over 2 slices; make data a multiple"):
        sharding.mesh(1, 16, 1, two_slices())

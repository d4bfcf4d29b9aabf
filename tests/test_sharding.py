"""The mesh over several TPU slices, with devices that only say where they are; parameters that are
spread over devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from parity_models import mixed_pairs, pack_pairs, tiny_config

from unirank_jax import sharding
from unirank_jax.layers import Compute, Dense
from unirank_jax.model import Model, score


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


def test_what_does_not_divide_is_told_once_with_what_does(eight_devices: list[jax.Device]) -> None:
    width = tiny_config().vision.width
    mesh = sharding.mesh(1, 7, 1, eight_devices[:7])
    state = nnx.state(Model.abstract(tiny_config()), nnx.Param)
    with pytest.raises(sharding.ShardingError) as raised:
        sharding.shardings(state, mesh)
    told = f"vision_embed = {width} does not divide by fsdp = 7 (fsdp=1 would do, with the other"
    assert str(raised.value).count(told) == 1
    assert "vision.patch.kernel, " in str(raised.value)


def test_gradients_over_a_mesh_are_those_of_one_device(eight_devices: list[jax.Device]) -> None:
    """A matrix is gathered before its product, and its gradient lies where the matrix does."""
    config = tiny_config(text_depth=2, vision_depth=2, deepstack_layers=(0,))
    model = Model(config, nnx.Rngs(0))
    shard = pack_pairs(config, mixed_pairs(config), shared=True)
    batch = jax.tree.map(lambda x: np.concatenate([x] * 4), shard)
    graph, state = nnx.split(model, nnx.Param)[:2]
    mesh = sharding.mesh(1, 4, 2, eight_devices)
    places = sharding.shardings(state, mesh)

    def total(state: Any, batch: Any, mesh: Any) -> jax.Array:
        compute = Compute("float32", "full", mesh=mesh)
        logits = score(nnx.merge(graph, state), batch, (1, 2), compute)
        return (logits * jnp.arange(1.0, 1 + logits.size).reshape(logits.shape)).sum()

    gradient = jax.jit(jax.grad(total), static_argnums=2)
    expected = gradient(state, batch, None)
    spread = jax.device_put(state, places)
    rows = jax.device_put(batch, sharding.batch_sharding(mesh))

    def same(path: Any, place: Any, ours: jax.Array, theirs: jax.Array) -> None:
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max() + 1e-9)
        if "kernel" in str(path):
            assert ours.sharding.is_equivalent_to(place, ours.ndim), (path, ours.sharding)

    jax.tree.map_with_path(same, places, gradient(spread, rows, mesh), expected)


def test_a_matrix_travels_in_the_dtype_of_the_product(eight_devices: list[jax.Device]) -> None:
    mesh = sharding.mesh(1, 4, 2, eight_devices)
    layer = Dense(nnx.Rngs(0), (8, 12), ("embed", "mlp"), bias=True)
    whole = sharding.gathered({"layer": layer, "other": jnp.ones(3)}, mesh, "bfloat16")
    kernel = whole["layer"].kernel[...]
    assert kernel.dtype == jnp.bfloat16 and kernel.sharding.spec == PartitionSpec(None, "tensor")
    assert whole["layer"].bias[...].dtype == jnp.float32 and whole["other"].shape == (3,)
    alone = sharding.gathered(layer, sharding.mesh(4, 1, 2, eight_devices), "bfloat16")
    assert alone is layer, "nothing is spread over fsdp"

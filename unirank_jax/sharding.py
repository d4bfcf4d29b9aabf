"""Mesh, logical-axis rules and shardings: which dimension of which array lives where.

Every parameter names its logical axes; one table maps a name to a mesh axis. A name that the table
does not know, a dimension that does not divide, or a mesh axis used twice is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # the leading shard axis S of a batch

RULES: Mapping[str, str | None] = {
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "vision_embed": "fsdp",
    "vision_heads": "tensor",
    "vision_mlp": "tensor",
    "vision_joined": "fsdp",
    "lora": None,
    "layers": None,
}


class ShardingError(ValueError):
    """A rule that cannot be honoured; the message lists every parameter concerned."""


def mesh(data: int, fsdp: int, tensor: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp, tensor) mesh; exactly one size may be -1 and is then derived.

    TPU slices lie along `data`: between them only the sums of gradients travel.

    Raises:
        ShardingError: the sizes do not multiply to the number of devices, or `data` not to that of
            slices.
    """
    available = list(jax.devices() if devices is None else devices)
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) == 1:
        known = int(np.prod([size for size in sizes if size != -1]))
        sizes[sizes.index(-1)] = len(available) // known
    if -1 in sizes or int(np.prod(sizes)) != len(available):
        raise ShardingError(
            f"mesh (data={data}, fsdp={fsdp}, tensor={tensor}) needs {abs(int(np.prod(sizes)))} "
            f"devices, {len(available)} are here; set one of the sizes to -1"
        )
    types = (AxisType.Auto,) * 3
    slices = len({getattr(d, "slice_index", 0) for d in available if d.platform == "tpu"})
    if slices > 1:
        if sizes[0] % slices:
            raise ShardingError(
                f"mesh data={sizes[0]} over {slices} slices; make data a multiple of {slices}, "
                "since slices hold copies of the parameters"
            )
        inside = (sizes[0] // slices, *sizes[1:])
        placed = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), available)
        return Mesh(placed, MESH_AXES, axis_types=types)
    # 128 of 16 x 16 chips are a part of an axis of the torus
    placed = mesh_utils.create_device_mesh(sizes, available, allow_split_physical_axes=True)
    return Mesh(placed, MESH_AXES, axis_types=types)


def shard_count(mesh: Mesh) -> int:
    """S: how many shards a batch has on this mesh."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def specification(
    shape: Sequence[int], axes: Sequence[str | None], mesh: Mesh
) -> tuple[PartitionSpec, list[str]]:
    """Where one parameter lives, and what is wrong with that (empty when nothing is)."""
    problems: list[str] = []
    if len(axes) != len(shape):
        return PartitionSpec(), [f"axes {tuple(axes)} for shape {tuple(shape)}"]
    places: list[str | None] = []
    for size, name in zip(shape, axes, strict=True):
        if name is not None and name not in RULES:
            problems.append(f"unknown logical axis {name!r}")
            continue
        place = None if name is None else RULES[name]
        if place is not None and mesh.shape[place] > 1:
            if place in places:
                problems.append(f"mesh axis {place!r} is used twice")
            if size % mesh.shape[place]:
                fits = gcd(size, mesh.shape[place])
                problems.append(
                    f"{name} = {size} does not divide by {place} = {mesh.shape[place]} "
                    f"({place}={fits} would do, with the other devices along mesh.data)"
                )
        places.append(place)
    return PartitionSpec(*places), problems


def shardings(state: nnx.State, mesh: Mesh) -> Any:
    """A NamedSharding for every parameter of an (abstract) state.

    Raises:
        ShardingError: lists every rule that cannot be honoured, with the remedy.
    """
    found: dict[Any, Any] = {}
    problems: dict[str, list[str]] = {}  # reason -> parameters
    flat = nnx.to_flat_state(state)
    for path, variable in flat:
        name = ".".join(str(part) for part in path)
        axes = variable.get_metadata("axes")
        spec, wrong = specification(variable.shape, axes, mesh)
        found[path] = variable.replace(NamedSharding(mesh, spec))
        for reason in wrong:
            problems.setdefault(reason, []).append(name)
    if problems:
        told = [f"{reason}: {', '.join(names)}" for reason, names in problems.items()]
        raise ShardingError("parameters that the mesh cannot hold: " + "; ".join(told))
    return nnx.from_flat_state(found)


def gathered(tree: Any, mesh: Mesh | None, dtype: str | None = None) -> Any:
    """The same tree, every parameter in it whole along `fsdp`; its gradient is spread again.

    Said outright, a matrix is gathered once and the product with it is one; left to itself the TPU
    compiler makes a loop that adds one device's share at a time to the whole result, whose traffic
    is that of the activations once per device.

    dtype: what matrices are cast to first; None: they travel as they are.
    """
    if mesh is None or mesh.shape["fsdp"] == 1:
        return tree

    def gather(parameter: Any) -> Any:
        if not isinstance(parameter, nnx.Variable):
            return parameter
        value = parameter[...]
        axes = parameter.get_metadata("axes")[-value.ndim :]  # of a stack's slice, its own
        spread, _ = specification(value.shape, axes, mesh)
        if "fsdp" not in spread:
            return parameter
        if dtype is not None and value.ndim > 1 and jnp.issubdtype(value.dtype, jnp.floating):
            value = value.astype(dtype)
        whole = PartitionSpec(*(None if place == "fsdp" else place for place in spread))
        places = NamedSharding(mesh, whole), NamedSharding(mesh, spread)
        return parameter.replace(_placed(value, *places))

    return jax.tree.map(gather, tree, is_leaf=lambda x: isinstance(x, nnx.Variable))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _placed(value: jax.Array, whole: NamedSharding, spread: NamedSharding) -> jax.Array:
    """A spread value, whole. Its gradient is whole first, too (for a product, see above), then
    spread: a sum of which every device keeps its share."""
    return jax.lax.with_sharding_constraint(value, whole)


def _back(whole: NamedSharding, spread: NamedSharding, _: None, change: Any) -> tuple[jax.Array]:
    whole_change = jax.lax.with_sharding_constraint(change, whole)
    return (jax.lax.with_sharding_constraint(whole_change, spread),)


_placed.defvjp(lambda value, whole, spread: (_placed(value, whole, spread), None), _back)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split along their leading shard axis over (data, fsdp)."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())

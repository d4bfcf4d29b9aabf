"""`--compile-only v6e:16x16`: the very step of a run, compiled for a TPU that is not there.

Prints whether it fits, the bytes of a chip by kind, what travels between chips, and an estimate of
seconds and MFU, term by term (train/tpu_cost.py). No data and no weights are read: every candidate
is taken to be an image of `data.max_visual_tokens` with some words. A program that is compiled here
runs there; how fast is an estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from train.config import ConfigError
from train.data import Micro, empty_targets
from train.flops import forward
from train.initial import make_layout
from train.overlap import OVERLAP, PICTURES
from train.ranking import RankingObjective
from train.settings import TrainConfig
from train.signals import Signals
from train.step import (
    Params,
    Step,
    TrainState,
    abstract_state,
    make_optimizer,
    micro_sharding,
    state_shardings,
)
from train.tpu_cost import (
    KERNEL_EFFICIENCY,
    MATMUL_EFFICIENCY,
    MEMORY_EFFICIENCY,
    Chip,
    Cost,
    Seconds,
    chip_of,
    cost_by_depth,
    cost_of,
    seconds,
    widened,
)
from train.tpu_program import EstimateError, compiled, devices, optimised
from unirank_jax import sharding
from unirank_jax.batch import Bucket
from unirank_jax.config import ModelConfig, preset
from unirank_jax.packing import pack

WORDS, QUERY = 64, 128  # tokens of text beside a candidate's image, and of a query with its frame
BACKWARD = 2.5  # an attention kernel's backward pass over its forward pass
LEAST = 0.9  # of the needed products, or the count is wrong
GIB = 2**30

MakeStep = Callable[[RankingObjective, Any, TrainState, Params, Mesh], Step]


@dataclass(frozen=True)
class Memory:
    """Bytes of one chip, by kind."""

    trained: int
    moments: int
    frozen: int
    batch: int
    temporaries: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.trained + self.moments + self.frozen + self.batch + self.temporaries


@dataclass(frozen=True)
class Plan:
    """What the compiler says of a run on a topology."""

    topology: str
    mesh: dict[str, int]
    bucket: Bucket
    memory: Memory
    cost: Cost
    seconds: Seconds
    needed_flops: float  # of one update on all chips
    kernels: int  # in the whole program, loops counted once
    chip: Chip
    micro_batches: int

    @property
    def fits(self) -> bool:
        """Whether a chip holds it."""
        return self.memory.total <= self.chip.memory

    @property
    def mfu(self) -> float:
        """Needed products over what the chips could do in the estimated time."""
        chips = int(np.prod(list(self.mesh.values())))
        return self.needed_flops / (self.seconds.total * chips * self.chip.flops)


def plan(
    config: TrainConfig,
    topology: str,
    make_step: MakeStep,
    *,
    signals: bool = False,
    machine_code: bool = True,
) -> Plan:
    """Compile the whole step for its memory, and shallow ones for its cost.

    make_step: (objective, optimizer, shardings of the state, frozen parameters, mesh) -> the update
    of the stage, which reads side information of the lists if it has `signals`.
    machine_code: compile the whole step to its end, which takes most of the time; the plan is the
    same without.

    Raises:
        ConfigError: a configuration without a preset, or lists that do not divide.
        EstimateError: no TPU compiler, or counts that do not add up.
    """
    chip, mesh = chip_of(topology), _mesh(config, topology)
    chips = mesh.devices.size
    if not config.model.preset:
        raise ConfigError("--compile-only: model.preset names the shape; set it to 2b, 4b or 8b")
    model = preset(config.model.preset)
    bucket = _bucket(config, model, sharding.shard_count(mesh))
    lowered, state, frozen, batch = _lowered(config, model, bucket, mesh, make_step, signals)

    def alone(config: TrainConfig, shape: ModelConfig) -> tuple[str, int]:
        return optimised(_lowered_alone, config, shape, bucket, topology, make_step, signals)

    text, total = compiled(lowered) if machine_code else alone(config, model)
    trained, moments = _bytes(state.trainable), _bytes(state.optimizer)
    kept, fed = _bytes(frozen), _bytes(batch)
    memory = Memory(trained, moments, kept, fed, total - trained - moments - kept - fed)

    short = _short(config)
    one = cost_by_depth(model, lambda shape: cost_of(alone(short, shape)[0], chips))
    cost = one * config.batch.accumulate
    updates = config.batch.accumulate * sharding.shard_count(mesh)
    products = forward(model, bucket, prefixes=True)
    passes = 2.0 if config.lora.rank else 3.0  # no gradient of a frozen kernel
    sees = any(name.startswith("vision.") for name in state.trainable)  # the tower is trained
    tower = 3.0 if sees else 1.0
    matrices = updates * (passes * products.decoder + tower * products.tower)
    attention = updates * (3.0 * products.decoder_attention + tower * products.tower_attention)
    needed = matrices + attention
    _check_loops(cost.flops * chips, matrices if cost.kernels else needed)
    again = 1.0 if config.model.remat == "full" else 0.0
    kernel = updates * (
        (1.0 + again + BACKWARD) * products.decoder_attention * widened(model.text.head_dim)
        + (1.0 + (again + BACKWARD) * sees)
        * products.tower_attention
        * widened(model.vision.head_dim)
    )
    kernel_flops = kernel / chips if cost.kernels else 0.0
    return Plan(
        topology,
        dict(mesh.shape),
        bucket,
        memory,
        cost,
        seconds(cost, kernel_flops, chip),
        needed,
        text.count('custom_call_target="tpu_custom_call"'),
        chip,
        config.batch.accumulate,
    )


def _check_loops(counted: float, needed: float) -> None:
    """All chips' products are no fewer than what is needed, up to how the compiler counts."""
    if counted < LEAST * needed:
        raise EstimateError(
            f"the compiler counts {counted:.3g} products of {needed:.3g} that are needed: it made "
            "a loop of some, which it counts once; the estimate would be wrong"
        )


def render(config: TrainConfig, found: Plan) -> str:
    """The plan in words and numbers."""
    memory, took = found.memory, found.seconds
    axes = " x ".join(f"{name} {size}" for name, size in found.mesh.items())
    bucket = found.bucket
    sizes = sorted(found.cost.collectives.items())
    traffic = ", ".join(f"{kind} {size / GIB:.2f} GiB" for kind, size in sizes)
    lines = [
        f"{config.name} on {found.topology}, mesh {axes}; nothing ran, seconds are estimates",
        f"shard: {bucket.prefixes} queries of {bucket.prefix_tokens} tokens, {bucket.rows} "
        f"candidates of {bucket.tokens}, {bucket.images} images of {bucket.patches} patches; "
        f"{found.micro_batches} micro-batches an update",
        "bytes of a chip: "
        + ", ".join(
            f"{name} {getattr(memory, name) / GIB:.2f}"
            for name in ("trained", "moments", "frozen", "batch", "temporaries")
        )
        + f"; {memory.total / GIB:.2f} of {found.chip.memory / GIB:.0f} GiB",
        f"fits: {'yes' if found.fits else 'no; ' + remedy(config, found)}",
        f"kernels: {found.kernels} calls, loops counted once",
        f"between chips: {traffic or 'nothing'}",
        f"products of a chip: {found.cost.flops:.3g}, of which all chips need "
        f"{found.needed_flops:.3g}",
        f"seconds: products {took.products:.3f} (at {MATMUL_EFFICIENCY:.0%} of the peak), memory "
        f"{took.memory:.3f} (at {MEMORY_EFFICIENCY:.0%}), attention kernels {took.kernels:.3f} (at "
        f"{KERNEL_EFFICIENCY:.0%}), links {took.links:.3f}; together {took.total:.3f}",
        f"MFU: {100 * found.mfu:.0f} %",
    ]
    return "\n".join(lines)


def remedy(config: TrainConfig, found: Plan) -> str:
    """The first thing to change in a plan that does not fit."""
    memory = found.memory
    kept = memory.trained + memory.moments + memory.frozen
    if kept > 0.6 * found.chip.memory:
        if found.mesh["fsdp"] < int(np.prod(list(found.mesh.values()))):
            return "give all devices to mesh.fsdp, so that parameters and moments are split further"
        return "parameters and moments alone are too large: take more chips, or LoRA (lora.rank=16)"
    if config.model.remat != "full":
        return "set model.remat=full"
    if found.bucket.prefixes > 1:
        return f"raise batch.accumulate (now {config.batch.accumulate}): fewer lists at a time"
    return "lower data.max_visual_tokens or data.list_size, or raise mesh.tensor"


def _bucket(config: TrainConfig, model: ModelConfig, shards: int) -> Bucket:
    """A shard in which every candidate has an image of the largest size."""
    batch = config.batch
    if batch.lists % (shards * batch.accumulate):
        raise ConfigError(
            f"batch.lists = {batch.lists} must be a multiple of {shards} shards (mesh data x fsdp) "
            f"x {batch.accumulate} (batch.accumulate)"
        )
    lists = batch.lists // (shards * batch.accumulate)
    rows = lists * config.data.list_size // batch.chunks
    tokens = config.data.max_visual_tokens + WORDS
    patches = config.data.max_visual_tokens * model.vision.merge_unit
    return Bucket(
        prefixes=lists,
        prefix_tokens=QUERY,
        rows=rows,
        tokens=tokens,
        images=rows,
        patches=patches,
        cells=rows * tokens,
        patch_cells=rows * patches,
    ).padded_where_full


def _mesh(config: TrainConfig, topology: str) -> Mesh:
    axes = config.mesh
    return sharding.mesh(axes.data, axes.fsdp, axes.tensor, list(devices(topology)))


def _lowered_alone(
    config: TrainConfig,
    model: ModelConfig,
    bucket: Bucket,
    topology: str,
    make_step: MakeStep,
    signals: bool,
) -> Any:
    """`_lowered` in a process that knows no device yet."""
    mesh = _mesh(config, topology)
    return _lowered(config, model, bucket, mesh, make_step, signals)[0]


def _lowered(
    config: TrainConfig,
    model: ModelConfig,
    bucket: Bucket,
    mesh: Mesh,
    make_step: MakeStep,
    signals: bool,
) -> tuple[Any, TrainState, Params, Micro]:
    """The update before it is compiled, and what it takes, abstract: state, frozen parameters and
    batch."""
    for name in (OVERLAP, PICTURES):
        if name in config.loss:
            raise ConfigError(f"loss.{name}: for small models that need no pod; leave it out")
    layout, _ = make_layout(model, config.lora, config.seed)
    places = layout.shardings(mesh)
    names = layout.select(config.freeze)
    shapes: dict[str, Any] = {
        name: jax.ShapeDtypeStruct(
            variable.shape,
            jnp.dtype("float32" if name in names else config.model.frozen_dtype),
            sharding=places[name],
        )
        for name, variable in layout.variables.items()
    }
    trained = {name: shapes[name] for name in names}
    frozen = {name: shape for name, shape in shapes.items() if name not in trained}
    optimizer = make_optimizer(config.optimizer, config.schedule)
    state_places = state_shardings(optimizer, trained, places, mesh)
    objective = RankingObjective(layout, (0, 1), config, mesh)
    step = make_step(objective, optimizer, state_places, frozen, mesh)
    state = abstract_state(optimizer, trained, state_places)
    batch = _batch(config, model, bucket, mesh, signals)
    return step.jitted.lower(state, frozen, batch), state, frozen, batch


def _batch(
    config: TrainConfig, model: ModelConfig, bucket: Bucket, mesh: Mesh, signals: bool
) -> Micro:
    """The arrays of an update, abstract."""
    place, shards = micro_sharding(mesh), sharding.shard_count(mesh)
    size = config.data.list_size // config.batch.chunks
    lists = bucket.rows // size
    each = np.zeros((1, lists, size), np.float32)
    preferences = np.zeros((1, lists, size, config.data.list_size), np.float32)
    one = Micro(
        pack(model, [], [], [], bucket),
        empty_targets(lists, size),
        Signals(preferences, each, each, each.astype(np.int32)) if signals else None,
    )
    count = config.batch.accumulate * config.batch.chunks
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((count, shards, *x.shape[1:]), x.dtype, sharding=place), one
    )


def _short(config: TrainConfig) -> TrainConfig:
    """One micro-batch, layers written out."""
    batch = config.batch
    return replace(
        config,
        model=replace(config.model, unroll=True),
        batch=replace(batch, lists=batch.lists // batch.accumulate, accumulate=1),
    )


def _bytes(tree: Any) -> int:
    """Of one device."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )

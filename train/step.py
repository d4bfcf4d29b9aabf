"""One update: micro-batches in, new state out, jitted once with explicit shardings and donation.

Parameters are flat dictionaries from dotted paths to arrays: the trained ones in float32, the
frozen ones apart from the optimizer in their own dtype. The mesh is (data, fsdp, tensor), always.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.config import ConfigError
from train.settings import OptimizerSettings, ScheduleSettings
from unirank_jax import sharding
from unirank_jax.int8 import refuse
from unirank_jax.layers import LoRAParam
from unirank_jax.model import Model

Array = jax.Array
Params = dict[str, Array]
Pair = tuple[Array, Array]
MUON_RMS = 0.2  # root mean square of an update per unit of learning rate, about that of AdamW
PATCHES = "vision.patch.kernel"  # takes pixels, not features


class TrainState(NamedTuple):
    """Everything that an update changes, and a checkpoint stores (or its shapes, or shardings)."""

    step: Any  # () int32: updates done
    trainable: dict[str, Any]  # float32
    optimizer: Any


@dataclass(frozen=True)
class Step:
    """A compiled update with its frozen parameters: (state, batch) -> (state, metrics)."""

    jitted: Any
    frozen: Params

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        return self.jitted(state, self.frozen, batch)

    @property
    def programs(self) -> int:
        """How many programs were compiled: one per batch shape."""
        return self.jitted._cache_size()


class Objective(Protocol):
    """What is minimised: sum over names of weight * (sum of sums) / (sum of counts)."""

    def __call__(self, params: Params, micro: Any) -> tuple[dict[str, Pair], dict[str, Any]]:
        """Terms (sum, count) of a micro-batch, and further metrics of it."""

    def counts(self, micro: Any) -> dict[str, Array]:
        """The counts of the terms, which do not depend on the parameters."""


@dataclass(frozen=True)
class Layout:
    """A model's structure apart from its arrays: how flat parameters become a `Model` again."""

    graph: Any
    variables: Mapping[str, Any]  # dotted path -> abstract nnx.Param
    paths: Mapping[str, tuple[Any, ...]]

    @staticmethod
    def of(model: Model) -> Layout:
        """The layout of a (possibly abstract) model.

        Raises:
            Int8Error: its weights are in 8 bits.
        """
        refuse(model, "trained")
        graph, state = nnx.split(model)
        flat = {".".join(map(str, path)): (path, v) for path, v in nnx.to_flat_state(state)}
        abstract = {
            name: variable.replace(jax.ShapeDtypeStruct(variable.shape, variable.dtype))
            for name, (_, variable) in flat.items()
        }
        return Layout(graph, abstract, {name: path for name, (path, _) in flat.items()})

    def model(self, params: Mapping[str, Any]) -> Model:
        """The model with these parameters.

        Raises:
            ConfigError: the names are not those of this model, as in a run of another version.
        """
        missing, unknown = self.variables.keys() - params.keys(), params.keys() - self.variables
        if missing or unknown:
            raise ConfigError(
                f"the parameters are not this model's: {len(missing)} missing "
                f"({', '.join(sorted(missing)[:3])}), {len(unknown)} unknown "
                f"({', '.join(sorted(unknown)[:3])}); export a run of another version of "
                "unirank_jax with that version, any version reads the export"
            )
        pairs = {self.paths[name]: v.replace(params[name]) for name, v in self.variables.items()}
        return nnx.merge(self.graph, nnx.from_flat_state(pairs))

    def shardings(self, mesh: Mesh) -> dict[str, NamedSharding]:
        """Where each parameter lives, from its logical axes (unirank_jax.sharding)."""
        pairs = {self.paths[name]: variable for name, variable in self.variables.items()}
        placed = nnx.to_flat_state(sharding.shardings(nnx.from_flat_state(pairs), mesh))
        return {".".join(map(str, path)): variable.get_value() for path, variable in placed}

    def select(self, freeze: Sequence[str]) -> tuple[str, ...]:
        """Names of the trained parameters: the adapters alone if there are any, else all that
        match no pattern of `freeze` (regular expressions over whole dotted paths).

        Raises:
            ConfigError: a pattern that matches nothing, or nothing left to train.
        """
        unused = [p for p in freeze if not any(re.fullmatch(p, name) for name in self.variables)]
        if unused:
            some = ", ".join(list(self.variables)[:3])
            raise ConfigError(
                f"freeze: {', '.join(map(repr, unused))} matches no parameter; "
                f"paths are like {some}"
            )
        adapters = any(isinstance(v, LoRAParam) for v in self.variables.values())
        chosen = tuple(
            name
            for name, variable in self.variables.items()
            if isinstance(variable, LoRAParam) == adapters
            and not any(re.fullmatch(pattern, name) for pattern in freeze)
        )
        if not chosen:
            raise ConfigError("freeze: every parameter is frozen; leave some to train")
        return chosen


def make_optimizer(
    settings: OptimizerSettings, schedule: ScheduleSettings
) -> optax.GradientTransformation:
    """AdamW or Muon after global-norm clipping; linear warm-up, cosine. Matrices alone decay."""
    rate = learning_rate(settings, schedule)

    def matrices(params: Params) -> dict[str, bool]:
        return {n: n.endswith(".kernel") and n != PATCHES for n in params}

    muon = optax.chain(
        optax.contrib.scale_by_muon(eps=settings.eps, weight_dimension_numbers=_each_matrix),
        optax.stateless(lambda changes, _: jax.tree.map(_evened, changes)),
        optax.add_decayed_weights(settings.weight_decay),
        optax.scale_by_learning_rate(rate),
    )
    adamw = optax.adamw(
        rate,
        b1=settings.beta1,
        b2=settings.beta2,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        mask=lambda params: {n: n.endswith(("kernel", "lora_a", "lora_b")) for n in params},
    )
    clip = optax.clip_by_global_norm(settings.clip_norm)
    if settings.method == "adamw":
        return optax.chain(clip, adamw)
    rest = optax.masked(adamw, lambda params: {n: not yes for n, yes in matrices(params).items()})
    return optax.chain(clip, optax.masked(muon, matrices), rest)


def _each_matrix(params: Params) -> Any:
    """Kernels are (in, out) or (layers, in, out); every layer by itself."""
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), params)


def _evened(change: Array) -> Array:
    """An orthogonal change with the root mean square MUON_RMS, whatever its shape."""
    return change * (MUON_RMS * max(change.shape[-2:]) ** 0.5)


def learning_rate(settings: OptimizerSettings, schedule: ScheduleSettings) -> optax.Schedule:
    """Learning rate of update n = 0, 1, ...: rises over `warmup_steps`, then falls as a cosine."""
    if not 0 <= schedule.warmup_steps < schedule.steps:
        raise ConfigError(
            f"schedule.warmup_steps = {schedule.warmup_steps} must be at least 0 and below "
            f"schedule.steps = {schedule.steps}"
        )
    return optax.warmup_cosine_decay_schedule(
        0.0 if schedule.warmup_steps else settings.lr,
        settings.lr,
        schedule.warmup_steps,
        schedule.steps,
        settings.lr * schedule.final_fraction,
    )


def state_shardings(
    optimizer: optax.GradientTransformation,
    abstract: Mapping[str, Any],
    places: Mapping[str, NamedSharding],
    mesh: Mesh,
) -> TrainState:
    """Shardings of a `TrainState`: the optimizer's moments lie where their parameters lie."""
    everywhere = sharding.replicated(mesh)
    own = {name: places[name] for name in abstract}
    moments = optax.tree_utils.tree_map_params(
        optimizer,
        lambda moment, place: moment if isinstance(moment, optax.MaskedNode) else place,
        jax.eval_shape(optimizer.init, abstract),
        own,
        transform_non_params=lambda _: everywhere,
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )
    return TrainState(everywhere, own, moments)


def abstract_state(
    optimizer: optax.GradientTransformation, abstract: dict[str, Any], places: TrainState
) -> TrainState:
    """Shapes, dtypes and shardings of a `TrainState`, as a checkpoint is restored into."""
    shapes = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32), abstract, jax.eval_shape(optimizer.init, abstract)
    )
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
    )


def initial_state(
    optimizer: optax.GradientTransformation, trainable: Params, places: TrainState
) -> TrainState:
    """Step 0 of a run that starts from these parameters."""
    moments = jax.jit(optimizer.init, out_shardings=places.optimizer)(trainable)
    return TrainState(jax.device_put(jnp.int32(0), places.step), trainable, moments)


def make_step(
    objective: Objective,
    weights: Mapping[str, float],
    optimizer: optax.GradientTransformation,
    rate: optax.Schedule,
    places: TrainState,
    frozen: Params,
    mesh: Mesh,
) -> Step:
    """The jitted update (state, batch) -> (state, metrics).

    Every array of a batch is (M, S, ...): M micro-batches, S shards of (data, fsdp). The gradient
    is that of the whole update at once, since the terms' counts are summed over all micro-batches
    first. The state is donated. Metrics: loss, grad_norm, learning_rate, every term and what the
    objective adds, as scalars or (sum, count) pairs.
    """

    def update(state: TrainState, frozen: Params, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        counts = jax.tree.map(lambda x: x.sum(0), jax.vmap(objective.counts)(batch))

        def loss_of(trainable: Params, micro: Any) -> tuple[Array, Any]:
            terms, extra = objective({**frozen, **trainable}, micro)
            scaled = [weights[k] * terms[k][0] / jnp.maximum(counts[k], 1.0) for k in weights]
            return jnp.stack(scaled).sum(), (terms, extra)

        def accumulate(total: Any, micro: Any) -> tuple[Any, None]:
            (loss, more), gradient = jax.value_and_grad(loss_of, has_aux=True)(
                state.trainable, micro
            )
            return jax.tree.map(jnp.add, total, (loss, more, gradient)), None

        first = jax.tree.map(lambda x: x[0], batch)
        micro_batches = jax.tree.leaves(batch)[0].shape[0]
        if micro_batches == 1:  # no loop, and no second copy of the gradient
            (loss, (terms, extra)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
                state.trainable, first
            )
        else:
            shapes = jax.eval_shape(
                lambda t, m: _reordered(jax.value_and_grad(loss_of, has_aux=True)(t, m)),
                state.trainable,
                first,
            )
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            (loss, (terms, extra), gradient), _ = jax.lax.scan(accumulate, zeros, batch)
        state, metrics = advanced(state, gradient, optimizer, rate, places)
        return state, {"loss": loss, **metrics, **terms, **extra}

    return compiled(update, places, frozen, mesh)


def advanced(
    state: TrainState,
    gradient: Params,
    optimizer: optax.GradientTransformation,
    rate: optax.Schedule,
    places: TrainState,
) -> tuple[TrainState, dict[str, Any]]:
    """The state after an update with this gradient, and the metrics grad_norm and learning_rate."""
    gradient = jax.lax.with_sharding_constraint(gradient, places.trainable)
    changes, moments = optimizer.update(gradient, state.optimizer, state.trainable)
    trainable = optax.apply_updates(state.trainable, changes)
    metrics = {"grad_norm": optax.tree.norm(gradient), "learning_rate": rate(state.step)}
    return TrainState(state.step + 1, trainable, moments), metrics


def compiled(update: Any, places: TrainState, frozen: Params, mesh: Mesh) -> Step:
    """The jitted (state, frozen, batch) -> (state, metrics); the state is donated."""
    jitted = jax.jit(
        update,
        in_shardings=(places, jax.tree.map(lambda x: x.sharding, frozen), micro_sharding(mesh)),
        out_shardings=(places, sharding.replicated(mesh)),
        donate_argnums=0,
    )
    return Step(jitted, frozen)


def micro_sharding(mesh: Mesh) -> NamedSharding:
    """Placement of (M, S, ...) arrays."""
    return NamedSharding(mesh, PartitionSpec(None, sharding.BATCH_AXES))


def _reordered(result: Any) -> Any:
    (loss, more), gradient = result
    return loss, more, gradient

"""The update of stage 2: the exact gradient with the activations of one micro-batch in memory.

The loss depends on the network only through the logits. So all micro-batches are scored first, the
loss of the whole update gives the slope of every logit, and each micro-batch is then scored again
and pulled back by its slopes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from train import alignment
from train.alignment import AnchorSettings, Lists, PolicySettings
from train.data import Micro
from train.losses import Pair, Scores, arrange
from train.ranking import RankingObjective
from train.settings import TrainConfig
from train.step import Params, Step, TrainState, advanced, compiled

Array = jax.Array


def make_policy_step(
    objective: RankingObjective,
    policy: PolicySettings,
    anchor: AnchorSettings,
    seed: int,
    optimizer: optax.GradientTransformation,
    rate: optax.Schedule,
    places: TrainState,
    frozen: Params,
    mesh: Mesh,
) -> Step:
    """The jitted update (state, batch) -> (state, metrics); the state is donated.

    The orders of update n are drawn with the key (seed, n). Metrics as in train/step.py.
    """

    def update(state: TrainState, frozen: Params, batch: Micro) -> tuple[TrainState, Any]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        lists = lists_of(batch, objective.config)

        def margins(trainable: Params, micro: Micro) -> Array:
            return objective.scores({**frozen, **trainable}, micro)

        def loss(logits: Array) -> tuple[Array, dict[str, Pair]]:
            return alignment.loss(logits, lists, key, policy, anchor)

        chunks = objective.config.batch.chunks
        value, parts, gradient = two_pass(margins, loss, state.trainable, batch, chunks)
        state, metrics = advanced(state, gradient, optimizer, rate, places)
        return state, {"loss": value, **metrics, **parts}

    return compiled(update, places, frozen, mesh)


def two_pass(
    margins: Callable[[Params, Any], Array],
    loss: Callable[[Array], tuple[Array, dict[str, Pair]]],
    trainable: Params,
    batch: Any,
    chunks: int = 1,
) -> tuple[Array, dict[str, Pair], Params]:
    """Loss, its parts and the gradient of a batch of M micro-batches (leading axis).

    margins: (trainable, one micro-batch) -> logits (S, G, C). loss: of all logits, (Q, C) with
    Q = M * S * G, -> (value, parts). With chunks, C is a part of a list and Q so much less: see
    `whole`.
    """

    def slopes(logits: Array) -> tuple[tuple[Array, dict[str, Pair]], Array]:
        return jax.value_and_grad(lambda some: loss(whole(some, chunks)), has_aux=True)(logits)

    if jax.tree.leaves(batch)[0].shape[0] == 1:  # nothing to save: one pass
        only = jax.tree.map(lambda x: x[0], batch)
        logits, pull = jax.vjp(lambda p: margins(p, only)[None], trainable)
        (value, parts), slope = slopes(logits)
        return value, parts, pull(slope)[0]

    logits = jax.lax.map(lambda micro: margins(trainable, micro), batch)
    (value, parts), slope = slopes(logits)

    def pull_back(total: Params, inputs: tuple[Any, Array]) -> tuple[Params, None]:
        micro, own = inputs
        _, pull = jax.vjp(lambda p: margins(p, micro), trainable)
        return jax.tree.map(jnp.add, total, pull(own)[0]), None

    zeros = jax.tree.map(jnp.zeros_like, trainable)
    gradient, _ = jax.lax.scan(pull_back, zeros, (batch, slope))
    return value, parts, gradient


def whole(values: Array, chunks: int) -> Array:
    """Whole lists of values by candidate: (M * chunks, S, G, C, ...) -> (M * S * G, chunks * C,
    ...). The chunks of a list lie in micro-batches that follow each other."""
    batches, shards, lists, count, *rest = values.shape
    parts = values.reshape(batches // chunks, chunks, shards, lists, count, *rest)
    return jnp.moveaxis(parts, 1, 3).reshape(-1, chunks * count, *rest)


def lists_of(batch: Micro, config: TrainConfig) -> Lists:
    """What is known of all lists of a batch, (Q, C): micro-batches and shards in turn."""
    assert batch.signals is not None

    def flat(x: Array) -> Array:
        return whole(x, config.batch.chunks)

    targets = batch.targets._replace(label_row=jnp.zeros_like(batch.targets.label_row))
    nothing = Scores(jnp.zeros((*targets.grade.shape[:2], 1), jnp.float32))
    found = jax.vmap(lambda scores, some: arrange(scores, some, config.target, config.max_grade))(
        nothing, targets
    )
    mask = flat(found.mask)
    return Lists(
        mask=mask,
        target=flat(found.target),
        gain=jnp.where(mask, 2.0 ** flat(found.grade) - 1.0, 0.0),
        relevant=flat(found.relevant),
        reference=jnp.where(mask, flat(batch.signals.reference), 0.0),
        reward=jnp.where(mask, flat(batch.signals.reward), 0.0),
        preferences=flat(batch.signals.preferences),
    )

"""A classifier that reads a candidate's modality off its label state, and a body that hides it.

The classifier is linear and lives beside the network only while it is trained. Its gradient reaches
the network with its sign turned round (Ganin et al., JMLR 2016), so `loss.adversary` is how much
the network pays for a state that tells texts from images: what it then prefers, it does not prefer
for its form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from train.data import Micro
from train.losses import Pair
from unirank_jax.content import MODALITIES

Array = jax.Array
KERNEL, BIAS = "adversary.kernel", "adversary.bias"


def fresh(width: int) -> dict[str, Array]:
    """The classifier of a run's first step: it knows nothing."""
    count = len(MODALITIES)
    return {KERNEL: jnp.zeros((width, count)), BIAS: jnp.zeros(count)}


def network(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters without the classifier's."""
    return {name: value for name, value in params.items() if name not in (KERNEL, BIAS)}


def terms(params: Mapping[str, Array], states: Array, micro: Micro) -> tuple[Pair, Pair]:
    """Cross-entropy of the modality of every judged candidate, and how often it is right.

    states: (S, B, D) of the rows.
    """
    targets, signals = micro.targets, micro.signals
    assert signals is not None
    flat = targets.label_row.reshape(targets.label_row.shape[0], -1)  # (S, G * C)
    own = jnp.take_along_axis(states, flat[..., None], axis=1).astype(jnp.float32)
    turned = 2.0 * jax.lax.stop_gradient(own) - own
    log_shares = jax.nn.log_softmax(turned @ params[KERNEL] + params[BIAS])
    modality = signals.modality.reshape(flat.shape)
    there = (targets.mask & (targets.grade >= 0)).reshape(flat.shape)
    picked = jnp.take_along_axis(log_shares, modality[..., None], axis=-1)[..., 0]
    count = there.sum().astype(jnp.float32)
    right = (jnp.argmax(log_shares, -1) == modality) & there
    return (-jnp.where(there, picked, 0.0).sum(), count), (right.sum().astype(jnp.float32), count)

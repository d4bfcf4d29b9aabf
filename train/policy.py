"""The query-level policy: a distribution over orders of a list, its samples, rewards and anchors.

Plackett-Luce over z = logit / temperature: the first place goes to candidate i with probability
softmax(z)_i, the next in the same way among the rest. Pure functions of (..., C) float32 logits and
masks; Q queries, M sampled orders, C candidates, ranks from 0. Padding sorts last and gets no
gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array

OUT = -1e9  # a masked z: finite, so that its gradient is zero and never NaN


def sample_orders(
    key: Array, logits: Array, mask: Array, samples: int, temperature: float
) -> Array:
    """Orders drawn from the policy: logits, mask (Q, C) -> (Q, M, C) int32 candidates, best first.

    Sorting z plus Gumbel noise is an exact draw (Yellott 1977).
    """
    queries, count = logits.shape
    noise = jax.random.gumbel(key, (queries, samples, count), jnp.float32)
    z = _scaled(logits, mask, temperature)
    return jnp.argsort(-jnp.where(mask[:, None], z[:, None] + noise, OUT), axis=-1)


def placement_log_probabilities(
    logits: Array, mask: Array, orders: Array, temperature: float
) -> Array:
    """log p(order[t] | order[:t]) of every place: (Q, M, C) float32, 0 on padding."""
    z = jnp.take_along_axis(_scaled(logits, mask, temperature)[:, None], orders, axis=-1)
    rest = jax.lax.cumlogsumexp(z, axis=z.ndim - 1, reverse=True)
    return jnp.where(at_ranks(mask, orders), z - rest, 0.0)


def at_ranks(values: Array, orders: Array) -> Array:
    """values (Q, C) of candidates, in the order of each sample: (Q, M, C)."""
    return jnp.take_along_axis(values[:, None], orders, axis=-1)


def log_shares(logits: Array, mask: Array, temperature: float) -> Array:
    """log probability of each candidate to come first: (Q, C); meaningless on padding."""
    return jax.nn.log_softmax(_scaled(logits, mask, temperature), axis=-1)


def before(logits: Array, temperature: float) -> Array:
    """P(i comes before j) = sigmoid(z_i - z_j), for all pairs: (Q, C, C)."""
    return jax.nn.sigmoid((logits[..., :, None] - logits[..., None, :]) / temperature)


def expected_ranks(logits: Array, mask: Array, temperature: float) -> Array:
    """Expected rank of each candidate, from 1: 1 + sum over j != i of P(j before i). (Q, C)."""
    ahead = jnp.where(mask[..., None, :], before(logits, temperature).swapaxes(-1, -2), 0.0)
    return 1.0 + ahead.sum(-1) - jnp.diagonal(ahead, axis1=-2, axis2=-1)


# Rewards ------------------------------------------------------------------------------------------


def discounts(count: int, cutoff: int) -> Array:
    """Weights of ranks 0 .. count - 1: 1 / log2(rank + 2) before `cutoff`, then 0 (DCG)."""
    ranks = jnp.arange(count)
    return jnp.where(ranks < cutoff, 1.0 / jnp.log2(ranks + 2.0), 0.0)


def rank_rewards(orders: Array, utility: Array, mask: Array, weights: Array) -> Array:
    """weights[t] * utility of the candidate at rank t, over the sum of the ideal order: (Q, M, C).

    utility (Q, C) >= 0; with 2^grade - 1 and `discounts` the sum over ranks is nDCG.
    """
    kept = jnp.where(mask, utility, 0.0)
    ideal = (-jnp.sort(-kept, axis=-1) * weights).sum(-1)
    return at_ranks(kept, orders) * weights / jnp.maximum(ideal, 1e-6)[:, None, None]


def preference_rewards(orders: Array, preferences: Array) -> Array:
    """Share of the preferences that each order satisfies: (Q, M), 0 where there are none.

    preferences (Q, C, C): weight of "i is better than j" at [i, j].
    """
    rank = jnp.argsort(orders, axis=-1)
    right = (rank[..., :, None] < rank[..., None, :]).astype(jnp.float32)
    total = preferences.sum((-1, -2))
    return (right * preferences[:, None]).sum((-1, -2)) / jnp.maximum(total, 1e-6)[:, None]


def first_relevant_rewards(orders: Array, relevant: Array, power: float) -> Array:
    """1 / (rank + 1)^power of the first relevant candidate: (Q, M); with power 1 the reciprocal
    rank (MRR), 0 where nothing is relevant."""
    found = at_ranks(relevant, orders)
    rank = jnp.argmax(found, axis=-1) + 1.0
    return jnp.where(found.any(-1), rank**-power, 0.0)


# Anchors ------------------------------------------------------------------------------------------


def bernoulli_divergence(first: Array, second: Array) -> Array:
    """KL(Bern(sigmoid(first)) || Bern(sigmoid(second))), elementwise; finite for large logits."""
    return (
        jax.nn.sigmoid(first) * (first - second) - jax.nn.softplus(first) + jax.nn.softplus(second)
    )


def first_place_divergence(
    logits: Array, reference: Array, mask: Array, temperature: float
) -> Array:
    """KL of who comes first, the policy against the reference: (Q,). A lower bound of the whole."""
    own = log_shares(logits, mask, temperature)
    other = log_shares(reference, mask, temperature)
    return jnp.where(mask, jnp.exp(own) * (own - other), 0.0).sum(-1)


def order_divergence(
    logits: Array, reference: Array, mask: Array, orders: Array, temperature: float
) -> Array:
    """KL of whole orders, policy against reference, along sampled orders of the policy: (Q, M).

    At each rank the exact divergence of who takes it is used instead of a sampled log ratio
    (Rao-Blackwell); the mean over samples estimates the whole without bias.
    """
    there = at_ranks(mask, orders)
    own = at_ranks(_scaled(logits, mask, temperature), orders)
    other = at_ranks(_scaled(reference, mask, temperature), orders)
    count = orders.shape[-1]
    # remaining[t, u]: the candidate at rank u is still there when rank t is given away
    remaining = jnp.arange(count)[:, None] <= jnp.arange(count)[None]
    left = remaining & there[..., None, :]
    own_share = jax.nn.log_softmax(jnp.where(left, own[..., None, :], OUT), axis=-1)
    other_share = jax.nn.log_softmax(jnp.where(left, other[..., None, :], OUT), axis=-1)
    each = jnp.where(left, jnp.exp(own_share) * (own_share - other_share), 0.0).sum(-1)
    return jnp.where(there, each, 0.0).sum(-1)


def entropy(logits: Array, mask: Array, temperature: float) -> Array:
    """Of who comes first, in nats: (Q,)."""
    share = log_shares(logits, mask, temperature)
    return -jnp.where(mask, jnp.exp(share) * share, 0.0).sum(-1)


def _scaled(logits: Array, mask: Array, temperature: float) -> Array:
    return jnp.where(mask, logits.astype(jnp.float32) / temperature, OUT)

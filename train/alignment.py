"""The loss of stage 2 as a pure function of a batch of lists' logits; all else is data.

A query-level policy gradient on sampled orders (train/policy.py) with leave-one-out baselines, and
exact anchors to stage 1. Objectives without sampling stand beside it, to tell whether sampling is
what helps. Lists are (Q, C); everything is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from train import policy

Array = jax.Array
Pair = tuple[Array, Array]  # float32 scalars: sum and count

LIVE = 1e-4  # a query whose rewards spread less has no signal
ALGORITHMS = ("policy", "bernoulli", "dpo", "first", "pairs", "target")


@dataclass(frozen=True)
class PolicySettings:
    """How orders are sampled, rewarded and reinforced."""

    algorithm: Literal["policy", "bernoulli", "dpo", "first", "pairs", "target"]
    samples: int  # orders per query
    temperature: float  # of the policy; constant in a run
    placements: int  # the first places of an order that are reinforced
    cutoff: int  # ranks that count in DCG
    utility: Literal["reward", "gain", "relevant"]  # what is good: reward model, 2^grade - 1, label
    dcg: float  # weights of the rewards: DCG of the utility,
    preference: float  # share of satisfied preferences,
    hit: float  # a relevant candidate first,
    reciprocal: float  # reciprocal rank of the first relevant one
    credit: Literal["to_go", "list"]  # a place gets what comes from there on, or the whole
    baseline: bool  # leave-one-out over the samples of a query
    scale: Literal["batch", "query", "none", "ranks"]  # of advantages
    clip: tuple[float, float]  # of the ratio of a placement, down and up
    dpo_scale: float  # of "dpo" and "target", in logits


@dataclass(frozen=True)
class AnchorSettings:
    """Weights of what keeps the policy near stage 1."""

    bernoulli: float  # divergence of each candidate's yes/no
    direction: Literal["forward", "reverse"]  # forward: KL(stage 1 || policy)
    first: float  # divergence of who comes first
    bce: float  # the label loss of stage 1
    entropy: float  # reward for the entropy of who comes first


class Lists(NamedTuple):
    """What is known of a batch of lists beside the logits."""

    mask: Array  # (Q, C) bool
    target: Array  # (Q, C) float32 in [0, 1]: the label
    gain: Array  # (Q, C) float32: 2^grade - 1
    relevant: Array  # (Q, C) bool
    reference: Array  # (Q, C) float32: logits of stage 1
    reward: Array  # (Q, C) float32 in [0, 1]: utility from the reward model
    preferences: Array  # (Q, C, C) float32: weight of "i is better than j" at [i, j]


def utility_of(lists: Lists, settings: PolicySettings) -> Array:
    """(Q, C), at least 0; the smallest of a list is 0, or all lists would be nearly solved."""
    chosen = {
        "reward": lists.reward,
        "gain": lists.gain,
        "relevant": lists.relevant.astype(jnp.float32),
    }[settings.utility]
    least = jnp.where(lists.mask, chosen, jnp.inf).min(-1, keepdims=True)
    return jnp.where(lists.mask, chosen - jnp.where(jnp.isfinite(least), least, 0.0), 0.0)


def rewards(orders: Array, lists: Lists, settings: PolicySettings) -> tuple[Array, Array]:
    """What each rank of each order adds, (Q, M, C), and what the whole order adds, (Q, M)."""
    weights = policy.discounts(orders.shape[-1], settings.cutoff)
    utility = utility_of(lists, settings)
    each = settings.dcg * policy.rank_rewards(orders, utility, lists.mask, weights)
    hit = policy.at_ranks(lists.relevant & lists.mask, orders)[..., 0]
    each = each.at[..., 0].add(settings.hit * hit)
    whole = settings.preference * policy.preference_rewards(orders, lists.preferences)
    reciprocal = policy.first_relevant_rewards(orders, lists.relevant & lists.mask, 1.0)
    return each, whole + settings.reciprocal * reciprocal


def advantages(each: Array, whole: Array, settings: PolicySettings) -> tuple[Array, Array]:
    """Of every placement, (Q, M, C), and which queries have a signal, (Q,) bool.

    Leave-one-out: the baseline of a sample is the mean of the others, at each rank apart, so it
    stays unbiased (Kool et al. 2019). Queries whose rewards do not differ are left out.
    """
    total = each.sum(-1) + whole  # (Q, M)
    spread = total.std(-1)
    live = spread > LIVE
    if settings.credit == "to_go":
        gained = jnp.cumsum(each[..., ::-1], axis=-1)[..., ::-1] + whole[..., None]
    else:
        gained = jnp.broadcast_to(total[..., None], each.shape)
    if settings.scale == "ranks":  # only the order of the samples counts; ties share their place
        mine, others = gained[:, :, None], gained[:, None]
        place = (mine > others).sum(2) + ((mine == others).sum(2) - 1) / 2
        gained = place / max(gained.shape[1] - 1, 1)
    if settings.baseline:
        samples = gained.shape[1]
        gained = (gained - gained.mean(1, keepdims=True)) * samples / (samples - 1)
    if settings.scale == "query":
        gained = gained / (spread[:, None, None] + LIVE)
    if settings.scale == "batch":
        variance = (total.var(-1) * live).sum() / jnp.maximum(live.sum(), 1)
        gained = gained / (jnp.sqrt(variance) + LIVE)
    return gained, live


def policy_gradient(
    logits: Array, lists: Lists, key: Array, settings: PolicySettings, old: Array | None = None
) -> tuple[Pair, dict[str, Pair]]:
    """Minus the clipped surrogate of sampled orders, over the queries with a signal.

    old: logits of the policy that the orders are drawn from; None: this one, where the ratio is 1
    and the gradient that of the expected reward.
    """
    drawn_from = jax.lax.stop_gradient(logits if old is None else old)
    orders = policy.sample_orders(
        key, drawn_from, lists.mask, settings.samples, settings.temperature
    )
    each, whole = rewards(orders, lists, settings)
    gained, live = jax.lax.stop_gradient(advantages(each, whole, settings))
    own, before = (
        policy.placement_log_probabilities(some, lists.mask, orders, settings.temperature)
        for some in (logits, drawn_from)
    )
    ratio = jnp.exp(own - before)
    down, up = settings.clip
    surrogate = jnp.minimum(ratio * gained, jnp.clip(ratio, 1 - down, 1 + up) * gained)
    counted = policy.at_ranks(lists.mask, orders) & (
        jnp.arange(orders.shape[-1]) < settings.placements
    )
    loss = -jnp.where(counted, surrogate, 0.0).sum(-1).mean(-1)  # (Q,)
    total = each.sum(-1) + whole
    there = lists.mask.any(-1)
    clipped = (jnp.abs(ratio - 1.0) > down) & counted
    discounts = policy.discounts(orders.shape[-1], settings.cutoff)
    gold = policy.rank_rewards(orders, lists.gain, lists.mask, discounts).sum(-1)
    more = {
        "reward": _mean(total.mean(-1), there),
        "gold": _mean(gold.mean(-1), (lists.gain * lists.mask).any(-1)),
        "reward_spread": _mean(total.std(-1), there),
        "dead": _mean((~live).astype(jnp.float32), there),
        "clipped": (clipped.sum().astype(jnp.float32), counted.sum().astype(jnp.float32)),
        "order_divergence": _mean(
            policy.order_divergence(
                drawn_from, lists.reference, lists.mask, orders, settings.temperature
            ).mean(-1),
            there,
        ),
    }
    return _mean(loss, live & there), more


def bernoulli_policy(logits: Array, lists: Lists, settings: PolicySettings) -> Pair:
    """Each candidate says yes or no; right answers earn the weight of their preferences.

    The expected gradient is analytic: the loss is minus the expected reward, centred on the
    candidates of the query by construction of yes and no.
    """
    balance = lists.preferences.sum(-1) - lists.preferences.sum(-2)  # better less worse
    weight = jnp.where(lists.mask, balance, 0.0)
    return _mean(-(weight * (2 * jax.nn.sigmoid(logits) - 1)).sum(-1), lists.mask.any(-1))


def dpo(logits: Array, lists: Lists, settings: PolicySettings) -> Pair:
    """-log sigmoid(scale * ((s_i - s_j) - (s0_i - s0_j))) over preferences, weighted (DPO of the
    first place: its normaliser cancels)."""
    change = logits - lists.reference
    gap = change[..., :, None] - change[..., None, :]
    weight = lists.preferences
    return (
        -(weight * jax.nn.log_sigmoid(settings.dpo_scale * gap)).sum(),
        weight.sum().astype(jnp.float32),
    )


def expected_first(logits: Array, lists: Lists, settings: PolicySettings) -> Pair:
    """Minus the exact expected utility of who comes first, over the best of the list."""
    utility = utility_of(lists, settings)
    share = jnp.exp(policy.log_shares(logits, lists.mask, settings.temperature))
    best = jnp.maximum(utility.max(-1), 1e-6)
    gained = jnp.where(lists.mask, share * utility, 0.0).sum(-1) / best
    return _mean(-gained, lists.mask.any(-1))


def expected_pairs(logits: Array, lists: Lists, settings: PolicySettings) -> Pair:
    """Minus the exact expected share of satisfied preferences."""
    total = lists.preferences.sum((-1, -2))
    right = (lists.preferences * policy.before(logits, settings.temperature)).sum((-1, -2))
    return _mean(-right / jnp.maximum(total, 1e-6), total > 0)


def target_policy(logits: Array, lists: Lists, settings: PolicySettings) -> Pair:
    """Cross-entropy to the optimum of the regularised first place, softmax(s0 / temperature) *
    exp(utility / scale)."""
    bent = lists.reference / settings.temperature + utility_of(lists, settings) / settings.dpo_scale
    wanted = jnp.exp(policy.log_shares(bent, lists.mask, 1.0))
    share = policy.log_shares(logits, lists.mask, settings.temperature)
    return _mean(-jnp.where(lists.mask, wanted * share, 0.0).sum(-1), lists.mask.any(-1))


EXACT: Mapping[str, Callable[[Array, Lists, PolicySettings], Pair]] = {
    "bernoulli": bernoulli_policy,
    "dpo": dpo,
    "first": expected_first,
    "pairs": expected_pairs,
    "target": target_policy,
}


def anchors(
    logits: Array, lists: Lists, settings: AnchorSettings, temperature: float
) -> dict[str, Pair]:
    """Exact terms that keep the policy near stage 1, each a (sum, count) pair."""
    there, mask = lists.mask.any(-1), lists.mask
    pair = (
        (lists.reference, logits) if settings.direction == "forward" else (logits, lists.reference)
    )
    label = jax.nn.softplus(logits) - lists.target * logits
    first = policy.first_place_divergence(logits, lists.reference, mask, temperature)
    return {
        "bernoulli": _mean(policy.bernoulli_divergence(*pair), mask),
        "first": _mean(first, there),
        "bce": _mean(label, mask),
        "entropy": _mean(policy.entropy(logits, mask, temperature), there),
    }


def loss(
    logits: Array,
    lists: Lists,
    key: Array,
    settings: PolicySettings,
    anchor: AnchorSettings,
    old: Array | None = None,
) -> tuple[Array, dict[str, Pair]]:
    """What stage 2 minimises, and its parts: objective + anchors, over a whole batch of lists."""
    logits = logits.astype(jnp.float32)

    def objective_of(logits: Array) -> tuple[Pair, dict[str, Pair]]:
        if settings.algorithm == "policy":
            return policy_gradient(logits, lists, key, settings, old)
        return EXACT[settings.algorithm](logits, lists, settings), {}

    objective, more = objective_of(logits)
    kept = anchors(logits, lists, anchor, settings.temperature)
    total = (
        _value(objective)
        + anchor.bernoulli * _value(kept["bernoulli"])
        + anchor.first * _value(kept["first"])
        + anchor.bce * _value(kept["bce"])
        - anchor.entropy * _value(kept["entropy"])
    )
    slope = jax.grad(lambda some: _value(objective_of(some)[0]))(jax.lax.stop_gradient(logits))
    watched = watch(logits, slope, lists)
    return total, {"objective": objective, **kept, **more, **watched}


def watch(logits: Array, slope: Array, lists: Lists) -> dict[str, Pair]:
    """What tells how a run goes, without a part in the loss. slope: of the objective alone, (Q, C).

    "magnitude" and "magnitude_before" are of logits now and in stage 1; "flips_good" and
    "flips_bad" the shares of queries whose first candidate became, or no longer is, relevant;
    "agreement" the cosine of the objective's slope and that of the label loss.
    """
    mask, there = lists.mask, lists.mask.any(-1)
    relevant = lists.relevant & mask

    def first_is_relevant(some: Array) -> Array:
        first = jnp.argmax(jnp.where(mask, some, -jnp.inf), axis=-1)
        return jnp.take_along_axis(relevant, first[:, None], axis=-1)[:, 0]

    now, before = first_is_relevant(logits), first_is_relevant(lists.reference)
    label = jnp.where(mask, jax.nn.sigmoid(logits) - lists.target, 0.0)
    scale = jnp.maximum(jnp.linalg.norm(slope) * jnp.linalg.norm(label), 1e-20)
    found = {
        "magnitude": _mean(jnp.abs(logits), mask),
        "magnitude_before": _mean(jnp.abs(lists.reference), mask),
        "score_relevant": _mean(logits, relevant),
        "score_other": _mean(logits, mask & ~relevant),
        "flips_good": _mean((now & ~before).astype(jnp.float32), there),
        "flips_bad": _mean((before & ~now).astype(jnp.float32), there),
        "slope": (jnp.linalg.norm(slope), jnp.float32(1)),
        "agreement": ((slope * label).sum() / scale, jnp.float32(1)),
    }
    return jax.lax.stop_gradient(found)


def _mean(values: Array, where: Array) -> Pair:
    return jnp.where(where, values, 0.0).sum(), where.sum().astype(jnp.float32)


def _value(pair: Pair) -> Array:
    return pair[0] / jnp.maximum(pair[1], 1.0)

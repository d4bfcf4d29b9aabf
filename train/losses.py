"""Losses of stage 1 as pure functions of scores and targets; each term is a (sum, count) pair.

The counts depend on the targets alone, so an update may be cut into micro-batches and still be the
gradient of `sum over terms of weight * (sum of sums) / (sum of counts)`. Everything is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from unirank_jax.batch import Targets

Array = jax.Array
Pair = tuple[Array, Array]  # float32 scalars: sum and count

_OUT = -1e30  # a masked logit: finite, so that its gradient is zero and never NaN


class Scores(NamedTuple):
    """What the model says about each row of a batch."""

    logits: Array  # (S, B) float32: z_yes - z_no
    yes: Array | None = None  # (S, B) float32: log p(yes) over the whole vocabulary, for vocab_ce
    no: Array | None = None  # (S, B) float32: log p(no)


class Lists(NamedTuple):
    """Scores and targets side by side: (..., C) per candidate, unjudged ones masked."""

    logits: Array  # (..., C) float32
    target: Array  # (..., C) float32 in [0, 1], not smoothed
    grade: Array  # (..., C) float32
    relevant: Array  # (..., C) bool
    mask: Array  # (..., C) bool
    yes: Array | None
    no: Array | None
    preferences: Array | None = None  # (..., C, C) float32: weight of "i is better than j"
    teacher: Array | None = None  # (..., C) float32: logits of a teacher; all 0 where it says none


def arrange(
    scores: Scores,
    targets: Targets,
    kind: Literal["binary", "graded"],
    max_grade: float,
    preferences: Array | None = None,
    teacher: Array | None = None,
) -> Lists:
    """Gather the rows of each list. Binary targets: grade >= rel_min; graded: grade / max_grade."""
    mask = targets.mask & (targets.grade >= 0)
    relevant = mask & (targets.grade >= targets.rel_min[..., None])
    graded = jnp.clip(targets.grade / max_grade, 0.0, 1.0)
    target = jnp.where(mask, relevant if kind == "binary" else graded, 0.0).astype(jnp.float32)

    def gather(rows: Array) -> Array:  # (S, B) -> (S, G, C)
        flat = targets.label_row.reshape(targets.label_row.shape[0], -1)
        return jnp.take_along_axis(rows, flat, axis=1).reshape(targets.label_row.shape)

    yes, no = (None if rows is None else gather(rows) for rows in (scores.yes, scores.no))
    logits = jnp.where(mask, gather(scores.logits.astype(jnp.float32)), 0.0)
    return Lists(logits, target, targets.grade, relevant, mask, yes, no, preferences, teacher)


def bce(lists: Lists, smoothing: float) -> Pair:
    """Two-token cross-entropy, softplus(s) - t s per judged candidate."""
    target = _smooth(lists.target, smoothing)
    return _masked(jax.nn.softplus(lists.logits) - target * lists.logits, lists.mask)


def rcr(lists: Lists, smoothing: float) -> Pair:
    """Regression-compatible ranking, -sum_i (t_i / sum t) log(sigma(s_i) / sum_j sigma(s_j)).

    Bai et al., CIKM 2023. Per list with at least one relevant candidate; not smoothed.
    """
    return _listwise(jax.nn.log_sigmoid(lists.logits), lists)


def softmax(lists: Lists, smoothing: float) -> Pair:
    """Listwise cross-entropy, -sum_i (t_i / sum t) log softmax(s)_i; not smoothed."""
    return _listwise(lists.logits, lists)


def ranknet(lists: Lists, smoothing: float) -> Pair:
    """softplus(-(s_i - s_j)) over the judged pairs of a list with grade_i > grade_j."""
    gap = lists.logits[..., :, None] - lists.logits[..., None, :]
    better = lists.grade[..., :, None] > lists.grade[..., None, :]
    judged = lists.mask[..., :, None] & lists.mask[..., None, :]
    return _masked(jax.nn.softplus(-gap), better & judged)


def vocab_ce(lists: Lists, smoothing: float) -> Pair:
    """-t log p(yes) - (1 - t) log p(no) with p over the whole vocabulary, per judged candidate."""
    if lists.yes is None or lists.no is None:
        raise ValueError("vocab_ce needs Scores.yes and Scores.no: compute them with the full head")
    target = _smooth(lists.target, smoothing)
    return _masked(-target * lists.yes - (1 - target) * lists.no, lists.mask)


def preference(lists: Lists, smoothing: float) -> Pair:
    """Bradley-Terry, -w log sigmoid(s_i - s_j) over the preferences "i is better than j"."""
    weight = _preferences(lists)
    gap = lists.logits[..., :, None] - lists.logits[..., None, :]
    return (weight * jax.nn.softplus(-gap)).sum(), weight.sum().astype(jnp.float32)


def centre(lists: Lists, smoothing: float) -> Pair:
    """(s_i + s_j)^2 over the preferences: Bradley-Terry leaves the level of a query free."""
    there = _preferences(lists) > 0
    total = lists.logits[..., :, None] + lists.logits[..., None, :]
    return _masked(total**2, there)


def teacher(lists: Lists, smoothing: float) -> Pair:
    """KL(softmax(t) || softmax(s)) in nats per list with a teacher's logits t (Hinton 2015)."""
    if lists.teacher is None:
        raise ValueError("this loss needs a teacher: set data.teacher to what train.teach wrote")
    wanted = _log_share(lists.teacher, lists.mask)
    surplus = jnp.where(lists.mask, wanted - _log_share(lists.logits, lists.mask), 0.0)
    known = (lists.mask & (lists.teacher != 0)).any(axis=-1)
    return _masked((jnp.exp(wanted) * surplus).sum(axis=-1), known)


def _preferences(lists: Lists) -> Array:
    if lists.preferences is None:
        raise ValueError("this loss needs preferences: set data.preferences to a file of them")
    return lists.preferences


TERMS: Mapping[str, Callable[[Lists, float], Pair]] = {
    "bce": bce,
    "rcr": rcr,
    "softmax": softmax,
    "ranknet": ranknet,
    "vocab_ce": vocab_ce,
    "preference": preference,
    "centre": centre,
    "teacher": teacher,
}


def terms(lists: Lists, names: tuple[str, ...], smoothing: float) -> dict[str, Pair]:
    """The named terms of a batch, each a (sum, count) pair."""
    return {name: TERMS[name](lists, smoothing) for name in names}


def diagnostics(lists: Lists) -> dict[str, Pair]:
    """Hit@1 of the training lists, and the mean score of relevant and other candidates."""
    top = jnp.argmax(jnp.where(lists.mask, lists.logits, _OUT), axis=-1)
    hit = jnp.take_along_axis(lists.relevant, top[..., None], axis=-1)[..., 0]
    any_relevant = lists.relevant.any(axis=-1)
    other = lists.mask & ~lists.relevant
    return {
        "hit@1": _masked(hit.astype(jnp.float32), any_relevant),
        "score_relevant": _masked(lists.logits, lists.relevant),
        "score_other": _masked(lists.logits, other),
    }


def _smooth(target: Array, smoothing: float) -> Array:
    return target * (1.0 - smoothing) + 0.5 * smoothing


def _masked(values: Array, mask: Array) -> Pair:
    return jnp.where(mask, values, 0.0).sum(), mask.sum().astype(jnp.float32)


def _listwise(logits: Array, lists: Lists) -> Pair:
    log_share = _log_share(logits, lists.mask)
    total = lists.target.sum(axis=-1)
    share = lists.target / jnp.maximum(total, 1e-12)[..., None]
    cross_entropy = -jnp.where(lists.mask, share * log_share, 0.0).sum(axis=-1)
    return _masked(cross_entropy, total > 0)


def _log_share(logits: Array, mask: Array) -> Array:
    """Log of the softmax over the judged candidates of each list."""
    kept = jnp.where(mask, logits, _OUT)
    return kept - jax.nn.logsumexp(kept, axis=-1, keepdims=True)

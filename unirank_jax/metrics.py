"""Ranking metrics, as exact expected values where scores tie.

`list_metrics` judges one list, `measure` many; `chance` is a random order, `restrict` the part of
a list that has one modality. Intervals and p values are in significance.py. No JAX here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
UNJUDGED = -1
METRICS = (
    "hit@1",
    "hit@5",
    "recall@1",
    "recall@5",
    "recall@10",
    "mrr@10",
    "map",
    "ndcg@5",
    "ndcg@10",
)


class MetricError(ValueError):
    """Scores or judgements that cannot be measured; the message names every query concerned."""


@dataclass(frozen=True)
class Judged:
    """The judgements of one list, in the order of its candidates.

    Attributes:
        qid: the query's name, for messages.
        grades: (N,) integers; -1 is unjudged and dropped with its score.
        rel_min: the smallest grade that Hit, Recall, MRR and MAP count as relevant.
        kind: the type of the query; macro averages are means over kinds.
        modalities: (N,) "text" | "image" | "mixed" of each candidate, or empty when unknown.
        missing: grades of judged candidates that the first stage did not put on the list.
    """

    qid: str
    grades: tuple[int, ...]
    rel_min: int = 1
    kind: str = ""
    modalities: tuple[str, ...] = ()
    missing: tuple[int, ...] = ()

    @property
    def relevant(self) -> int:
        """Number of relevant candidates, those missing from the list included."""
        return sum(grade >= self.rel_min for grade in (*self.grades, *self.missing))

    @property
    def positive_modality(self) -> str:
        """Modality of the relevant candidates on the list, "several" when they differ."""
        pairs = zip(self.grades, self.modalities, strict=True)
        found = {modality for grade, modality in pairs if grade >= self.rel_min}
        return found.pop() if len(found) == 1 else "several" if found else "none"


def list_metrics(
    scores: ArrayLike, judged: Judged, metrics: Sequence[str] = METRICS, *, nan_last: bool = False
) -> dict[str, float]:
    """Expected metrics of one list when candidates of equal score are ordered at random.

    Sorting is by falling score. With relevant meaning grade >= rel_min and R the number of
    relevant candidates (missing ones included):
    hit@k: 1 when a relevant candidate is among the first k.  recall@k: relevant ones among the
    first k, over R.  mrr@k: 1 / rank of the first relevant one, 0 beyond k.  map: mean over the R
    of the precision at their ranks, a missing one counting 0.  ndcg@k: DCG over the ideal DCG of
    all judged candidates, missing ones included, gain 2^grade - 1, discount 1 / log2(rank + 1);
    ndcg_listed@k takes the ideal of the list alone, which isolates the reranker.

    Each value is the exact mean over all orders of every group of equal scores (closed forms per
    group), so it does not depend on the input order.

    Args:
        scores: (N,) higher is better, in the order of `judged.grades`.
        metrics: names as above; "mrr" without a cut-off looks at the whole list.
        nan_last: rank NaN scores (failed candidates) last, as one group, instead of raising.

    Raises:
        MetricError: NaN scores, a wrong length, an unknown metric, or no relevant candidate.
    """
    problem = _problem(scores, judged, nan_last)
    if problem:
        raise MetricError(problem)
    groups = _tie_groups(np.asarray(scores), judged)
    return {name: _metric(name, groups, judged) for name in metrics}


def measure(
    scores: Sequence[ArrayLike],
    lists: Sequence[Judged],
    metrics: Sequence[str] = METRICS,
    *,
    nan_last: bool = False,
) -> dict[str, Floats]:
    """`list_metrics` over ragged lists: name -> (len(lists),) float64, one value per query.

    Raises:
        MetricError: every problem of every list in one message (the first 20 spelled out).
    """
    if len(scores) != len(lists):
        raise MetricError(f"{len(scores)} score arrays for {len(lists)} lists; give one per list")
    found = (_problem(s, judged, nan_last) for s, judged in zip(scores, lists, strict=True))
    problems = [problem for problem in found if problem]
    if problems:
        more = f"\n... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise MetricError("\n".join(problems[:20]) + more)
    table = {name: np.zeros(len(lists)) for name in metrics}  # (Q,)
    for row, (values, judged) in enumerate(zip(scores, lists, strict=True)):
        groups = _tie_groups(np.asarray(values), judged)
        for name in metrics:
            table[name][row] = _metric(name, groups, judged)
    return table


def chance(lists: Sequence[Judged], metrics: Sequence[str] = METRICS) -> dict[str, Floats]:
    """Expected metrics of a random order: all candidates of a list tie."""
    return measure([np.zeros(len(judged.grades)) for judged in lists], lists, metrics)


def tie_rate(scores: Sequence[ArrayLike], lists: Sequence[Judged]) -> float:
    """Share of pairs of judged candidates of one list whose scores are equal, over all lists."""
    tied = pairs = 0
    for values, judged in zip(scores, lists, strict=True):
        kept = np.asarray(values)[np.asarray(judged.grades) != UNJUDGED]
        counts = np.unique(kept, return_counts=True)[1]
        tied += int((counts * (counts - 1) // 2).sum())
        pairs += len(kept) * (len(kept) - 1) // 2
    return tied / pairs if pairs else 0.0


def restrict(judged: Judged, modality: str) -> tuple[Judged, NDArray[np.int64]] | None:
    """The part of a list that has one modality, and its places in the list.

    Returns None when no relevant candidate has this modality or nothing competes with it: the
    part would say nothing about the order within the modality.
    """
    places = np.flatnonzero(np.asarray(judged.modalities) == modality)
    grades = tuple(judged.grades[place] for place in places)
    relevant = sum(grade >= judged.rel_min for grade in grades)
    if relevant == 0 or relevant == sum(grade != UNJUDGED for grade in grades):
        return None
    part = Judged(judged.qid, grades, judged.rel_min, judged.kind, (modality,) * len(grades))
    return part, places


# Groups of equal scores ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """Candidates of equal score: they share the ranks start + 1 .. start + size."""

    start: int
    size: int
    relevant: int
    gain: float  # sum of 2^grade - 1


def _problem(scores: ArrayLike, judged: Judged, nan_last: bool) -> str | None:
    """What forbids measuring this list, or None."""
    values = np.asarray(scores)
    if values.shape != (len(judged.grades),):
        return (
            f"query {judged.qid}: scores have shape {values.shape}, the list has "
            f"{len(judged.grades)} candidates; give one score per candidate in the list's order"
        )
    if judged.relevant == 0:
        return (
            f"query {judged.qid}: no candidate has grade >= rel_min = {judged.rel_min}; "
            "leave the query out or lower its rel_min"
        )
    unranked = np.isnan(values.astype(np.float64)) & (np.asarray(judged.grades) != UNJUDGED)
    if unranked.any() and not nan_last:
        return (
            f"query {judged.qid}: the scores of candidates {np.flatnonzero(unranked).tolist()} "
            "are NaN; repair these candidates or count them as last with nan_last=True"
        )
    return None


def _tie_groups(scores: NDArray, judged: Judged) -> list[_Group]:
    """Groups of equal scores from the best down, unjudged candidates dropped, NaN last."""
    grades = np.asarray(judged.grades, dtype=np.int64)
    kept = grades != UNJUDGED
    scores, grades = scores[kept], grades[kept]
    # np.unique puts NaN, as one value, at the end; -inf is smaller than any number but is a score.
    values, key = np.unique(scores, return_inverse=True)
    if len(values) and np.isnan(values[-1]):
        key = np.where(key == len(values) - 1, -1, key)
    order = np.argsort(-key, kind="stable")
    key, grades = key[order], grades[order]
    edges = [0, *(np.flatnonzero(np.diff(key)) + 1).tolist(), len(key)]
    gains = np.exp2(grades) - 1.0
    return [
        _Group(a, b - a, int((grades[a:b] >= judged.rel_min).sum()), float(gains[a:b].sum()))
        for a, b in zip(edges, edges[1:], strict=False)
        if b > a
    ]


def _metric(name: str, groups: list[_Group], judged: Judged) -> float:
    kind, _, cut = name.partition("@")
    cutoff = int(cut) if cut.isdigit() and int(cut) > 0 else None
    if kind == "hit" and cutoff:
        return _hit(groups, cutoff)
    if kind == "recall" and cutoff:
        return _recall(groups, cutoff, judged.relevant)
    if kind == "mrr" and (cutoff or not cut):
        return _reciprocal_rank(groups, cutoff)
    if name == "map":
        return _average_precision(groups, judged.relevant)
    if kind in ("ndcg", "ndcg_listed") and cutoff:
        missing = judged.missing if kind == "ndcg" else ()
        return _ndcg(groups, cutoff, (*judged.grades, *missing))
    raise MetricError(
        f"unknown metric {name!r}; choose hit@k, recall@k, mrr, mrr@k, map, ndcg@k or ndcg_listed@k"
    )


def _hit(groups: list[_Group], cutoff: int) -> float:
    """Hypergeometric: 1 - P(the places left within the cut-off hold no relevant candidate)."""
    for group in groups:
        places = min(cutoff - group.start, group.size)
        if places <= 0:
            return 0.0
        if group.relevant:
            none = math.comb(group.size - group.relevant, places) / math.comb(group.size, places)
            return 1.0 - none
    return 0.0


def _recall(groups: list[_Group], cutoff: int, relevant: int) -> float:
    """Each candidate of a group is within the cut-off with the share of its places that are."""
    found = 0.0
    for group in groups:
        places = min(max(cutoff - group.start, 0), group.size)
        found += group.relevant * places / group.size
    return found / relevant


def _reciprocal_rank(groups: list[_Group], cutoff: int | None) -> float:
    """P(first relevant of the group at place j) = C(n - j, r - 1) / C(n, r), over its rank."""
    for group in groups:
        if group.relevant:
            n, r = group.size, group.relevant
            last = n - r + 1 if cutoff is None else min(n - r + 1, cutoff - group.start)
            ways = math.comb(n, r)
            places = range(1, last + 1)
            return sum(math.comb(n - j, r - 1) / ways / (group.start + j) for j in places)
    return 0.0


def _average_precision(groups: list[_Group], relevant: int) -> float:
    """Given a relevant candidate at place j of its group, (j - 1)(r - 1)/(n - 1) others of the
    group's r are expected before it, and all relevant ones of the earlier groups."""
    total, before = 0.0, 0
    for group in groups:
        n, r = group.size, group.relevant
        if r:
            j = np.arange(1, n + 1)
            others = (j - 1) * ((r - 1) / (n - 1)) if n > 1 else np.zeros(1)
            total += float((r / n * (before + 1 + others) / (group.start + j)).sum())
            before += r
    return total / relevant


def _ndcg(groups: list[_Group], cutoff: int, judged_grades: Sequence[int]) -> float:
    """Every candidate of a group has the group's mean discount in expectation."""
    dcg = 0.0
    for group in groups:
        places = min(max(cutoff - group.start, 0), group.size)
        if places and group.gain:
            ranks = group.start + np.arange(1, places + 1)
            dcg += group.gain / group.size * float((1.0 / np.log2(ranks + 1.0)).sum())
    grades = np.asarray([grade for grade in judged_grades if grade != UNJUDGED])
    best = np.sort(np.exp2(grades) - 1.0)[::-1][:cutoff]
    ideal = float((best / np.log2(np.arange(2.0, len(best) + 2.0))).sum())
    # Only ndcg_listed can meet an ideal of 0: every positive is missing from the list.
    return dcg / ideal if ideal else 0.0

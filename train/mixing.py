"""The same candidates as texts or as images: what a reranker makes of the form alone.

For queries whose candidates exist in both forms (a figure and its caption, a drawing and its card)
both are scored once; lists are then mixed from the scores, as in MixBench (arXiv 2507.19054).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.records import Example, Item
from unirank_jax.metrics import Judged, measure
from unirank_jax.significance import Interval, Resampled

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
METRIC = "ndcg@10"
LEVEL = 0.95
FEWEST = 5  # candidates of a list that must exist in both forms


@dataclass(frozen=True)
class Mixing:
    """One scorer on lists whose candidates are images with some probability, otherwise texts.

    Attributes:
        curve: share of images -> nDCG@10. A scorer with one scale for both falls nowhere below
            the straight line between its ends; a biased one dips in the middle.
        dip: the line's middle less the curve at a half; 0 or below shows no harm from mixing.
        swap: mean |score as text - score as image| of a candidate, in standard deviations.
        changed: share of queries whose first candidate is another when all change their form.
        queries: how many.
    """

    curve: dict[float, Interval]
    dip: Interval
    swap: Interval
    changed: Interval
    queries: int


@dataclass(frozen=True)
class Pairs:
    """A query with N candidates in both forms: the example holds N texts, then N images."""

    example: Example
    grades: tuple[int, ...]  # (N,)


def pairs_of(dataset: Dataset, split: str, examples: Sequence[Example], limit: int) -> list[Pairs]:
    """At most `limit` of the examples in both forms, evenly spaced.

    Those with too few candidates that exist in both are left out.

    The text form of an object is its first text of another kind than the query's own; a query
    that is itself one of its object's images is left out, because it would ask for itself.
    """
    if not limit:
        return []
    objects: dict[str, list[Item]] = defaultdict(list)
    for item in dataset.items_of(split):
        objects[item.unit_id].append(item)
    made = []
    for example in examples:
        query = example.query
        asked = {item.kind for item in objects[query.unit_id] if item.dup_id == query.dup_id}
        if not asked or any(
            i.modality != "text" for i in objects[query.unit_id] if i.kind in asked
        ):
            continue
        best: dict[str, int] = {}
        for item, grade in zip(example.candidates, example.grades, strict=True):
            best[item.unit_id] = max(grade, best.get(item.unit_id, grade))
        forms = {unit: _forms(objects[unit], asked) for unit in best}
        both = {unit: pair for unit, pair in forms.items() if pair is not None}
        grades = tuple(best[unit] for unit in both)
        if len(both) < FEWEST or max(grades) < query.rel_min:
            continue
        candidates = tuple(pair[form] for form in (0, 1) for pair in both.values())
        origins = ("",) * len(candidates)
        made.append(Pairs(Example(query, candidates, grades * 2, origins), grades))
    count = min(limit, len(made))
    return [made[i * len(made) // count] for i in range(count)]


def mixing(
    pairs: Sequence[Pairs], scores: Sequence[ArrayLike], *, resamples: int, seed: int
) -> Mixing:
    """Mix the forms by their scores.

    scores: per pair (2N,), those of the texts, then those of the images.

    Raises:
        MetricError: NaN scores.
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("no query has candidates in both forms")
    rng = np.random.default_rng(seed)
    forms = [np.asarray(values, np.float64).reshape(2, -1) for values in scores]
    lists = [Judged(p.example.query.qid, p.grades, p.example.query.rel_min) for p in pairs]
    chances = [rng.random(len(one.grades)) for one in lists]  # the same for all shares: nested
    columns = []
    for share in SHARES:
        mixed = [
            np.where(chance < share, both[1], both[0])
            for chance, both in zip(chances, forms, strict=True)
        ]
        columns.append(measure(mixed, lists, [METRIC])[METRIC])
    columns.append((columns[0] + columns[-1]) / 2 - columns[SHARES.index(0.5)])
    spread = np.concatenate([both.ravel() for both in forms]).std() or 1.0
    columns.append(np.array([np.abs(both[0] - both[1]).mean() / spread for both in forms]))
    columns.append(np.array([_changed(both) for both in forms]))
    drawn = Resampled.draw(np.stack(columns, axis=1), None, resamples=resamples, seed=seed)
    found = [drawn.interval(i, LEVEL) for i in range(len(columns))]
    curve = dict(zip(SHARES, found, strict=False))
    dip, swap, changed = found[len(SHARES) :]
    return Mixing(curve, dip, swap, changed, len(pairs))


def _forms(items: Sequence[Item], asked: set[str]) -> tuple[Item, Item] | None:
    """The text form and the image form of an object, if it has both."""
    text = next((i for i in items if i.modality == "text" and i.kind not in asked), None)
    image = next((i for i in items if i.modality == "image"), None)
    return None if text is None or image is None else (text, image)


def _changed(both: NDArray[np.float64]) -> float:
    return float(both[0].argmax() != both[1].argmax())

"""Rows of an evaluation: slices of the queries, whole lists or the part of one modality.

Every row has intervals for every scorer and metric, and for each model the paired difference to
every other scorer with three tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unirank_jax.metrics import METRICS, Floats, Judged, measure, restrict
from unirank_jax.significance import Difference, Interval, Resampled, mcnemar, randomisation

HEADLINE = "hit@1"
LEVEL = 0.95
MACRO, MICRO, SINGLE = "macro over kinds", "all queries", "single positive"
WHOLE = "whole lists"
PARTS = {"images only": "image", "texts only": "text"}  # view -> modality it keeps
Found = TypeVar("Found")


@dataclass(frozen=True)
class Row:
    """One slice of the queries in one view of their lists.

    Attributes:
        view: "whole lists", or "images only" / "texts only": the part of each list that has the
            modality, over the lists where a relevant and a not relevant candidate remain.
        name: "macro over kinds", "all queries", "kind: ...", "positive: ..." (modality of the
            relevant candidates) or "single positive".
        queries: how many.
        values: scorer -> metric -> interval.
        differences: model -> other scorer -> paired difference on the headline metric.
        randomisation: model -> other scorer -> p value of the paired randomisation test.
        mcnemar: the same of McNemar's test; empty for macro averages (not defined there).
    """

    view: str
    name: str
    queries: int
    values: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Difference]]
    randomisation: dict[str, dict[str, float]]
    mcnemar: dict[str, dict[str, float]]


Slice = tuple[str, NDArray[np.int64], list[str] | None]


def slices_of(lists: Sequence[Judged]) -> list[Slice]:
    """(name, members, strata) of every row: macro, micro, kinds, positives, single positive."""
    kinds = [one.kind for one in lists]
    everything = np.arange(len(lists))
    found: list[Slice] = [(MACRO, everything, kinds), (MICRO, everything, None)]
    found += _groups("kind", kinds)
    found += _groups("positive", [one.positive_modality for one in lists])
    single = np.flatnonzero([one.relevant == 1 for one in lists])
    return [*found, (SINGLE, single, None)] if len(single) else found


def view_of(
    lists: Sequence[Judged], scores: Mapping[str, Sequence[ArrayLike]], modality: str | None
) -> tuple[list[Judged], dict[str, list[NDArray]]]:
    """The lists, and every scorer's scores, restricted to one modality (None: as they are)."""
    if modality is None:
        return list(lists), {
            name: [np.asarray(s) for s in values] for name, values in scores.items()
        }
    parts = {i: part for i, one in enumerate(lists) if (part := restrict(one, modality))}
    kept = {
        name: [np.asarray(values[i])[places] for i, (_, places) in parts.items()]
        for name, values in scores.items()
    }
    return [part for part, _ in parts.values()], kept


def rows_of(
    view: str,
    lists: list[Judged],
    scores: Mapping[str, list[NDArray]],
    models: tuple[str, ...],
    resamples: int,
    seed: int,
    nan_last: bool,
) -> list[Row]:
    """Every row of a view. `resamples` is also the number of rounds of the randomisation test."""
    columns = [(name, metric) for name in scores for metric in METRICS]
    tables = {name: measure(values, lists, nan_last=nan_last) for name, values in scores.items()}
    values = np.stack([tables[name][metric] for name, metric in columns], axis=1)  # (Q, columns)
    place = {column: i for i, column in enumerate(columns)}
    pairs = [(model, other) for model in models for other in scores if other != model]
    rows = []
    for name, members, strata in slices_of(lists):
        if view != WHOLE and name.startswith("positive"):
            continue  # one modality only: this row would repeat "all queries"
        drawn = Resampled.draw(values[members], strata, resamples=resamples, seed=seed)
        intervals: dict[str, dict[str, Interval]] = {scorer: {} for scorer in scores}
        for i, (scorer, metric) in enumerate(columns):
            intervals[scorer][metric] = drawn.interval(i, LEVEL)
        hits = {scorer: tables[scorer][HEADLINE][members] for scorer in scores}
        differences = {
            (a, b): drawn.difference(place[a, HEADLINE], place[b, HEADLINE], LEVEL)
            for a, b in pairs
        }
        apart = np.stack([hits[a] - hits[b] for a, b in pairs], axis=1) if pairs else None
        tested = (
            []
            if apart is None
            else randomisation(apart, strata, rounds=resamples, seed=seed).tolist()
        )
        exact = {(a, b): mcnemar(hits[a], hits[b], seed=seed) for a, b in pairs}
        rows.append(
            Row(
                view,
                name,
                len(members),
                intervals,
                _nested(models, differences),
                _nested(models, dict(zip(pairs, tested, strict=True))),
                _nested(models, exact) if strata is None else {},
            )
        )
    return rows


def mean_of(values: Floats, strata: Sequence[str] | None) -> float:
    """Mean over the queries, or mean of the strata's means."""
    if strata is None:
        return float(values.mean())
    labels = np.asarray(strata)
    return float(np.mean([values[labels == name].mean() for name in sorted(set(strata))]))


def _groups(title: str, labels: Sequence[str]) -> list[Slice]:
    values = np.asarray(labels)
    return [
        (f"{title}: {name}", np.flatnonzero(values == name), None) for name in sorted(set(labels))
    ]


def _nested(
    models: Sequence[str], pairs: Mapping[tuple[str, str], Found]
) -> dict[str, dict[str, Found]]:
    """model -> other scorer -> value."""
    return {
        model: {other: value for (one, other), value in pairs.items() if one == model}
        for model in models
    }

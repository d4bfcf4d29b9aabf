"""The numbers of a study: Hit@1 of every row, seed and query, means and intervals over both.

An interval resamples the queries (within their kinds) and, for rows of several seeds, the seeds as
well: what another run on other queries would give. Differences are paired by query.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unirank_jax.metrics import Judged, measure

STAGE1, FUSION = "stage 1", "stage 1 + reward"
REWARD = "reward model 0"
METRIC = "hit@1"
SHARES = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the reward in the fusion
LEVEL = 0.95

Floats = NDArray[np.float64]
Hits = dict[str, Floats]  # row -> (seeds, queries)


class StudyError(RuntimeError):
    """A study that cannot go on."""


@dataclass(frozen=True)
class Estimate:
    """A mean, its interval, and how surely it is not 0 (two-sided, from the bootstrap)."""

    mean: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Found:
    """What the records of a folder of scores say."""

    lists: list[Judged]
    scores: dict[str, list[Floats]]  # scorer -> one array per list


def collect(folder: Path) -> Found:
    """The records of all models in a folder, which scored the same lists.

    Raises:
        StudyError: they did not.
    """
    lists: list[Judged] | None = None
    scores: dict[str, list[Floats]] = {}
    for path in sorted(folder.glob("*/queries.jsonl")):
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        own = [
            Judged(
                one["qid"],
                tuple(one["grades"]),
                one["rel_min"],
                one["kind"],
                tuple(one["modalities"]),
                tuple(one["missing"]),
            )
            for one in records
        ]
        if lists is not None and own != lists:
            raise StudyError(f"{path}: not the lists of the others; remove {folder} and run again")
        lists = own
        for name in records[0]["scores"]:
            scores[name] = [
                np.array([np.nan if s is None else s for s in one["scores"][name]], np.float64)
                for one in records
            ]
    if lists is None:
        raise StudyError(f"{folder}: no scores")
    return Found(lists, scores)


def fused(found: Found, share: float) -> list[Floats]:
    """Stage 1's logits plus a share of the reward model's."""
    pairs = zip(found.scores[STAGE1], found.scores[REWARD], strict=True)
    return [logits + share * reward for logits, reward in pairs]


def fusion_share(valid: Found) -> float:
    """The share of the reward with the best validation metric, macro over kinds."""
    return max(SHARES, key=lambda share: macro(fused(valid, share), valid.lists))


def macro(scores: Sequence[Floats], lists: Sequence[Judged]) -> float:
    """The metric of a scorer, the mean over kinds of queries."""
    kinds = np.array([one.kind for one in lists])
    hits = measure(scores, lists, (METRIC,), nan_last=True)[METRIC]
    return float(np.mean([hits[kinds == kind].mean() for kind in np.unique(kinds)]))


def hits_of(found: Found, arms: Sequence[str], share: float, metric: str = METRIC) -> Hits:
    """A metric of every row and seed by query: rows of one model have one seed."""
    scores = dict(found.scores)
    scores[FUSION] = fused(found, share)
    hits = {
        name: measure(values, found.lists, (metric,), nan_last=True)[metric]
        for name, values in scores.items()
    }
    rows: Hits = {}
    for name, values in hits.items():
        row = row_of(name, arms)
        rows[row] = np.vstack([rows[row], values]) if row in rows else values[None]
    return rows


def row_of(name: str, arms: Sequence[str]) -> str:
    """The row of a scorer: "aligned 3" and "aligned 3 + Platt" are seeds of rows without the 3."""
    model, plus, repair = name.partition(" + ")
    arm, _, seed = model.rpartition(" ")
    return arm + plus + repair if arm in arms and seed.isdigit() else name


@dataclass(frozen=True)
class Drawn:
    """Macro means over kinds of each row, as they are and in every resample."""

    points: dict[str, float]
    means: dict[str, Floats]  # (resamples,)


def draw(rows: Hits, kinds: Sequence[str], resamples: int) -> Drawn:
    """Resample queries within kinds, the same for all rows, and the seeds of each row."""
    rng = np.random.default_rng(0)
    labels = np.asarray(kinds)
    names = np.unique(labels)
    points = {row: 0.0 for row in rows}
    means = {row: np.zeros(resamples) for row in rows}
    seeds = {
        row: rng.multinomial(len(some), np.full(len(some), 1 / len(some)), resamples) / len(some)
        for row, some in rows.items()
    }
    for name in names:
        members = np.flatnonzero(labels == name)
        count = len(members)
        counts = rng.multinomial(count, np.full(count, 1 / count), resamples) / count
        for row, some in rows.items():
            own = some[:, members]  # (seeds, queries)
            points[row] += float(own.mean()) / len(names)
            means[row] += np.einsum("rq,sq,rs->r", counts, own, seeds[row], optimize=True) / len(
                names
            )
    return Drawn(points, means)


def estimate(drawn: Drawn, row: str, other: str | None) -> Estimate:
    """Of a row, or of its difference to another."""
    point = drawn.points[row] - (drawn.points[other] if other else 0.0)
    means = drawn.means[row] - (drawn.means[other] if other else 0.0)
    # rows that are alike differ by nothing, not in their last bits
    return _estimate(point, np.round(means, 12))


def _estimate(point: float, means: Floats) -> Estimate:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    rarer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Estimate(point, float(low), float(high), min(1.0, 2 * (rarer + 1) / (len(means) + 1)))


def ratio(drawn: Drawn, row: str, other: str) -> Estimate:
    """How much higher a row is than another, as a share of the other."""
    point = drawn.points[row] / drawn.points[other] - 1
    means = np.round(drawn.means[row] / drawn.means[other] - 1, 12)
    return _estimate(point, means)

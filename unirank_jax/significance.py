"""How far a mean over queries can be trusted: bootstrap intervals and tests of differences.

`Resampled` draws the resamples once for many columns (systems, metrics), so their differences are
paired. Numpy only: no JAX here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_CHUNK = 256  # resamples whose query counts are in memory at a time


@dataclass(frozen=True)
class Interval:
    """A mean over `queries` queries and its percentile bootstrap interval."""

    mean: float
    low: float
    high: float
    queries: int


@dataclass(frozen=True)
class Difference:
    """Mean of a - b over the same queries and its percentile bootstrap interval.

    `p` is two-sided, from the bootstrap: 2 (1 + resamples on the rarer side of 0) / (1 + all).
    """

    mean: float
    low: float
    high: float
    p: float
    queries: int


@dataclass(frozen=True)
class Resampled:
    """Columns of per-query values and their means over bootstrap resamples of the queries.

    Attributes:
        values: (Q, M) one column per system or metric.
        points: (M,) means over the queries (micro), or means of the strata's means (macro).
        means: (resamples, M) the same over each resample; all columns share the drawn queries.
    """

    values: Floats
    points: Floats
    means: Floats

    @staticmethod
    def draw(
        values: Floats, strata: Sequence[str] | None, *, resamples: int, seed: int
    ) -> Resampled:
        """Resample the queries: all together (`strata` None) or within each stratum (macro)."""
        if values.ndim != 2 or len(values) == 0:
            raise ValueError(f"values have shape {values.shape}; give (queries >= 1, columns)")
        if np.isnan(values).any():
            raise ValueError("values hold NaN; leave these queries out before averaging")
        labels = np.zeros(len(values), np.int64) if strata is None else np.asarray(strata)
        names = np.unique(labels)
        rng = np.random.default_rng(seed)
        points = np.zeros(values.shape[1])
        means = np.zeros((resamples, values.shape[1]))
        for name in names:
            part = values[labels == name]  # (q, M)
            points += part.mean(axis=0) / len(names)
            for start in range(0, resamples, _CHUNK):
                stop = min(start + _CHUNK, resamples)
                means[start:stop] += _counts(rng, len(part), stop - start) @ part / len(part)
        # Every stratum weighs the same.
        return Resampled(values, points, means / len(names))

    def interval(self, column: int, level: float) -> Interval:
        """Percentile interval of one column's mean, e.g. level 0.95."""
        low, high = _quantiles(self.means[:, column], level)
        return Interval(float(self.points[column]), low, high, len(self.values))

    def difference(self, a: int, b: int, level: float) -> Difference:
        """Column a minus column b on the same queries."""
        means = self.means[:, a] - self.means[:, b]
        low, high = _quantiles(means, level)
        rarer = min(int((means <= 0).sum()), int((means >= 0).sum()))
        return Difference(
            mean=float(self.points[a] - self.points[b]),
            low=low,
            high=high,
            p=min(1.0, 2 * (rarer + 1) / (len(means) + 1)),
            queries=len(self.values),
        )


def mcnemar(a: Floats, b: Floats, *, seed: int) -> float:
    """Exact two-sided McNemar test of two systems' hits on the same queries.

    The test needs hits of 0 or 1. Where ties make a hit an expected value between them, the ties
    are broken once at random, by `seed`: each such query is a hit with that probability.

    Args:
        a, b: (Q,) expected hits, 0 to 1.

    Returns: P(a split at least as uneven of the queries that only one system hits | p = 1/2).
    """
    rng = np.random.default_rng(seed)
    hits_a, hits_b = rng.random(len(a)) < a, rng.random(len(b)) < b
    wins, losses = int((hits_a & ~hits_b).sum()), int((hits_b & ~hits_a).sum())
    n = wins + losses
    ways, tail = 1, 0  # ways = C(n, i)
    for i in range(min(wins, losses) + 1):
        tail += ways
        ways = ways * (n - i) // (i + 1)
    # Exact integers up to the last division: 2^n does not fit a float for thousands of queries.
    return min(1.0, (2 * tail * 10**18 >> n) / 10**18)


def randomisation(
    differences: Floats, strata: Sequence[str] | None, *, rounds: int, seed: int
) -> Floats:
    """Paired randomisation test of mean differences: two-sided p values, one per column.

    If two systems are alike, each query's difference has either sign equally often. In every round
    all signs are drawn anew (the same for all columns); p is (1 + rounds whose mean is at least as
    far from 0 as the one observed) / (1 + rounds).

    Args:
        differences: (Q, M) per-query values of one system less those of another.
        strata: the label of each query for a mean of strata's means (macro), or None (micro).

    Returns: (M,) p values.
    """
    if differences.ndim != 2 or len(differences) == 0:
        raise ValueError(f"differences have shape {differences.shape}; give (queries >= 1, pairs)")
    if np.isnan(differences).any():
        raise ValueError("differences hold NaN; leave these queries out")
    labels = np.zeros(len(differences), np.int64) if strata is None else np.asarray(strata)
    _, stratum, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    weighted = differences / (sizes[stratum] * len(sizes))[:, None]
    # Sums that are equal but for their order of summation count as equal.
    limit = np.abs(weighted.sum(axis=0)) - 1e-12 * np.abs(weighted).sum(axis=0)
    rng = np.random.default_rng(seed)
    hits = np.zeros(differences.shape[1], np.int64)
    for start in range(0, rounds, _CHUNK):
        count = min(_CHUNK, rounds - start)
        signs = rng.integers(2, size=(count, len(weighted)), dtype=np.int8) * 2.0 - 1.0
        hits += (np.abs(signs @ weighted) >= limit).sum(axis=0)
    return (1 + hits) / (1 + rounds)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for several tests: the values to compare with the level of all together."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = largest
    return corrected


def _counts(rng: np.random.Generator, queries: int, resamples: int) -> Floats:
    """How often each query is drawn in each resample: (resamples, queries)."""
    drawn = rng.integers(queries, size=(resamples, queries), dtype=np.int32)
    flat = (drawn + queries * np.arange(resamples)[:, None]).ravel()
    counts = np.bincount(flat, minlength=resamples * queries)
    return counts.reshape(resamples, queries).astype(np.float64)


def _quantiles(means: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

"""How far a reranker prefers one modality in hybrid lists, whatever the relevance.

Text is compared with image; interleaved candidates count in rankings, not in pairs. Intervals
come from resampling queries, those of the regression from its cluster-robust errors. No JAX here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unirank_jax.calibration import CalibrationError, logistic_regression, sigmoid
from unirank_jax.metrics import UNJUDGED, Judged, MetricError
from unirank_jax.significance import Interval

Floats = NDArray[np.float64]
CUTOFFS = (1, 5, 10)
LEVEL, NORMAL = 0.95, 1.959964  # of all intervals, and its normal quantile


@dataclass(frozen=True)
class Bias:
    """Preference for a modality; what the lists do not let one measure is None or left out.

    Attributes:
        share_excess: k -> share of images among the first k, less their share there in the ideal
            order (ties of grade and of score in random order); above 0 favours images.
        order_bias: P(relevant text above irrelevant image) - P(relevant image above irrelevant
            text); above 0 favours texts.
        same, cross: share of relevant-irrelevant pairs in the right order, within a modality and
            across modalities; `gap` is same - cross.
        win_rate: grade -> P(text above image | same query, same grade) - 1/2.
        offset: grade -> (mean score of images - mean score of texts) / standard deviation of all.
        shift, slope: c and e of logit P(relevant) = a + b s + c [image] + e s [image], scores s
            standardised: what the modality still says beside the score. 0 and 0: one scale.
        distance: grade -> Kolmogorov-Smirnov distance between the scores of texts and of images.
        queries: how many lists hold both texts and images.
    """

    share_excess: dict[int, Interval]
    order_bias: Interval | None
    same: Interval | None
    cross: Interval | None
    gap: Interval | None
    win_rate: dict[int, Interval]
    offset: dict[int, Interval]
    shift: Interval | None
    slope: Interval | None
    distance: dict[int, float]
    queries: int


@dataclass(frozen=True)
class _List:
    """The judged candidates of a hybrid list, with standardised scores; (N,) each."""

    scores: Floats
    grades: NDArray[np.int64]
    relevant: NDArray[np.bool_]
    image: NDArray[np.bool_]
    text: NDArray[np.bool_]


def modality_bias(
    scores: Sequence[ArrayLike], lists: Sequence[Judged], *, resamples: int, seed: int
) -> Bias:
    """Measure one scorer on the lists that hold both texts and images.

    Args:
        scores: per list (N,), higher is better; NaN (failed candidates) is left out.
        lists: judgements with modalities.
        resamples: bootstrap resamples of the queries.

    Raises:
        MetricError: no list holds a text and an image, or all scores are equal.
    """
    hybrid = _hybrid(scores, lists)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(hybrid), np.full(len(hybrid), 1 / len(hybrid)), resamples)
    draws = drawn.astype(np.float64)  # (resamples, Q): how often each query was drawn

    def mean(values: Callable[[_List], float]) -> Interval:
        x = np.array([values(one) for one in hybrid])
        return _interval(x.mean(), draws @ x / len(hybrid), len(hybrid))

    def difference(first: _Share | None, second: _Share | None) -> Interval | None:
        """Interval of first - second; None where one of them has no cases."""
        if first is None or second is None:
            return None
        return _interval(first.point - second.point, first.means - second.means, len(hybrid))

    def share(cases: Callable[[_List], tuple[float, float]]) -> _Share | None:
        """Sum of the first over sum of the second, over queries."""
        sums, totals = np.array([cases(one) for one in hybrid]).T  # (Q,) each
        if not totals.any():
            return None
        with np.errstate(invalid="ignore"):
            return _Share(sums.sum() / totals.sum(), (draws @ sums) / (draws @ totals))

    def interval(of: _Share | None, less: float = 0.0) -> Interval | None:
        return None if of is None else _interval(of.point - less, of.means - less, len(hybrid))

    text_first = share(lambda one: _wins(one, one.text & one.relevant, one.image & ~one.relevant))
    image_first = share(lambda one: _wins(one, one.image & one.relevant, one.text & ~one.relevant))
    same = share(lambda one: _right(one, across=False))
    cross = share(lambda one: _right(one, across=True))
    shift, slope = _regression(hybrid)

    def excess(k: int) -> Interval:
        return mean(lambda one: _share_excess(one, k))

    def win_rate(grade: int) -> Interval | None:
        return interval(share(lambda one: _wins(one, *_of_grade(one, grade))), 0.5)

    def offset(grade: int) -> Interval | None:
        return difference(
            share(lambda one: _total(one, _of_grade(one, grade)[1])),
            share(lambda one: _total(one, _of_grade(one, grade)[0])),
        )

    grades = sorted({int(grade) for one in hybrid for grade in one.grades})
    return Bias(
        share_excess={k: excess(k) for k in CUTOFFS},
        order_bias=difference(text_first, image_first),
        same=interval(same),
        cross=interval(cross),
        gap=difference(same, cross),
        win_rate={grade: found for grade in grades if (found := win_rate(grade))},
        offset={grade: found for grade in grades if (found := offset(grade))},
        shift=shift,
        slope=slope,
        distance={grade: d for grade in grades if (d := _distance(hybrid, grade)) is not None},
        queries=len(hybrid),
    )


@dataclass(frozen=True)
class _Share:
    """A ratio of sums over queries, and the same over each resample."""

    point: float
    means: Floats  # (resamples,); NaN where a resample holds no case


def _hybrid(scores: Sequence[ArrayLike], lists: Sequence[Judged]) -> list[_List]:
    kept = []
    for values, judged in zip(scores, lists, strict=True):
        numbers = np.asarray(values, np.float64)
        grades, modalities = np.array(judged.grades), np.array(judged.modalities)
        usable = (grades != UNJUDGED) & ~np.isnan(numbers)
        numbers, grades, modalities = numbers[usable], grades[usable], modalities[usable]
        text, image = modalities == "text", modalities == "image"
        if text.any() and image.any():
            kept.append(_List(numbers, grades, grades >= judged.rel_min, image, text))
    if not kept:
        raise MetricError("no list holds both a text and an image; there is no bias to measure")
    everything = np.concatenate([one.scores for one in kept])
    centre, spread = everything.mean(), everything.std()
    if spread == 0:
        raise MetricError("all scores are equal; there is no bias to measure")
    return [
        _List((one.scores - centre) / spread, one.grades, one.relevant, one.image, one.text)
        for one in kept
    ]


def _of_grade(one: _List, grade: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which candidates are texts, and which images, of this grade."""
    return one.text & (one.grades == grade), one.image & (one.grades == grade)


def _wins(one: _List, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, float]:
    """Pairs of a first and a second where the first scores higher (equal: half), and all pairs."""
    above = np.sign(one.scores[first][:, None] - one.scores[second][None])
    return float((above + 1).sum() / 2), float(above.size)


def _right(one: _List, across: bool) -> tuple[float, float]:
    """Relevant-irrelevant pairs in the right order, and all of them, over two modalities or one."""
    right = pairs = 0.0
    for upper in (one.text, one.image):
        lower = ~upper & (one.text | one.image) if across else upper
        won, number = _wins(one, upper & one.relevant, lower & ~one.relevant)
        right, pairs = right + won, pairs + number
    return right, pairs


def _total(one: _List, members: NDArray[np.bool_]) -> tuple[float, float]:
    return float(one.scores[members].sum()), float(members.sum())


def _share_excess(one: _List, k: int) -> float:
    k = min(k, len(one.scores))
    return _expected_images(one.scores, one.image, k) - _expected_images(one.grades, one.image, k)


def _expected_images(keys: NDArray, image: NDArray[np.bool_], k: int) -> float:
    """Expected share of images among the first k by falling key, equal keys in random order."""
    total, left = 0.0, k
    for key in np.unique(keys)[::-1]:
        members = keys == key
        taken = min(left, int(members.sum()))
        total += taken * image[members].mean()
        left -= taken
        if not left:
            break
    return float(total / k)


def _distance(hybrid: Sequence[_List], grade: int) -> float | None:
    """Largest difference of the two empirical distribution functions."""
    texts, images = (
        np.sort(np.concatenate([one.scores[_of_grade(one, grade)[side]] for one in hybrid]))
        for side in (0, 1)
    )
    if not len(texts) or not len(images):
        return None
    points = np.concatenate([texts, images])
    below = [np.searchsorted(x, points, side="right") / len(x) for x in (texts, images)]
    return float(np.abs(below[0] - below[1]).max())


def _regression(hybrid: Sequence[_List]) -> tuple[Interval | None, Interval | None]:
    """c and e with intervals from errors that are robust to clusters (Liang and Zeger 1986).

    None where the classes can be separated, so that the weights have no bound.
    """
    rows, relevant, cluster = [], [], []
    for number, one in enumerate(hybrid):
        used = one.text | one.image
        scores, image = one.scores[used], one.image[used].astype(np.float64)
        rows.append(np.stack([np.ones_like(scores), scores, image, scores * image], axis=1))
        relevant.append(one.relevant[used])
        cluster.append(np.full(len(scores), number))
    features, targets = np.concatenate(rows), np.concatenate(relevant).astype(np.float64)
    try:
        weights = logistic_regression(features, targets)
    except CalibrationError:
        return None, None
    chances = sigmoid(features @ weights)
    inverse = np.linalg.inv((features * (chances * (1 - chances))[:, None]).T @ features)
    pulls = np.zeros((len(hybrid), 4))  # each query's part of the gradient
    np.add.at(pulls, np.concatenate(cluster), features * (targets - chances)[:, None])
    errors = np.sqrt(np.diag(inverse @ (pulls.T @ pulls) @ inverse))
    shift, slope = (
        Interval(
            weights[i],
            weights[i] - NORMAL * errors[i],
            weights[i] + NORMAL * errors[i],
            len(hybrid),
        )
        for i in (2, 3)
    )
    return shift, slope


def _interval(point: float, means: Floats, queries: int) -> Interval:
    low, high = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(point), float(low), float(high), queries)

"""How far scores are probabilities, and Platt's repair. Numpy only: no JAX here.

A logit is turned into a score by sigmoid((logit + bias) / temperature), as in `unirank.json`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
BINS = 15
_CLIP = 700.0  # beyond this exp() overflows in float64


class CalibrationError(ValueError):
    """Data from which nothing can be fitted or measured; the message says why."""


@dataclass(frozen=True)
class Calibration:
    """score = sigmoid((logit + bias) / temperature); `fit_on` names the data, None = not fitted."""

    bias: float
    temperature: float
    fit_on: str | None

    def scores(self, logits: ArrayLike) -> Floats:
        """Scores in [0, 1], float64, of the shape of the logits; NaN stays NaN."""
        return sigmoid((np.asarray(logits, np.float64) + self.bias) / self.temperature)


IDENTITY = Calibration(bias=0.0, temperature=1.0, fit_on=None)


@dataclass(frozen=True)
class Bin:
    """Candidates of like score: their mean score and the share of them that is relevant."""

    score: float
    relevant: float
    count: int


@dataclass(frozen=True)
class Quality:
    """How well scores predict relevance.

    Attributes:
        ece: expected calibration error over bins of equal mass (Naeini et al. 2015): the mean of
            |mean score - share of relevant| weighted by the bins' sizes.
        brier: mean squared difference of score and relevance (0 or 1).
        nll: mean negative log-likelihood in nats, scores clipped to [1e-12, 1 - 1e-12].
        slope: of the logistic regression of relevance on the score's own log-odds; 1 is
            calibrated, below 1 is overconfident (Cox 1958). None where it cannot be fitted.
        bins: for a reliability diagram, by rising score.
    """

    ece: float
    brier: float
    nll: float
    slope: float | None
    bins: tuple[Bin, ...]


def sigmoid(x: ArrayLike) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return 1.0 / (1.0 + np.exp(-np.clip(np.asarray(x, np.float64), -_CLIP, _CLIP)))


def fit_platt(logits: ArrayLike, relevant: ArrayLike, fit_on: str) -> Calibration:
    """The bias and temperature of greatest likelihood, with Platt's smoothed targets.

    A relevant candidate counts as (n+ + 1) / (n+ + 2), another as 1 / (n- + 2) (Platt 1999), so
    that separable data have a finite fit.

    Args:
        logits: (N,) uncalibrated, z_yes - z_no.
        relevant: (N,) bool.
        fit_on: name of the data, kept with the result.

    Raises:
        CalibrationError: only one class, logits that are not finite or all equal, or logits that
            rank the relevant candidates below the others (the temperature would be negative).
    """
    values, labels = _checked(logits, relevant)
    positives = int(labels.sum())
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))
    centre, spread = values.mean(), values.std()
    if spread == 0:
        raise CalibrationError("all logits are equal; nothing can be fitted to them")
    features = np.stack([np.ones_like(values), (values - centre) / spread], axis=1)  # (N, 2)
    constant, slope = logistic_regression(features, targets)
    if slope <= 0:
        raise CalibrationError(
            "relevant candidates have no higher logits than others; train the model first"
        )
    bias, temperature = constant * spread / slope - centre, spread / slope
    return Calibration(float(bias), float(temperature), fit_on)


def quality(scores: ArrayLike, relevant: ArrayLike, bins: int = BINS) -> Quality:
    """Measure scores in [0, 1] against relevance.

    Raises:
        CalibrationError: only one class, or scores that are not finite.
    """
    values, labels = _checked(scores, relevant)
    if values.min() < 0 or values.max() > 1:
        raise CalibrationError("scores must lie in [0, 1]; give probabilities, not logits")
    safe = np.clip(values, 1e-12, 1 - 1e-12)
    found = reliability(values, labels, bins)
    return Quality(
        ece=sum(abs(one.score - one.relevant) * one.count for one in found) / len(values),
        brier=float(np.square(values - labels).mean()),
        nll=float(-np.where(labels, np.log(safe), np.log1p(-safe)).mean()),
        slope=_slope(np.log(safe) - np.log1p(-safe), labels),
        bins=found,
    )


def reliability(scores: ArrayLike, relevant: ArrayLike, bins: int = BINS) -> tuple[Bin, ...]:
    """At most `bins` bins of equal mass by rising score; equal scores are never separated."""
    values, labels = np.asarray(scores, np.float64), np.asarray(relevant, bool)
    order = np.argsort(values, kind="stable")
    values, labels = values[order], labels[order]
    edges = np.linspace(0, len(values), bins + 1).round().astype(int)[1:-1]
    # the first place of the score that stands at each edge
    edges = np.unique(np.searchsorted(values, values[edges[edges < len(values)]], side="left"))
    parts = np.split(np.arange(len(values)), edges[edges > 0])
    return tuple(
        Bin(float(values[part].mean()), float(labels[part].mean()), len(part)) for part in parts
    )


def logistic_regression(features: Floats, targets: Floats, steps: int = 100) -> Floats:
    """Weights (K,) of greatest likelihood for targets in [0, 1]: Newton's method with halving.

    features (N, K) float64, with a column of ones where a constant is wanted.

    Raises:
        CalibrationError: it does not converge (separable classes, dependent features).
    """
    weights = np.zeros(features.shape[1])
    value = _likelihood(features, targets, weights)
    for _ in range(steps):
        chances = sigmoid(features @ weights)
        gradient = features.T @ (targets - chances)
        curvature = (features * (chances * (1 - chances))[:, None]).T @ features
        try:
            move = np.linalg.solve(curvature, gradient)
        except np.linalg.LinAlgError:
            break
        size = 1.0
        while size > 1e-6 and _likelihood(features, targets, weights + size * move) < value:
            size /= 2
        weights = weights + size * move
        value = _likelihood(features, targets, weights)
        if np.abs(size * move).max() < 1e-9 * (1 + np.abs(weights).max()):
            return weights
    raise CalibrationError(
        "the logistic regression does not converge; the classes are separable or too few differ"
    )


def _likelihood(features: Floats, targets: Floats, weights: Floats) -> float:
    logits = features @ weights
    return float((targets * logits - np.logaddexp(0, logits)).sum())


def _slope(odds: Floats, labels: NDArray[np.bool_]) -> float | None:
    try:
        features = np.stack([np.ones_like(odds), odds], axis=1)
        return float(logistic_regression(features, labels.astype(np.float64))[1])
    except CalibrationError:
        return None


def _checked(values: ArrayLike, relevant: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    numbers, labels = np.asarray(values, np.float64), np.asarray(relevant, bool)
    if numbers.shape != labels.shape or numbers.ndim != 1:
        raise CalibrationError(
            f"values {numbers.shape} and relevance {labels.shape} must be two arrays (N,)"
        )
    if not np.isfinite(numbers).all():
        raise CalibrationError("values are not finite; leave failed candidates out")
    if labels.all() or not labels.any():
        raise CalibrationError("all candidates have the same relevance; both classes are needed")
    return numbers, labels

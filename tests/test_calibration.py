"""Calibration: the fit recovers what made the data, and every measure equals its plain formula."""

from __future__ import annotations

import numpy as np
import pytest

from unirank_jax.calibration import (
    IDENTITY,
    Calibration,
    CalibrationError,
    fit_platt,
    logistic_regression,
    quality,
    reliability,
    sigmoid,
)


def drawn(bias: float, temperature: float, count: int = 40000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and relevance drawn with the probability that this calibration gives."""
    rng = np.random.default_rng(0)
    logits = rng.normal(1.0, 3.0, count)
    return logits, rng.random(count) < Calibration(bias, temperature, None).scores(logits)


def test_platt_recovers_what_made_the_data() -> None:
    logits, relevant = drawn(-1.5, 2.5)
    fitted = fit_platt(logits, relevant, "made up")
    assert fitted.bias == pytest.approx(-1.5, abs=0.1)
    assert fitted.temperature == pytest.approx(2.5, rel=0.05)
    assert fitted.fit_on == "made up"
    before = quality(IDENTITY.scores(logits), relevant)
    after = quality(fitted.scores(logits), relevant)
    assert after.ece < 0.01 < before.ece
    assert after.nll < before.nll and after.brier < before.brier
    assert after.slope == pytest.approx(1.0, abs=0.01)
    assert before.slope == pytest.approx(1 / 2.5, rel=0.05), "overconfident by the temperature"


def test_platt_is_finite_on_separable_data_and_refuses_reversed_data() -> None:
    logits = np.array([-3.0, -2.0, 2.0, 4.0])
    relevant = np.array([False, False, True, True])
    fitted = fit_platt(logits, relevant, "")
    assert np.isfinite([fitted.bias, fitted.temperature]).all() and fitted.temperature > 0
    with pytest.raises(CalibrationError, match="no higher logits"):
        fit_platt(-logits, relevant, "")


def test_measures_equal_the_plain_formulas() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
    relevant = np.array([0, 0, 1, 0, 1, 1])
    found = quality(scores, relevant, bins=3)
    bins = [(0.15, 0.0), (0.45, 0.5), (0.8, 1.0)]
    np.testing.assert_allclose([(b.score, b.relevant) for b in found.bins], bins)
    assert found.ece == pytest.approx((0.15 + 0.05 + 0.2) / 3)
    assert found.brier == pytest.approx(np.square(scores - relevant).mean())
    chances = np.where(relevant, scores, 1 - scores)
    assert found.nll == pytest.approx(-np.log(chances).mean())


def test_equal_scores_share_a_bin() -> None:
    scores = np.array([0.5] * 30 + [0.9] * 3)
    relevant = np.array([True] * 15 + [False] * 15 + [True] * 3)
    found = reliability(scores, relevant, bins=15)
    np.testing.assert_allclose([(one.score, one.count) for one in found], [(0.5, 30), (0.9, 3)])
    assert quality(scores, relevant).ece == pytest.approx(3 * 0.1 / 33)


def test_regression_has_no_slope_left_at_its_answer() -> None:
    rng = np.random.default_rng(1)
    features = np.stack([np.ones(500), *rng.normal(size=(3, 500))], axis=1)
    targets = (rng.random(500) < sigmoid(features @ [0.3, 1.0, -2.0, 0.0])).astype(float)
    weights = logistic_regression(features, targets)
    assert np.abs(features.T @ (targets - sigmoid(features @ weights))).max() < 1e-6
    assert weights == pytest.approx([0.3, 1.0, -2.0, 0.0], abs=0.5)


@pytest.mark.parametrize(
    ("scores", "relevant", "message"),
    [
        ([0.1, 0.2], [True, True], "same relevance"),
        ([0.1, np.nan], [True, False], "not finite"),
        ([0.1, 1.2], [True, False], r"lie in \[0, 1\]"),
        ([0.1], [True, False], "two arrays"),
    ],
)
def test_what_cannot_be_measured_is_told(scores, relevant, message) -> None:
    with pytest.raises(CalibrationError, match=message):
        quality(scores, relevant)


def test_equal_logits_are_told() -> None:
    with pytest.raises(CalibrationError, match="all logits are equal"):
        fit_platt([1.0, 1.0], [True, False], "")


def test_scores_do_not_overflow() -> None:
    logits = np.array([-1e6, 0.0, 1e6], np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert IDENTITY.scores(logits) == pytest.approx([0.0, 0.5, 1.0])

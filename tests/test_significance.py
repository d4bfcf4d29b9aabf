"""Bootstrap intervals and tests against closed forms and known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unirank_jax.significance import Resampled, mcnemar


def test_resamples_have_the_standard_error_of_the_mean():
    values = np.random.default_rng(0).random((400, 1))
    drawn = Resampled.draw(values, None, resamples=4000, seed=1)
    assert drawn.points[0] == pytest.approx(values.mean())
    assert drawn.means.mean() == pytest.approx(values.mean(), abs=1e-3)
    assert drawn.means.std() == pytest.approx(values.std() / math.sqrt(400), rel=0.05)
    interval = drawn.interval(0, 0.95)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.06)
    assert interval.low < interval.mean < interval.high and interval.queries == 400


def test_macro_weighs_kinds_alike_and_resamples_within_them():
    values = np.array([[0.0]] * 90 + [[1.0]] * 10)
    kinds = ["a"] * 90 + ["b"] * 10
    drawn = Resampled.draw(values, kinds, resamples=100, seed=0)
    assert drawn.points[0] == 0.5
    assert np.allclose(drawn.means, 0.5)  # constant within each kind: nothing can vary


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    hard = rng.random(300)  # the difficulty of a query is common to both systems
    values = np.stack([hard + 0.01, hard], axis=1)
    drawn = Resampled.draw(values, None, resamples=2000, seed=3)
    difference = drawn.difference(0, 1, 0.95)
    assert difference.mean == pytest.approx(0.01)
    assert difference.low == pytest.approx(0.01) and difference.high == pytest.approx(0.01)
    assert difference.p == pytest.approx(2 / 2001)
    alone = drawn.interval(0, 0.95)
    assert alone.high - alone.low > 0.05


def test_equal_systems_differ_by_nothing():
    column = np.random.default_rng(0).random(50)
    drawn = Resampled.draw(np.stack([column, column], axis=1), None, resamples=200, seed=0)
    difference = drawn.difference(0, 1, 0.95)
    assert (difference.mean, difference.p) == (0.0, 1.0)


def test_the_p_value_is_uniform_when_there_is_no_difference():
    rng = np.random.default_rng(5)
    small = 0
    for seed in range(200):
        values = rng.normal(size=(100, 2))
        drawn = Resampled.draw(values, None, resamples=400, seed=seed)
        small += drawn.difference(0, 1, 0.95).p < 0.1
    assert 8 <= small <= 36  # 20 expected, 3.8 standard deviations either side


def test_the_seed_decides_the_draw():
    values = np.random.default_rng(0).random((30, 2))
    first = Resampled.draw(values, None, resamples=300, seed=7)
    again = Resampled.draw(values, None, resamples=300, seed=7)
    other = Resampled.draw(values, None, resamples=300, seed=8)
    assert np.array_equal(first.means, again.means)
    assert not np.array_equal(first.means, other.means)


def test_bad_values_are_errors():
    with pytest.raises(ValueError, match="NaN"):
        Resampled.draw(np.array([[np.nan]]), None, resamples=1, seed=0)
    with pytest.raises(ValueError, match="shape"):
        Resampled.draw(np.zeros((0, 1)), None, resamples=1, seed=0)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 1), (10, 10), (30, 12)])
def test_mcnemar_is_the_two_sided_binomial_of_the_discordant_queries(wins, losses):
    a = np.array([1.0] * wins + [0.0] * losses + [1.0] * 7 + [0.0] * 5)
    b = np.array([0.0] * wins + [1.0] * losses + [1.0] * 7 + [0.0] * 5)
    n = wins + losses
    tail = sum(math.comb(n, i) for i in range(min(wins, losses) + 1)) / 2**n
    assert mcnemar(a, b, seed=0) == pytest.approx(min(1.0, 2 * tail), abs=1e-15)
    assert mcnemar(b, a, seed=0) == mcnemar(a, b, seed=0)


def test_mcnemar_on_thousands_of_queries():
    a = np.array([1.0] * 2100 + [0.0] * 1900)
    # Normal approximation with continuity correction: z = (|wins - losses| - 1) / sqrt(n)
    p = math.erfc((200 - 1) / math.sqrt(4000) / math.sqrt(2))
    assert mcnemar(a, 1 - a, seed=0) == pytest.approx(p, rel=0.01)


def test_mcnemar_breaks_ties_at_random_not_by_counting_fractions_as_losses():
    # Hits 40 % of the time against a chance of 25 %: better, though it "loses" most queries.
    a = np.array([1.0] * 400 + [0.0] * 600)
    chance = np.full(1000, 0.25)
    assert mcnemar(a, chance, seed=0) < 1e-6
    same = [mcnemar(chance, chance, seed=seed) for seed in range(200)]
    assert 8 <= sum(p < 0.1 for p in same) <= 36

"""Bootstrap intervals and tests against closed forms and known answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from unirank_jax.significance import Resampled, holm, mcnemar, randomisation


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


def every_sign(differences, strata):
    """The exact p value: all assignments of signs, enumerated."""
    labels = np.asarray(strata) if strata else np.zeros(len(differences), int)
    names = sorted(set(labels.tolist()))

    def mean(values):
        return np.mean([values[labels == name].mean() for name in names])

    means = [
        abs(mean(differences * np.array(signs)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    return np.mean(np.array(means) >= abs(mean(differences)) - 1e-12)


@pytest.mark.parametrize("strata", [None, list("aaaaaaabbb")])
def test_randomisation_agrees_with_the_enumeration_of_all_signs(strata):
    rng = np.random.default_rng(3)
    columns = np.stack(
        [
            rng.normal(0.4, 1.0, 10),
            rng.integers(-1, 2, 10).astype(float),  # many ties
            rng.normal(0.0, 1.0, 10),
            np.full(10, 0.1),
        ],
        axis=1,
    )
    found = randomisation(columns, strata, rounds=40_000, seed=1)
    for place, value in enumerate(found):
        exact = every_sign(columns[:, place], strata)
        assert value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000) + 1e-4)
    assert every_sign(columns[:, 3], strata) == 2 / 2**10, "only all signs alike are as far"


def test_macro_and_micro_ask_different_questions():
    # One kind with many small gains, one with few large losses of the same sum.
    differences = np.array([[0.1]] * 80 + [[-1.0]] * 8)
    micro = randomisation(differences, None, rounds=2000, seed=0)[0]
    macro = randomisation(differences, ["a"] * 80 + ["b"] * 8, rounds=2000, seed=0)[0]
    assert micro == 1.0 and macro < 0.05


def test_randomisation_p_values_are_uniform_when_there_is_no_difference():
    rng = np.random.default_rng(8)
    values = np.concatenate(
        [
            randomisation(rng.normal(size=(60, 5)), list("abc") * 20, rounds=300, seed=seed)
            for seed in range(80)
        ]
    )
    for level in (0.05, 0.1, 0.5, 0.9):
        spread = math.sqrt(level * (1 - level) / len(values))
        assert np.mean(values <= level) == pytest.approx(level, abs=4 * spread + 1 / 300)


def test_equal_systems_have_p_one_and_p_is_never_zero():
    assert randomisation(np.zeros((7, 1)), None, rounds=50, seed=0)[0] == 1.0
    assert randomisation(np.ones((300, 1)), None, rounds=99, seed=0)[0] == 0.01
    again = [randomisation(np.eye(4), None, rounds=64, seed=5).tolist() for _ in range(2)]
    assert again[0] == again[1]
    with pytest.raises(ValueError, match="NaN"):
        randomisation(np.array([[np.nan]]), None, rounds=1, seed=0)
    with pytest.raises(ValueError, match="shape"):
        randomisation(np.zeros((0, 1)), None, rounds=1, seed=0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2] and holm([]) == []

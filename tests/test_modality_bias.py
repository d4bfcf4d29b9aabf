"""Modality bias: each measure against its definition, and a bias that was put in is found again."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from unirank_jax.metrics import Judged, MetricError
from unirank_jax.modality_bias import modality_bias


def made(
    queries: int, favour: float, seed: int = 0, steep: float = 1.0
) -> tuple[list[np.ndarray], list[Judged]]:
    """Hybrid lists whose image scores are raised by `favour` standard deviations of the noise."""
    rng = np.random.default_rng(seed)
    scores, lists = [], []
    for number in range(queries):
        modalities = tuple(rng.permutation(["text"] * 6 + ["image"] * 6 + ["mixed"]))
        grades = np.zeros(13, int)
        grades[rng.permutation(13)[:3]] = 1
        image = np.array([one == "image" for one in modalities])
        values = 2.0 * grades + rng.normal(size=13)
        scores.append(np.where(image, values * steep + favour, values))
        lists.append(Judged(f"q{number}", tuple(grades.tolist()), 1, "", modalities))
    return scores, lists


def test_an_unbiased_scorer_shows_none() -> None:
    bias = modality_bias(*made(800, 0.0), resamples=500, seed=0)
    assert bias.order_bias and bias.gap and bias.shift and bias.slope
    spans = [*bias.share_excess.values(), *bias.win_rate.values(), *bias.offset.values()]
    spans += [bias.order_bias, bias.gap, bias.shift, bias.slope]
    inside = [one.low <= 0 <= one.high for one in spans]
    assert sum(inside) >= len(inside) - 2, "95 % intervals hold 0 nearly always"
    assert max(bias.distance.values()) < 0.08
    assert bias.queries == 800


def test_a_bias_that_was_put_in_is_found_in_every_measure() -> None:
    bias = modality_bias(*made(800, 1.5), resamples=500, seed=0)
    assert bias.order_bias and bias.gap and bias.shift
    assert all(one.low > 0 for one in bias.share_excess.values())
    assert bias.order_bias.high < 0
    assert bias.gap.low > 0
    assert all(one.high < 0 for one in bias.win_rate.values())
    assert all(one.low > 0.5 for one in bias.offset.values())
    assert bias.shift.high < 0, "an image needs a higher score for the same relevance"
    assert min(bias.distance.values()) > 0.4
    away = modality_bias(*made(800, -1.5), resamples=500, seed=0)
    assert away.order_bias and away.shift
    assert away.order_bias.low > 0 and away.shift.low > 0


def test_a_steeper_modality_shows_in_the_slope() -> None:
    bias = modality_bias(*made(800, 0.0, steep=2.0), resamples=50, seed=0)
    assert bias.slope and bias.slope.high < 0


def test_points_equal_the_definitions() -> None:
    scores, lists = made(12, 0.7, seed=3)
    scores = [np.round(one * 2) / 2 for one in scores]  # with ties
    bias = modality_bias(scores, lists, resamples=20, seed=0)
    wins = {"TI": [0.0, 0], "IT": [0.0, 0], "TT": [0.0, 0], "II": [0.0, 0]}
    equal = {0: [0.0, 0], 1: [0.0, 0]}
    for values, judged in zip(scores, lists, strict=True):
        for a in range(13):
            for b in range(13):
                first, second = judged.modalities[a], judged.modalities[b]
                if "mixed" in (first, second) or a == b:
                    continue
                won = 1.0 if values[a] > values[b] else 0.5 if values[a] == values[b] else 0.0
                if judged.grades[a] and not judged.grades[b]:
                    case = wins[(first[0] + second[0]).upper()]
                    case[0], case[1] = case[0] + won, case[1] + 1
                if judged.grades[a] == judged.grades[b] and (first, second) == ("text", "image"):
                    case = equal[judged.grades[a]]
                    case[0], case[1] = case[0] + won, case[1] + 1
    share = {name: won / number for name, (won, number) in wins.items()}
    assert bias.order_bias and bias.same and bias.cross and bias.gap
    assert bias.order_bias.mean == pytest.approx(share["TI"] - share["IT"])
    same = (wins["TT"][0] + wins["II"][0]) / (wins["TT"][1] + wins["II"][1])
    cross = (wins["TI"][0] + wins["IT"][0]) / (wins["TI"][1] + wins["IT"][1])
    assert (bias.same.mean, bias.cross.mean) == pytest.approx((same, cross))
    assert bias.gap.mean == pytest.approx(same - cross)
    for grade, (won, number) in equal.items():
        assert bias.win_rate[grade].mean == pytest.approx(won / number - 0.5)


def test_share_excess_is_the_mean_over_all_orders_of_ties() -> None:
    judged = Judged("q", (1, 0, 0, 1), 1, "", ("image", "text", "image", "text"))
    values = np.array([2.0, 2.0, 1.0, 2.0])

    def share(keys: np.ndarray) -> float:
        orders = [p for p in permutations(range(4)) if all(np.diff(keys[list(p)]) <= 0)]
        return float(np.mean([judged.modalities[p[0]] == "image" for p in orders]))

    bias = modality_bias([values], [judged], resamples=5, seed=0)
    expected = share(values) - share(np.array(judged.grades))
    assert bias.share_excess[1].mean == pytest.approx(expected) == pytest.approx(1 / 3 - 1 / 2)


def test_unjudged_and_failed_candidates_are_left_out() -> None:
    scores, lists = made(20, 0.5)
    expected = modality_bias(scores, lists, resamples=20, seed=0)
    more = [
        replace(one, grades=(*one.grades, -1, 1), modalities=(*one.modalities, "image", "text"))
        for one in lists
    ]
    longer = [np.append(one, [99.0, np.nan]) for one in scores]
    assert modality_bias(longer, more, resamples=20, seed=0) == expected


def test_lists_of_one_modality_say_nothing() -> None:
    judged = Judged("q", (1, 0), 1, "", ("text", "text"))
    with pytest.raises(MetricError, match="both a text and an image"):
        modality_bias([np.array([1.0, 0.0])], [judged], resamples=5, seed=0)
    hybrid = replace(judged, modalities=("text", "image"))
    with pytest.raises(MetricError, match="all scores are equal"):
        modality_bias([np.zeros(2)], [hybrid], resamples=5, seed=0)

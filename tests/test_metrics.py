"""Metrics against hand-computed lists and against the mean over every order of tied candidates."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from unirank_jax.metrics import (
    METRICS,
    Judged,
    MetricError,
    chance,
    list_metrics,
    measure,
    restrict,
    tie_rate,
)

ALL = (*METRICS, "hit@2", "hit@3", "recall@3", "mrr", "mrr@2", "ndcg@2", "ndcg_listed@3")


def textbook(grades, rel_min, missing, metrics):
    """The definitions for one strict order (grades best first); shares no code with the product."""
    total = sum(g >= rel_min for g in (*grades, *missing))
    ranks = [i + 1 for i, g in enumerate(grades) if g >= rel_min]

    def ideal(pool, k):
        return sum(
            (2**g - 1) / math.log2(i + 2) for i, g in enumerate(sorted(pool, reverse=True)[:k])
        )

    values = {}
    for name in metrics:
        kind, _, cut = name.partition("@")
        k = int(cut) if cut else 10**9
        dcg = sum((2**g - 1) / math.log2(i + 2) for i, g in enumerate(grades[:k]))
        values[name] = {
            "hit": lambda k=k: float(any(r <= k for r in ranks)),
            "recall": lambda k=k: sum(r <= k for r in ranks) / total,
            "mrr": lambda k=k: 1 / ranks[0] if ranks and ranks[0] <= k else 0.0,
            "map": lambda: sum((i + 1) / r for i, r in enumerate(ranks)) / total,
            "ndcg": lambda k=k, dcg=dcg: dcg / ideal((*grades, *missing), k),
            "ndcg_listed": lambda k=k, dcg=dcg: dcg / ideal(grades, k) if ideal(grades, k) else 0.0,
        }[kind]()
    return values


def enumerated(scores, grades, rel_min, missing, metrics):
    """Mean of the textbook values over all orders in which tied candidates may appear."""
    judged = [(s, g) for s, g in zip(scores, grades, strict=True) if g != -1]
    groups = [
        [g for s, g in judged if s == level]
        for level in sorted({s for s, _ in judged}, reverse=True)
    ]
    runs = [
        textbook([g for group in order for g in group], rel_min, missing, metrics)
        for order in itertools.product(*(itertools.permutations(group) for group in groups))
    ]
    return {name: sum(run[name] for run in runs) / len(runs) for name in metrics}


@pytest.mark.parametrize("seed", range(60))
def test_expected_values_equal_the_enumeration_of_all_tied_orders(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    scores = rng.integers(0, 3, size=n).astype(np.float32)  # few levels: many ties
    grades = rng.integers(-1, 3, size=n)
    rel_min = int(rng.integers(1, 3))
    missing = tuple(int(g) for g in rng.integers(0, 3, size=rng.integers(0, 3)))
    grades[rng.integers(n)] = 2  # at least one relevant candidate
    judged = Judged("q", tuple(int(g) for g in grades), rel_min, missing=missing)
    expected = enumerated(scores.tolist(), judged.grades, rel_min, missing, ALL)
    got = list_metrics(scores, judged, ALL)
    assert got.keys() == expected.keys()
    for name in ALL:
        assert got[name] == pytest.approx(expected[name], abs=1e-12), name


def test_hand_computed_list_without_ties():
    judged = Judged("q", (0, 2, 0, 1))  # ranks of the relevant: 2 and 4
    got = list_metrics([4.0, 3.0, 2.0, 1.0], judged)
    assert got["hit@1"] == 0.0 and got["hit@5"] == 1.0
    assert got["recall@1"] == 0.0 and got["recall@5"] == 1.0
    assert got["mrr@10"] == 0.5
    assert got["map"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    dcg = 3 / math.log2(3) + 1 / math.log2(5)
    assert got["ndcg@10"] == pytest.approx(dcg / (3 / 1 + 1 / math.log2(3)))


def test_hand_computed_ties():
    judged = Judged("q", (1, 0, 0, 0))
    got = list_metrics([5.0, 5.0, 5.0, 1.0], judged, ("hit@1", "hit@2", "mrr", "map"))
    assert got["hit@1"] == pytest.approx(1 / 3)
    assert got["hit@2"] == pytest.approx(2 / 3)
    assert got["mrr"] == got["map"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_missing_positives_count_as_missed():
    listed = Judged("q", (1, 0))
    missed = Judged("q", (1, 0), missing=(1, 2, 0))
    names = ("hit@1", "recall@1", "map", "ndcg@2", "ndcg_listed@2")
    whole, part = list_metrics([2, 1], listed, names), list_metrics([2, 1], missed, names)
    assert set(whole.values()) == {1.0}
    assert part["hit@1"] == 1.0
    assert part["recall@1"] == part["map"] == pytest.approx(1 / 3)
    assert part["ndcg@2"] == pytest.approx(1 / (3 + 1 / math.log2(3)))
    assert part["ndcg_listed@2"] == 1.0


def test_a_list_whose_only_positive_is_missing_scores_zero():
    got = list_metrics([2.0, 1.0], Judged("q", (0, 0), missing=(1,)), (*METRICS, "ndcg_listed@5"))
    assert set(got.values()) == {0.0}


def test_relevance_threshold_and_unjudged():
    judged = Judged("q", (1, -1, 2), rel_min=2)
    got = list_metrics([2.0, 9.0, 1.0], judged, ("hit@1", "mrr", "ndcg@10"))
    assert got["hit@1"] == 0.0  # grade 1 is not relevant here
    assert got["mrr"] == 0.5  # the unjudged candidate takes no rank
    dcg = 1 + 3 / math.log2(3)
    assert got["ndcg@10"] == pytest.approx(dcg / (3 + 1 / math.log2(3)))  # but grade 1 has a gain


def test_values_do_not_depend_on_input_order():
    rng = np.random.default_rng(0)
    scores, grades = rng.integers(0, 4, 12).astype(float), rng.integers(0, 3, 12)
    reference = list_metrics(scores, Judged("q", tuple(grades.tolist())))
    for _ in range(5):
        order = rng.permutation(12)
        again = list_metrics(scores[order], Judged("q", tuple(grades[order].tolist())))
        assert again == pytest.approx(reference, abs=1e-12)


def test_nan_is_an_error_that_names_the_query_and_the_candidate():
    judged = Judged("molecule-7", (1, 0, 0))
    with pytest.raises(MetricError, match=r"molecule-7.*\[2\].*nan_last"):
        list_metrics([1.0, 0.0, np.nan], judged)


def test_nan_counted_as_last_ranks_below_minus_infinity():
    judged = Judged("q", (1, 0, 0, 0))
    got = list_metrics([np.nan, -np.inf, 0.0, np.nan], judged, ("mrr",), nan_last=True)
    assert got["mrr"] == pytest.approx((1 / 3 + 1 / 4) / 2)


def test_nan_of_an_unjudged_candidate_does_not_matter():
    assert list_metrics([1.0, np.nan], Judged("q", (1, -1)), ("hit@1",)) == {"hit@1": 1.0}


def test_measure_reports_every_bad_list_at_once():
    lists = [Judged("a", (1, 0)), Judged("b", (0, 0)), Judged("c", (1, 0)), Judged("d", (1,))]
    with pytest.raises(MetricError) as caught:
        measure([[1, 0], [1, 0], [np.nan, 0], [1, 2]], lists)
    message = str(caught.value)
    assert "query a" not in message
    assert all(f"query {qid}" in message for qid in "bcd")


@pytest.mark.parametrize("name", ["hit", "hit@0", "hit@x", "precision@1", "map@5", "ndcg"])
def test_unknown_metrics_are_errors(name):
    with pytest.raises(MetricError, match="unknown metric"):
        list_metrics([1.0], Judged("q", (1,)), (name,))


def test_measure_equals_one_list_at_a_time():
    lists = [Judged("a", (1, 0, 0)), Judged("b", (0, 2))]
    scores = [[0.0, 1.0, 0.0], [3.0, 3.0]]
    table = measure(scores, lists)
    for row in range(2):
        single = list_metrics(scores[row], lists[row])
        assert {name: values[row] for name, values in table.items()} == single


def test_chance_is_the_share_of_relevant_candidates():
    lists = [Judged("a", (1, 0, 0, 0)), Judged("b", (1, 1, 0, 0, -1))]
    assert chance(lists, ("hit@1",))["hit@1"] == pytest.approx([1 / 4, 1 / 2])


def test_tie_rate_counts_pairs_of_judged_candidates():
    lists = [Judged("a", (1, 0, 0, -1)), Judged("b", (1, 0))]
    # 3 judged pairs with one tie, 1 pair without; the unjudged copy does not count.
    assert tie_rate([[1, 1, 0, 0], [1, 0]], lists) == 1 / 4


def test_positive_modality():
    def of(grades, modalities, rel_min=1):
        return Judged("q", grades, rel_min, modalities=modalities).positive_modality

    assert of((1, 0), ("image", "text")) == "image"
    assert of((1, 1), ("image", "text")) == "several"
    assert of((2, 1), ("mixed", "text"), rel_min=2) == "mixed"
    assert of((0, 0), ("mixed", "text")) == "none"


def test_restrict_keeps_one_modality_and_its_places():
    judged = Judged("q", (1, 0, 1, 0), 1, "name", ("text", "image", "image", "text"))
    part, places = restrict(judged, "image")
    assert part.grades == (0, 1) and places.tolist() == [1, 2] and part.kind == "name"
    assert restrict(judged, "mixed") is None
    alone = Judged("q", (1, 0), 1, "name", ("image", "text"))
    assert restrict(alone, "image") is None  # nothing competes with the only image

"""Mining: each filter, each bucket, the quota and the balance, on pools made for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from train.mining import (
    DEFAULTS,
    MiningSettings,
    Pool,
    balanced,
    bucket_of,
    mine,
    preferences,
    summary,
    suspects,
)


def pool(logits, grades, modalities=None, dup_ids=None, **retrievers) -> Pool:
    values = np.asarray(logits, np.float64)
    count = len(values)
    return Pool(
        qid="q",
        dids=tuple(f"d{i}" for i in range(count)),
        grades=np.asarray(grades),
        rel_min=1,
        modalities=tuple(modalities or ["text"] * count),
        dup_ids=tuple(dup_ids or [f"c{i}" for i in range(count)]),
        logits=values,
        scores=1 / (1 + np.exp(-values)),
        retrievers={name: np.asarray(raw, np.float64) for name, raw in retrievers.items()},
    )


def large(seed: int = 0) -> Pool:
    rng = np.random.default_rng(seed)
    return pool(
        [2.0, *rng.normal(0, 3, 99)],
        [1] + [0] * 99,
        ["text", *rng.choice(["text", "image", "mixed"], 99)],
    )


def test_buckets_have_the_stated_edges() -> None:
    gaps = (-0.1, 0.0, 1.9, 2.0, 5.9, 6.0)
    names = ("violation", "near", "near", "easy", "easy", "trivial")
    assert tuple(bucket_of(gap, DEFAULTS) for gap in gaps) == names


def test_each_filter_removes_what_it_names_and_nothing_twice() -> None:
    made = pool(
        [1.0, 0.9, 0.0, 5.0, -0.5, 3.5],
        [1, 0, 0, 0, 0, 0],
        dup_ids=["a", "a", "b", "c", "d", "e"],
        bm25=[10.0, 9.9, 9.6, 1.0, 9.4, np.nan],
        dense=[0.5, np.nan, 0.1, 0.2, 0.3, 0.1],
    )
    found = suspects(made, DEFAULTS)
    assert found["duplicate"] == (1,)
    assert found["relative margin"] == (2,), "9.6 > 95 % of 10; 9.4 is not"
    assert found["suspected positive"] == (3, 5)
    assert suspects(replace(made, retrievers={}), DEFAULTS)["relative margin"] == ()
    negative = replace(made, retrievers={"cosine": -np.array([1.0, 1.02, 1.04, 1.1, 1.0, 2.0])})
    assert suspects(negative, DEFAULTS)["relative margin"] == (2, 4), "below a negative score too"


def test_a_retriever_that_cannot_see_the_positive_removes_nothing() -> None:
    for nothing in (np.nan, 0.0):
        made = pool([1.0, 0.0], [1, 0], bm25=[nothing, 9.0])
        assert suspects(made, DEFAULTS)["relative margin"] == ()


def test_the_mix_of_margins_is_kept_where_the_pool_allows() -> None:
    settings = replace(DEFAULTS, num_negatives=20, suspect_margin=99.0)
    settings = replace(settings, min_other_modality=0, min_same_modality=0)
    mined = mine(large(), settings)
    assert mined is not None
    counts = Counter(mined.buckets)
    assert (counts["violation"], counts["near"], counts["easy"]) == (10, 7, 3)
    assert len(set(mined.negatives)) == 20 and 0 not in mined.negatives
    assert not set(mined.negatives) & {i for r in mined.removed.values() for i in r}


def test_missing_margins_are_filled_from_the_hardest_left() -> None:
    made = pool([0.0, -1.0, -1.5, -3.0, -9.0], [1, 0, 0, 0, 0])
    mined = mine(made, replace(DEFAULTS, num_negatives=3))
    assert mined is not None
    assert (sorted(mined.negatives), mined.removed["trivial"]) == ([1, 2, 3], (4,))
    few = mine(made, replace(DEFAULTS, num_negatives=10))
    assert few is not None and len(few.negatives) == 3


@pytest.mark.parametrize("own", ["text", "image"])
def test_both_modalities_have_their_quota(own: str) -> None:
    other = {"text": "image", "image": "text"}[own]
    logits = [0.0] + [1.0] * 10 + [-1.0] * 2 + [-4.0]
    made = pool(logits, [1] + [0] * 13, [own, *[own] * 10, other, other, other])
    mined = mine(made, replace(DEFAULTS, suspect_margin=9.0))
    assert mined is not None
    counts = Counter(made.modalities[i] for i in mined.negatives)
    assert counts[other] >= 2 and counts[own] >= 2 and sum(counts.values()) == 7


def test_top_takes_the_hardest_and_random_depends_on_ids_alone() -> None:
    made = large(1)
    top = mine(made, replace(DEFAULTS, sampling_strategy="top", mix=(1.0, 0.0, 0.0)))
    again, other = mine(made, DEFAULTS), mine(replace(made, qid="q2"), DEFAULTS)
    assert top and again and other
    assert mine(made, DEFAULTS) == again
    assert again.negatives != other.negatives
    quota_free = replace(DEFAULTS, min_other_modality=0, min_same_modality=0)
    hardest = mine(made, replace(quota_free, sampling_strategy="top", mix=(1.0, 0.0, 0.0)))
    assert hardest is not None
    gone = {i for r in hardest.removed.values() for i in r} | {0}
    order = [i for i in np.argsort(-made.logits).tolist() if i not in gone]
    assert list(hardest.negatives) == order[:7]


def test_queries_without_a_positive_and_odd_ones_are_reported() -> None:
    assert mine(pool([1.0, 2.0], [0, 0]), DEFAULTS) is None
    low = mine(pool([-5.0, -6.0], [1, 0]), DEFAULTS)
    assert low is not None and "score low" in low.audit
    outcomes = [None, low, mine(large(), DEFAULTS)]
    counts = summary(outcomes)
    assert counts["queries"] == 2 and counts["queries without a positive"] == 1
    assert counts["queries to look at"] >= 1
    assert sum(v for k, v in counts.items() if k.startswith("chosen")) == 8


def graded(settings: MiningSettings = DEFAULTS) -> tuple[Pool, list]:
    made = pool(
        [3.0, 0.5, 0.0, -0.5],
        [2, 1, 0, 0],
        ["text", "image", "text", "mixed"],
        ["a", "b", "c", "d"],
    )
    mined = mine(made, settings)
    assert mined is not None
    return made, preferences(made, mined, settings)


def test_preferences_weigh_grades_and_what_is_learnt_already() -> None:
    _, found = graded()
    weights = {(p.better, p.worse): (p.kind, p.weight) for p in found}
    assert weights[0, 1] == ("text > image", pytest.approx(2 * 0.3))
    assert weights[0, 2] == ("text > text", pytest.approx(3 * 0.3))
    assert weights[1, 2] == ("image > text", pytest.approx(1.0))
    assert weights[1, 3] == ("image > image", pytest.approx(1.0))
    assert (2, 3) not in weights and len(found) == 5
    made, _ = graded()
    mined = mine(made, DEFAULTS)
    assert mined is not None
    assert preferences(made, mined, DEFAULTS, limit=2) == found[:2]


def test_kinds_of_preference_weigh_the_same_in_the_end() -> None:
    _, found = graded()
    queries = balanced([found, found[:1], []])
    totals: Counter[str] = Counter()
    for one in (one for query in queries for one in query):
        totals[one.kind] += one.weight  # type: ignore[assignment]
    assert len(totals) == 4
    assert np.ptp(list(totals.values())) < 1e-9
    before = sum(p.weight for p in [*found, *found[:1]])
    assert sum(totals.values()) == pytest.approx(before)
    assert balanced([]) == []

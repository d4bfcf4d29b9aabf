"""Our metrics against trec_eval's own code on random runs without ties."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval

from unirank_jax.metrics import Judged, measure

RUNS = 1000
OURS_TO_THEIRS = {
    "hit@1": "success_1",
    "hit@5": "success_5",
    "recall@1": "recall_1",
    "recall@5": "recall_5",
    "recall@10": "recall_10",
    "mrr": "recip_rank",
    "map": "map",
    "ndcg@5": "ndcg_cut_5",
    "ndcg@10": "ndcg_cut_10",
}


def test_values_equal_trec_eval() -> None:
    rng = np.random.default_rng(0)
    lists, scores = [], []
    run: dict[str, dict[str, float]] = {}
    relevant: dict[str, dict[str, int]] = {}  # grade >= rel_min, which trec_eval knows as 1
    gains: dict[str, dict[str, int]] = {}  # 2^grade - 1, because its nDCG has linear gain
    for number in range(RUNS):
        qid, length = f"q{number}", int(rng.integers(1, 40))
        rel_min = int(rng.integers(1, 3))
        grades = rng.choice(4, size=length, p=[0.7, 0.1, 0.1, 0.1])
        missing = rng.choice(4, size=int(rng.integers(0, 4)))
        grades[rng.integers(length)] = 3  # something to find
        values = rng.permutation(length).astype(np.float64)
        lists.append(Judged(qid, tuple(grades.tolist()), rel_min, missing=tuple(missing.tolist())))
        scores.append(values)
        every = np.concatenate([grades, missing])
        run[qid] = {f"d{i}": float(value) for i, value in enumerate(values)}
        relevant[qid] = {f"d{i}": int(grade >= rel_min) for i, grade in enumerate(every)}
        gains[qid] = {f"d{i}": int(2**grade - 1) for i, grade in enumerate(every)}
    binary = {"success.1,5", "recall.1,5,10", "recip_rank", "map"}
    theirs = pytrec_eval.RelevanceEvaluator(relevant, binary).evaluate(run)
    graded = pytrec_eval.RelevanceEvaluator(gains, {"ndcg_cut.5,10"}).evaluate(run)
    ours = measure(scores, lists, tuple(OURS_TO_THEIRS))
    for name, other in OURS_TO_THEIRS.items():
        source = graded if other.startswith("ndcg") else theirs
        expected = np.array([source[one.qid][other] for one in lists])
        assert 0 < expected.mean() < 1
        assert ours[name] == pytest.approx(expected, abs=1e-9), name

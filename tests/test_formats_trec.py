"""TREC files: runs and qrels in and out, exact scores, and twenty bad lines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_formats_shared import lines

from unirank_jax.datasets.check import check
from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.formats.problems import Problems, WriteError
from unirank_jax.datasets.formats.registry import write
from unirank_jax.datasets.formats.trec import read_qrels, read_run, write_run


def run_of(path, depth=100):
    problems = Problems()
    found = read_run(path, path.name, problems, depth)
    problems.raise_any()
    return {qid: [(one.did, -one.minus_score) for one in ranking] for qid, ranking in found.items()}


def test_a_run_is_ordered_by_score_whatever_its_ranks(tmp_path):
    path = tmp_path / "x.run"
    lines(path, "q Q0 c 1 1.5 t", "p\tQ0\tx\t3\t-1e-3\tt", "q Q0 a 7 2 t", "", "q Q0 b 2 1.5 t")
    assert run_of(path) == {"q": [("a", 2.0), ("c", 1.5), ("b", 1.5)], "p": [("x", -0.001)]}
    assert run_of(path, depth=2)["q"] == [("a", 2.0), ("c", 1.5)]


def test_a_deep_run_is_cut_while_it_is_read(tmp_path):
    scores = np.random.default_rng(0).permutation(1000)
    lines(tmp_path / "x.run", *(f"q Q0 d{s} 1 {s} t" for s in scores))
    best = run_of(tmp_path / "x.run", depth=3)["q"]
    assert best == [("d999", 999.0), ("d998", 998.0), ("d997", 997.0)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_scores_keep_every_float32(tmp_path_factory, scores):
    path = tmp_path_factory.mktemp("run") / "x.run"
    write_run(path, {"q": {f"d{n}": score for n, score in enumerate(scores)}})
    again = dict(run_of(path, depth=10**6)["q"])
    for number, score in enumerate(scores):
        assert np.float32(again[f"d{number}"]) == np.float32(score)
    ranks = [int(line.split()[3]) for line in path.read_text().splitlines()]
    assert ranks == list(range(1, len(scores) + 1))


def test_what_a_run_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "x.run"
    for bad, told in (
        ({"q q": {"d": 1.0}}, "query ids: 1 ids with white space"),
        ({"q": {"d\t": 1.0}}, "item ids: 1 ids with white space"),
        ({"q": {"d": float("nan")}}, "query q: item d: the score is nan"),
    ):
        with pytest.raises(WriteError, match=told):
            write_run(path, bad)
    assert not list(tmp_path.iterdir())


def test_check_counts_a_run_and_qrels(tmp_path):
    lines(tmp_path / "x.run", "q Q0 a 1 2 t", "q Q0 b 2 1 t", "p Q0 a 1 1 t")
    assert "TREC run: 2 queries, 3 documents" in check(tmp_path / "x.run").text()
    lines(tmp_path / "x.qrels", "q 0 a 2", "q 0 b 0", "p 0 a -1")
    told = "TREC qrels: 2 queries, 3 judgements (-1: 1, 0: 1, 2: 1)"
    assert told in check(tmp_path / "x.qrels").text()
    with pytest.raises(DatasetError, match="holds ids only; put it beside a corpus as run.trec"):
        Dataset.open(tmp_path / "x.run")


def test_a_dataset_as_run_and_qrels_beside_its_corpus(tmp_path):
    docs = [{"did": d, "text": d, "grade": g} for d, g in (("a", 0), ("b", 2), ("c", -1))]
    line = {"qid": "q1", "query": {"text": "x"}, "candidates": docs}
    lines(tmp_path / "in" / "train.jsonl", line)
    lines(tmp_path / "in" / "valid.jsonl", line | {"qid": "q2"})
    warnings = write(Dataset.open(tmp_path / "in"), "trec", tmp_path / "out")
    assert len(warnings) == 2 and "hold ids" in warnings[0] and "stored order" in warnings[1]
    out = tmp_path / "out"
    assert (out / "qrels" / "dev.trec").read_text() == "q2 0 a 0\nq2 0 b 2\n"
    assert run_of(out / "run.trec")["q1"] == [("a", 3.0), ("b", 2.0), ("c", 1.0)]
    lines(out / "corpus.jsonl", *({"_id": d, "text": d} for d in "abc"))
    lines(out / "queries.jsonl", *({"_id": q, "text": "x"} for q in ("q1", "q2")))
    dataset = Dataset.open(out)
    assert dataset.splits == ("train", "valid")
    (ranked,) = dataset.lists("valid")
    assert (ranked.dids, ranked.grades) == (("a", "b", "c"), (0, 2, 0))


BAD_RUN = {  # name: (line, field, problem, remedy)
    "few columns": ("q Q0 d 1 2", "line", "5 columns", "qid Q0 docid rank score tag"),
    "many columns": ("q Q0 d 1 2 t u", "line", "7 columns", "qid Q0 docid rank score tag"),
    "one word": ("x", "line", "1 columns", "qid Q0"),
    "rank is a word": ("q Q0 d one 2 t", "rank", "'one' is not an integer", "give 1, 2"),
    "rank is a fraction": ("q Q0 d 1.5 2 t", "rank", "'1.5' is not an integer", "give 1, 2"),
    "score is a word": ("q Q0 d 1 high t", "score", "'high' is not a number", "finite"),
    "score is NaN": ("q Q0 d 1 nan t", "score", "'nan' is not a number", "finite"),
    "score is infinite": ("q Q0 d 1 inf t", "score", "'inf' is not a number", "finite"),
    "score has an underline": ("q Q0 d 1 1_0 t", "score", "'1_0' is not a number", "finite"),
    "document twice": ("q Q0 a 2 0 t", "docid", "'a' of query 'q' is also in line 1", "once"),
    "not UTF-8": (b"q Q0 \xff 1 2 t", "line", "not UTF-8 at byte 5", "save"),
}
BAD_QRELS = {
    "two columns": ("q a", "line", "2 columns", "query-id, corpus-id, score"),
    "five columns": ("q 0 a 1 5", "line", "5 columns", "query-id, corpus-id, score"),
    "empty query id": ("\ta\t1", "qid", "empty", "give an id"),
    "empty document id": ("q\t\t1", "did", "empty", "give an id"),
    "grade is a word": ("q 0 a yes", "score", "'yes' is not a grade", "integer"),
    "grade is a fraction": ("q 0 a 0.5", "score", "'0.5' is not a grade", "integer"),
    "grade below": ("q 0 a -2", "score", "'-2' is not a grade", "-1 (unjudged)"),
    "grade above": ("q 0 a 1000", "score", "'1000' is not a grade", "to 999"),
    "grade is NaN": ("q 0 a nan", "score", "'nan' is not a grade", "integer"),
    "grade is empty": ("q\ta\t", "score", "'' is not a grade", "integer"),
    "header below": ("query-id\tcorpus-id\tscore", "score", "'score' is not a grade", "integer"),
    "not UTF-8": (b"q 0 \xff 1", "line", "not UTF-8 at byte 4", "save"),
}


@pytest.mark.parametrize("name", BAD_RUN)
def test_bad_run_lines(tmp_path, name):
    line, field, *told = BAD_RUN[name]
    lines(tmp_path / "x.run", "q Q0 a 1 2 t", line)
    _told(tmp_path / "x.run", f"x.run:2: {field}: ", *told)


@pytest.mark.parametrize("name", BAD_QRELS)
def test_bad_qrels_lines(tmp_path, name):
    line, field, *told = BAD_QRELS[name]
    lines(tmp_path / "x.qrels", "q 0 b 1", line)
    _told(tmp_path / "x.qrels", f"x.qrels:2: {field}: ", *told)


def _told(path, *told):
    report = check(path)
    assert not report.ok
    assert any(all(one in problem for one in told) for problem in report.problems), report.problems


def test_qrels_in_both_forms(tmp_path):
    lines(tmp_path / "a", "q 0 d 1")
    lines(tmp_path / "b", "query-id\tcorpus-id\tscore", "q\td with blanks\t1.0")
    problems = Problems()
    (one,) = read_qrels(tmp_path / "a", "a", "test", problems)
    (two,) = read_qrels(tmp_path / "b", "b", None, problems)
    assert one == ("a:1", "test", "q", "d", 1) and two == ("b:2", None, "q", "d with blanks", 1)
    assert not problems.found

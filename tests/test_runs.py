"""Runs and judgements from files, and back: a round trip changes no metric."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_formats_shared import lines

from train import evaluate as command
from train.evaluation import evaluate, examples_of
from train.runs import coverage, fixed, open_run, rejudged, write_runs
from train.slices import MACRO, MICRO
from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.formats.problems import FormatError, WriteError
from unirank_jax.datasets.overlay import Overlay
from unirank_jax.datasets.records import RankList


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """40 queries with 6 candidates, grades 0 to 2, some unjudged, some missing from their list."""
    rng = np.random.default_rng(0)
    records = []
    for n in range(40):
        grades = rng.permutation([2, 1, 0, 0, 0, -1]).tolist()
        docs = [
            {"did": f"{n}-{k}", "text": f"word{k} text{n}", "grade": g}
            for k, g in enumerate(grades)
        ]
        records.append({"qid": f"q{n}", "query": {"text": f"word{n % 6}"}, "candidates": docs})
        records[-1]["kind"] = f"kind {n % 3}"
    lines(tmp_path / "d" / "test.jsonl", *records)
    base = Dataset.open(tmp_path / "d")
    lists = [
        RankList(one.qid, one.dids, one.grades, one.neg_types, (1,) * (place % 3 == 0))
        for place, one in enumerate(base.lists("test"))
    ]
    return Overlay(base, {"test": lists})


def tied(examples):
    """Scores of which many are equal, and some differ in the last digit of a float32 only."""
    rng = np.random.default_rng(1)
    near = np.float32(0.1) + np.spacing(np.float32(0.1)) * np.arange(3, dtype=np.float32)
    return [
        rng.choice([*near, 7.0, -1e-30], len(e.candidates)).astype(np.float32) for e in examples
    ]


def test_a_round_trip_through_trec_files_changes_no_metric(data: Dataset, tmp_path: Path) -> None:
    first = evaluate(data, "test", {"ours + x": tied}, resamples=20, seed=0)
    written = write_runs(first.queries, tmp_path / "runs")
    assert [path.name for path in written] == [
        *("random.trec", "BM25.trec", "TF-IDF.trec", "ours-+-x.trec", "qrels.trec")
    ]
    again, note = rejudged(data, "test", tmp_path / "runs" / "qrels.trec")
    assert note == "Grades are those of qrels.trec."
    runs = {path.stem: fixed(open_run(path)) for path in written[:-1]}
    runs = {f"read {name}": scorer for name, scorer in runs.items()}
    second = evaluate(again, "test", {}, runs=runs, resamples=20, seed=0)
    names = dict(zip(first.row(MACRO).values, runs, strict=True))
    for row in first.rows:
        other = second.row(row.name, row.view)
        for name, values in row.values.items():
            for metric, interval in values.items():
                found = other.values[names[name]][metric]
                assert found.mean == pytest.approx(interval.mean, abs=1e-12), (row.name, metric)
    assert first.tie_rates["ours + x"] == second.tie_rates["read ours-+-x"] > 0.1
    assert second.models == second.runs == tuple(runs) and not second.calibration


def test_documents_that_a_run_does_not_hold_rank_last_together(data: Dataset) -> None:
    example = examples_of(data, "test", 1)[0]
    dids = [item.did for item in example.candidates]
    for scores in ({dids[3]: -1e20, dids[1]: 5.0}, {dids[3]: 0.25, dids[1]: 0.5}):
        (values,) = fixed({"q0": scores})([example])
        order = np.argsort(-values, kind="stable").tolist()
        assert order[:2] == [1, 3] and len(set(values.tolist())) == 3
        rounded = [float(f"{value:.9g}") for value in values]
        assert len(set(rounded)) == 3, "they stay last in a file"
    (nothing,) = fixed({})([example])
    assert len(set(nothing.tolist())) == 1


def test_what_a_run_holds_is_told(data: Dataset) -> None:
    examples = examples_of(data, "test")
    ranking = {"q1": {"1-0": 1.0, "elsewhere": 2.0}, "other": {"1-1": 1.0}}
    told = "Run x holds 1 of the 40 queries and 1 of their 240 candidates"
    assert coverage("x", ranking, examples).startswith(told)
    with pytest.raises(DatasetError, match="--run x: it holds none of the 40 queries; give"):
        coverage("x", {"other": {"a": 1.0}}, examples)


def test_other_judgements_grade_the_same_lists(data: Dataset, tmp_path: Path) -> None:
    lines(
        tmp_path / "x.qrels",
        *("q0 0 0-2 1", "q0 0 0-4 -1", "q0 0 far 3", "q1 0 1-0 0", "q2 0 away 1", "z 0 0-1 1"),
    )
    other, note = rejudged(data, "test", tmp_path / "x.qrels")
    assert note == (
        "Grades are those of x.qrels; 38 of 40 queries, for which it has no relevant document, "
        "are left out."
    )
    one, two = other.lists("test")
    assert one.grades == (0, 0, 1, 0, -1, 0) and one.missing == (3,)
    assert one.neg_types[2] == "positive" and one.neg_types[4] == "unjudged"
    assert two.qid == "q2" and not any(two.grades) and two.missing == (1,)
    lines(tmp_path / "y.qrels", "q0 0 0-2 0")
    with pytest.raises(DatasetError, match="no relevant document for any of the 40 queries"):
        rejudged(data, "test", tmp_path / "y.qrels")
    lines(tmp_path / "z.qrels", "q0 0 0-2 1", "q0 0 0-2 1", "q0 0 0-1 x")
    with pytest.raises(FormatError) as caught:
        rejudged(data, "test", tmp_path / "z.qrels")
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        "z.qrels:2",
        "z.qrels:3",
    ]


def test_failed_candidates_are_left_out_and_names_must_differ(tmp_path: Path) -> None:
    record = {
        **{"qid": "q", "dids": ["a", "b"], "grades": [1, -1], "missing": [2]},
        "scores": {"m": [None, 0.1], "n": [1.0, 2.0]},
    }
    write_runs([record], tmp_path)
    assert (tmp_path / "m.trec").read_text() == "q Q0 b 1 0.1 m\n"
    assert (tmp_path / "qrels.trec").read_text() == "q 0 a 1\nq 0 b -1\nq 0 (missing-1) 2\n"
    with pytest.raises(WriteError, match="'m' and 'm!' are both m; rename one"):
        write_runs([record | {"scores": {"m": [1, 2], "m!": [1, 2]}}], tmp_path)
    with pytest.raises(WriteError, match="item ids: 1 ids with white space"):
        write_runs([record | {"dids": ["a", "b c"]}], tmp_path)


# The command --------------------------------------------------------------------------------------


def test_runs_and_judgements_at_the_command_line(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(
        tmp_path / "good.trec", *(f"q{n} Q0 {n}-{k} 1 {k} t" for n in range(40) for k in range(6))
    )
    lines(tmp_path / "half.trec", *(f"q{n} Q0 {n}-0 1 1 t" for n in range(20)))
    lines(tmp_path / "q.qrels", *(f"q{n} 0 {n}-5 1" for n in range(40)))
    out = tmp_path / "out"
    base = ["--data", str(data.path), "--resamples", "50", "--out", str(out)]
    runs = [str(tmp_path / "good.trec"), f"weak={tmp_path / 'half.trec'}"]
    more = ["--qrels", str(tmp_path / "q.qrels"), "--write-runs"]
    command.main([*base, "--run", *runs, *more])
    said = capsys.readouterr().out
    assert "Run weak holds 20 of the 40 queries and 20 of their 240 candidates" in said
    assert "Grades are those of q.qrels." in said and "corrected by Holm over 2 comparisons" in said
    report = json.loads((out / "report.json").read_text())
    assert report["models"] == report["runs"] == ["good", "weak"]
    whole = {row["name"]: row for row in report["rows"] if row["view"] == "whole lists"}
    assert whole[MICRO]["values"]["good"]["hit@1"]["mean"] == 1.0
    assert (out / "runs" / "good.trec").is_file() and (out / "runs" / "qrels.trec").is_file()

    lines(tmp_path / "bad.trec", "q0 Q0 0-1 1 high t")
    for arguments, told in (
        (["--run", str(tmp_path / "bad.trec")], "bad.trec:1: score: 'high' is not a number"),
        (["--run", f"BM25={tmp_path / 'good.trec'}"], "['BM25']: names of two scorers"),
        (["--run", *runs, runs[0]], "the name 'good' is taken"),
        (["--lists", "top100"], "a first stage needs --dual-encoder PATH"),
        (["--lists", str(tmp_path / "none.jsonl")], "there is none; correct the path"),
    ):
        with pytest.raises(SystemExit) as caught:
            command.main([*base, *arguments])
        assert told in str(caught.value)

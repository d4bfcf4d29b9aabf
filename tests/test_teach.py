"""The teacher of lists: its fit, the file of its logits, and a run that learns from it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_reranker
import tiny_run

from train import sft, teach
from train.signals import read_scores
from train.teacher import Teacher, cells, cross_fitted, fit
from unirank_jax.content import MODALITIES, TextPart
from unirank_jax.datasets.dataset import sample
from unirank_jax.datasets.records import Example, Item, Query


def example(number: int, grades: tuple[int, ...]) -> Example:
    parts = (TextPart(f"text {number}"),)
    query = Query(f"q{number}", parts, None, "d", "k", "u", "s", "x")
    items = tuple(
        Item(f"d{number}-{n}", parts, "text", "u", "f", "k", "s", f"x{n}", "source", "licence")
        for n in range(len(grades))
    )
    return Example(query, items, grades, ("",) * len(grades))


def test_the_fit_finds_the_weights_that_made_the_choices() -> None:
    """Choices drawn from a conditional logit whose weights are known."""
    rng = np.random.default_rng(0)
    examples, useful, useless = [], [], []
    for number in range(4000):
        values = rng.normal(size=6)
        share = np.exp(1.5 * values)
        right = rng.choice(6, p=share / share.sum())
        examples.append(example(number, tuple(int(n == right) for n in range(6))))
        useful.append(10 * values)
        useless.append(rng.normal(size=6))
    found = fit({"useful": useful, "useless": useless}, examples)
    (text,) = {int(cell) for cell in cells(examples[0])}
    weights = found.weights[text] / np.append(found.scale, 1.0)
    assert weights[0] == pytest.approx(0.15, rel=0.05)
    assert abs(weights[1]) < 0.05
    assert (np.delete(found.weights, text, axis=0) == 0).all(), "nothing was seen of other cells"
    logits = found.logits({"useful": useful[0], "useless": useless[0]}, examples[0])
    assert np.corrcoef(logits, useful[0])[0, 1] > 0.99


def test_lists_that_say_nothing_are_left_out_and_some_must_remain() -> None:
    rng = np.random.default_rng(1)
    grades = [(1, 0, -1)] * 30 + [(0, 0, 0), (1, 1, -1)]
    examples = [example(n, one) for n, one in enumerate(grades)]
    values = [rng.normal(size=3) for _ in examples]
    found = fit({"a": values}, examples)
    again = fit({"a": values[:30]}, examples[:30])
    np.testing.assert_array_equal(found.weights, again.weights)
    with pytest.raises(ValueError, match="no list has a relevant candidate beside another"):
        fit({"a": values[30:]}, examples[30:])
    with pytest.raises(ValueError, match="the same number everywhere: b; leave it out"):
        fit({"a": values, "b": [np.ones(3)] * 32}, examples)


def test_each_cell_has_weights_of_its_own() -> None:
    asked = sample("sci").example("valid", 0)
    count = len(MODALITIES) ** 2
    weights = np.zeros((count, 2))
    weights[:, 1] = np.arange(count)
    teacher = Teacher(("a",), np.ones(1), weights)
    found = teacher.logits({"a": np.zeros(len(asked.candidates))}, asked)
    np.testing.assert_array_equal(found, cells(asked))
    assert len(set(cells(asked).tolist())) == len({one.modality for one in asked.candidates})


def test_no_list_is_judged_by_a_fit_that_saw_it() -> None:
    """At odd places the larger number is right, at even ones the smaller: each half errs."""
    rng = np.random.default_rng(2)
    values = [rng.permutation(4).astype(np.float64) for _ in range(40)]
    right = [one.argmax() if n % 2 else one.argmin() for n, one in enumerate(values)]
    examples = [example(n, tuple(int(i == at) for i in range(4))) for n, at in enumerate(right)]
    found = cross_fitted({"a": values}, examples)
    for one, logits, at in zip(values, found, right, strict=True):
        assert logits.argmax() == (3 - one).tolist().index(one[at])


def test_a_run_learns_from_what_the_command_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny_run.dataset_folder(tmp_path / "data")
    out = tmp_path / "teacher.jsonl.gz"
    dual = tiny_reranker.save(tmp_path / "dual", "unirank-native-1")
    command = ["--data", str(data), "--dual-encoder", str(dual), "--out", str(out)]
    assert teach.main(command) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "TF-IDF" in told and "teacher, fitted to the other half" in told
    with gzip.open(out, "rt", encoding="utf-8") as lines:
        first = json.loads(next(lines))
    assert len(first["dids"]) == len(first["logits"]) and np.std(first["logits"]) > 0
    assert first["qid"] in read_scores(out, "logits")

    def train(name: str, **changes: object) -> int:
        kept = {"batch__lists": 8, "schedule__steps": 40, "evaluation__every_steps": 0}
        model = tiny_run.model_folder(tmp_path / f"model-{name}")
        told = tiny_run.settings(
            data, model, **kept, loss__bce=0, loss__rcr=0, loss__teacher=1, **changes
        )
        config = str(tiny_run.ROOT / "configs" / "sci.py")
        return sft.main(["--config", config, "--workdir", str(tmp_path / name), "--set", *told])

    assert train("nothing") == 1
    assert "loss.teacher needs data.teacher" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"qid": "?", "dids": ["a"], "logits": [1.0]}) + "\n")
    assert train("other", data__teacher=f"{out},{other}") == 1
    assert "data.teacher: " in capsys.readouterr().err
    assert train("taught", data__teacher=out) == 0
    series = [line["teacher"] for line in tiny_run.series(tmp_path / "taught")]
    assert series[-1] < 0.7 * series[0], series


def test_what_cannot_be_taught_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["--data", "sample:sci", "--out", str(tmp_path / "t.jsonl.gz")]
    assert teach.main([*command, "--split", "valid"]) == 1
    assert "--fit-on: give another split than --split" in capsys.readouterr().err
    assert teach.main([*command, "--fit-on", "dev"]) == 1
    assert "no lists in 'dev'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

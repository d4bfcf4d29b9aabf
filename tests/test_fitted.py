"""Models joined with the baselines by a fit: rows of `train.evaluate --fit`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from train import evaluate as command
from train.baselines import Scores
from train.config import ConfigError
from train.evaluation import examples_of
from train.fitted import CONTROL, JOINED, with_baselines
from train.slices import MICRO
from unirank_jax.datasets.dataset import open_source
from unirank_jax.datasets.records import Example

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 lists of texts. In every other pair of lists the answer repeats the query, in the rest it
    says "secret", which only the model below knows to be good."""
    made = tmp_path / "lists"
    made.mkdir()
    with open(made / "test.jsonl", "w", encoding="utf-8") as file:
        for i in range(40):
            word, other = WORDS[i % 10], WORDS[(i + 3) % 10]
            right = f"a {word} card {i}" if i // 2 % 2 else f"a secret card {i}"
            candidates = [
                {"text": f"a {other} card {i}", "grade": 0},
                {"text": f"an {other} leaf {i}", "grade": 0},
                {"text": right, "grade": 1},
            ]
            line = {"qid": f"q{i}", "query": {"text": word}, "candidates": candidates}
            file.write(json.dumps(line) + "\n")
    return made


def knows_the_secret(examples: Sequence[Example]) -> Scores:
    """Right about secrets; where there is none, it likes what stands first."""
    return [
        np.array(
            [3.0 * ("secret" in str(one.parts)) - 0.1 * n for n, one in enumerate(each.candidates)],
            np.float32,
        )
        for each in examples
    ]


def test_a_fit_joins_what_each_knows_and_the_control_has_no_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked: list[int] = []

    def model(examples: Sequence[Example]) -> Scores:
        asked.append(len(examples))
        return knows_the_secret(examples)

    monkeypatch.setattr(command, "model_scorer", lambda *arguments: model)
    out = tmp_path / "out"
    command.main(["--data", str(folder), "--fit", "--out", str(out), "--resamples", "100"])
    assert JOINED.format("default") in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    (row,) = (row for row in report["rows"] if (row["view"], row["name"]) == ("whole lists", MICRO))
    hits = {name: values["hit@1"]["mean"] for name, values in row["values"].items()}
    assert hits["default"] == 0.5, "half of the lists hold a secret"
    assert hits["TF-IDF"] < 0.8 and hits[CONTROL] < 0.8
    assert hits[JOINED.format("default")] == 1.0
    assert row["differences"][JOINED.format("default")][CONTROL]["mean"] > 0.2
    assert asked == [40], "the model scores once"
    assert list(report["calibration"]) == ["default"], "a fit's logits are of one list each"


@pytest.mark.parametrize("other", [("--mixed", "5"), ("--nan-last",)])
def test_a_fit_needs_every_score(folder: Path, other: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="--fit needs every score"):
        command.main(["--data", str(folder), "--fit", *other])


def test_scores_that_say_nothing_cannot_be_fitted(folder: Path) -> None:
    def same(examples: Sequence[Example]) -> Scores:
        return [np.ones(3, np.float32) for _ in examples]

    _, _, fits = with_baselines({}, {"same": same})
    with pytest.raises(ConfigError, match="every baseline gives all candidates one score"):
        fits[CONTROL](examples_of(open_source(str(folder)), "test"))


def test_too_few_lists_are_told(folder: Path, tmp_path: Path) -> None:
    one = (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()[2]
    (folder / "test.jsonl").write_text(one + "\n", encoding="utf-8")
    arguments = ["--data", str(folder), "--fit", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="half of the lists cannot be fitted: no list has"):
        command.main(arguments)

"""Preferences and scores from side files reach the right candidates of a batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_run

from train import sft
from train.plan import Chosen
from train.signals import read_preferences, read_scores, table
from train.sizes import Index
from unirank_jax.datasets.dataset import open_source
from unirank_jax.datasets.formats.problems import FormatError


def index() -> Index:
    """Two lists, a: x y z and b: y w."""
    return Index(
        queries=np.array(["a", "b"]),
        kinds=np.array(["k", "k"]),
        query_sizes=np.zeros((2, 3), np.int32),
        rel_min=np.ones(2, np.int32),
        starts=np.array([0, 3, 5]),
        items=np.array([0, 1, 2, 1, 3]),
        grades=np.array([1, 0, 0, 0, 1]),
        missed=np.zeros(2, np.int32),
        item_ids=np.array(["x", "y", "z", "w"]),
        item_sizes=np.zeros((4, 3), np.int32),
        item_modality=np.array(["text"] * 4),
    )


def test_values_follow_the_slots() -> None:
    found = table(
        index(),
        {
            "a": [("x", "z", 2.0), ("x", "gone", 1.0)],
            "b": [("w", "y", 0.5)],
            "c": [("x", "y", 1.0)],
        },
        reference=np.array([1.0, 0.0, -3.0, 4.0, 0.0]),
        reward={"b": {"w": 0.75}},
    )
    chosen = [Chosen(1, np.array([4, 3])), Chosen(0, np.array([2, 0, 1]))]
    signals = found.fill(chosen, count=3, size=4)
    assert signals.preferences.shape == (1, 3, 4, 4)
    expected = np.zeros((3, 4, 4))
    expected[0, 0, 1], expected[1, 1, 0] = 0.5, 2.0
    np.testing.assert_array_equal(signals.preferences[0], expected)
    np.testing.assert_array_equal(signals.reference[0], [[0, 4, 0, 0], [-3, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(signals.reward[0], [[0.75, 0, 0, 0], [0] * 4, [0] * 4])
    some = found.fill([Chosen(0, np.array([0, 1]))], 1, 2)
    assert not some.preferences.any(), "the worse one was not drawn"


def write(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_files_are_read_and_bad_lines_told(tmp_path: Path) -> None:
    good = {"qid": "a", "better": "x", "worse": "y", "kind": "text > image", "weight": 2}
    path = write(tmp_path / "p.jsonl", good, {**good, "worse": "z", "weight": 0.5})
    assert read_preferences(path) == {"a": [("x", "y", 2.0), ("x", "z", 0.5)]}
    bad = write(tmp_path / "bad.jsonl", good, {**good, "weight": 0}, {**good, "worse": "x"}, {})
    with pytest.raises(FormatError) as caught:
        read_preferences(bad)
    for number in (2, 3, 4):
        assert f"bad.jsonl:{number}: line: not a qid with two different dids" in str(caught.value)
    scores = write(tmp_path / "s.jsonl", {"qid": "a", "dids": ["x", "y"], "rewards": [1, -2.5]})
    assert read_scores(scores, "rewards") == {"a": {"x": 1.0, "y": -2.5}}
    for wrong in ([1], [1, None], [1, float("nan")], "x"):
        path = write(tmp_path / "w.jsonl", {"qid": "a", "dids": ["x", "y"], "rewards": wrong})
        with pytest.raises(FormatError, match=r"w.jsonl:1: line: .* as many finite rewards"):
            read_scores(path, "rewards")


def test_a_run_learns_preferences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against the labels, so that nothing but the preferences can have taught it."""
    data = tiny_run.dataset_folder(tmp_path / "data", lists=8)
    model = tiny_run.model_folder(tmp_path / "model")
    lists = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    source = open_source(str(data))
    dids = {ranked.qid: ranked.dids for ranked in source.lists("train")}
    pairs = [
        {"qid": one["qid"], "better": dids[one["qid"]][at], "worse": dids[one["qid"]][-1]}
        for one in lists
        for at in range(4)
    ]
    path = write(tmp_path / "p.jsonl", *({**pair, "weight": 1.0} for pair in pairs))

    def train(workdir: str, **changes: object) -> int:
        settings = tiny_run.settings(
            data,
            model,
            batch__lists=8,
            schedule__steps=30,
            evaluation__every_steps=0,
            log__every_steps=1,
            optimizer__lr=1e-2,
            loss__bce=0,
            loss__rcr=0,
            loss__preference=1.0,
            loss__centre=0.01,
            **changes,
        )
        arguments = ["--workdir", str(tmp_path / workdir), "--set", *settings]
        return sft.main(["--config", "configs/sci.py", *arguments])

    assert train("without") == 1
    assert "need data.preferences" in capsys.readouterr().err
    other = write(tmp_path / "o.jsonl", {"qid": "q", "better": "x", "worse": "y", "weight": 1})
    assert train("other", data__preferences=other) == 1
    assert "says nothing of the training lists" in capsys.readouterr().err
    assert train("run", data__preferences=path) == 0
    series = [one for one in tiny_run.series(tmp_path / "run") if one["kind"] == "train"]
    assert series[0]["preference"] == pytest.approx(np.log(2), abs=0.1)
    assert series[-1]["preference"] < 0.45
    assert series[-1]["hit@1"] < 0.2

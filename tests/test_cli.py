"""The console script `unirank`: JSONL in and out, exit codes, and the check of a dataset."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_run

import unirank_jax
from train import cli


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset folder with pictures and a model folder."""
    root = tmp_path_factory.mktemp("cli")
    return tiny_run.dataset_folder(root / "data"), tiny_run.model_folder(root / "model")


def test_help_is_there_without_loading_jax() -> None:
    code = "import sys; from train import cli; cli._parser(); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_wrong_use_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["scoer"], ["data"], ["score", "--what"]):
        with pytest.raises(SystemExit) as raised:
            cli.main(arguments)
        assert raised.value.code == 2
    capsys.readouterr()


def test_score_and_rank_answer_every_line(
    inputs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = inputs
    candidates = ["a red circle", {"image": "red-circle.png"}, ["seen here", {"text": "blue"}]]
    broken = {"image": "absent.png"}
    lines = [
        {"id": 7, "query": "a red circle", "candidates": candidates},
        {"query": {"image": "blue-square.png"}, "candidates": [*candidates, broken]},
        {"query": "x", "candidates": "y", "colour": 1},
    ]
    path = data / "lines.txt"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "not json\n\n")
    arguments = ["--model", str(model), "--input", str(path)]
    assert cli.main(["score", *arguments]) == 1  # some lines were bad
    first, second, third, fourth = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["id"] == 7 and "error" not in first
    assert [entry["index"] for entry in first["candidates"]] == [0, 1, 2]
    reranker = unirank_jax.load(model)
    content = ["a red circle", {"image": str(data / "red-circle.png")}, candidates[2]]
    expected = reranker.logits("a red circle", content)
    np.testing.assert_allclose(
        [entry["logit"] for entry in first["candidates"]], expected, rtol=1e-4, atol=1e-5
    )
    assert [e["logit"] is None for e in second["candidates"]] == [False, False, False, True]
    assert "absent.png" in second["candidates"][3]["error"]
    assert "1 candidates could not be read" in second["error"]
    assert "candidates: not a list; colour: unknown" in third["error"]
    assert f"{path}:4: not valid JSON" in fourth["error"]

    out = data / "out.txt"
    path.write_text(json.dumps(lines[0]) + "\n")
    assert cli.main(["rank", *arguments, "--output", str(out)]) == 0
    (answer,) = map(json.loads, out.read_text().splitlines())
    logits = [entry["logit"] for entry in answer["ranking"]]
    assert logits == sorted(logits, reverse=True)
    assert sorted(entry["index"] for entry in answer["ranking"]) == [0, 1, 2]


def test_standard_input_and_a_missing_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert cli.main(["score", "--model", str(tmp_path / "absent")]) == 1
    assert "absent does not exist" in capsys.readouterr().err


def test_data_check_names_every_bad_line_and_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_run.dataset_folder(tmp_path / "data")
    assert cli.main(["data", "check", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"{folder}: usable" in said and "train: 12 lists of 5 candidates" in said
    (folder / "red-square.png").write_bytes((folder / "red-square.png").read_bytes()[:60])
    assert cli.main(["data", "check", str(folder)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"{folder}: not usable"
    assert told[1].startswith("problem: train: list ") and "].image: " in told[1]
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"qid": "more", "query": {"txt": "x"}, "candidates": []}\n')
    assert cli.main(["data", "check", str(folder)]) == 1
    assert "train.jsonl:13: " in capsys.readouterr().err

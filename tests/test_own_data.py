"""A folder of the user's own, from the check to scores: the five commands of the README."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_run

from train import cli, evaluate, export
from unirank_jax.calibration import fit_platt


def test_check_train_evaluate_export_and_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny_run.dataset_folder(tmp_path / "my_lists")
    run, exported, out = tmp_path / "run", tmp_path / "exported", tmp_path / "evaluation"

    assert cli.main(["data", "check", str(data)]) == 0

    overrides = tiny_run.settings(data, tiny_run.model_folder(tmp_path / "model"))
    training = tiny_run.start(run, overrides)
    printed, _ = training.communicate(timeout=300)
    assert training.returncode == 0, printed

    common = ["--data", str(data), "--split", "valid", "--resamples", "50"]
    evaluate.main([*common, "--model", f"mine={run}", "--out", str(out)])
    assert "mine - TF-IDF" in capsys.readouterr().out

    assert export.main(["--workdir", str(run), "--out", str(exported)]) == 0

    # The valid lists in the form that `unirank` reads.
    records = [json.loads(line) for line in (data / "valid.jsonl").read_text().splitlines()]
    lines = [
        {
            "id": record["qid"],
            "query": record["query"],
            "candidates": [
                {key: value for key, value in candidate.items() if key in ("text", "image")}
                for candidate in record["candidates"]
            ],
        }
        for record in records
    ]
    (data / "lists.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answers = tmp_path / "answers.jsonl"
    files = ["--input", str(data / "lists.jsonl"), "--output", str(answers)]
    assert cli.main(["score", "--model", str(exported), *files]) == 0

    # What was evaluated in the run's folder is what the exported folder answers.
    kept = [json.loads(line) for line in (out / "queries.jsonl").read_text().splitlines()]
    given = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [line["qid"] for line in kept] == [line["id"] for line in given]
    for line, answer in zip(kept, given, strict=True):
        logits = np.asarray([candidate["logit"] for candidate in answer["candidates"]])
        assert logits.shape == (5,) and np.ptp(logits) > 0
        np.testing.assert_allclose(logits, line["scores"]["mine"], rtol=1e-4, atol=1e-5)

    # Calibrated scores: Platt's fit on just these lists.
    calibrated = tmp_path / "calibrated"
    arguments = ["--workdir", str(run), "--out", str(calibrated), "--calibrate", "100"]
    assert export.main(arguments) == 0
    found = json.loads((calibrated / "unirank.json").read_text())["calibration"]
    logits = [logit for line in kept for logit in line["scores"]["mine"]]
    relevant = [grade >= line["rel_min"] for line in kept for grade in line["grades"]]
    expected = fit_platt(logits, relevant, f"{len(kept)} lists, split valid")
    assert found["fit_on"] == expected.fit_on
    assert found["bias"] == pytest.approx(expected.bias, rel=1e-3)
    assert found["temperature"] == pytest.approx(expected.temperature, rel=1e-3)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    data = tiny_run.dataset_folder(tmp_path / "my_lists")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"train.evaluate: .*run"):
        evaluate.main(["--data", str(data), "--split", "valid", "--model", str(tmp_path / "run")])

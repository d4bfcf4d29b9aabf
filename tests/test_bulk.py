"""Scores in shards: a killed run goes on, processes share the work, and neither changes a byte."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import tiny_run

from train import bulk, cli, processes


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Seven lists, one of them bad, and a model folder."""
    root = tmp_path_factory.mktemp("bulk")
    data = tiny_run.dataset_folder(root / "data")
    lists = [
        {"id": n, "query": "red " * (n + 1), "candidates": ["blue", {"image": "red-circle.png"}]}
        for n in range(7)
    ]
    lists[4]["candidates"] = "blue"
    path = data / "lists.txt"
    path.write_text("\n\n".join(map(json.dumps, lists)) + "\n")
    return path, tiny_run.model_folder(root / "model")


def command(inputs: tuple[Path, Path], *more: str) -> list[str]:
    path, model = inputs
    return ["score", "--model", str(model), "--input", str(path), *more]


def in_shards(inputs: tuple[Path, Path], folder: Path) -> list[str]:
    return command(inputs, "--shards", str(folder), "--shard-lines", "2")


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_run_goes_on_and_nothing_is_scored_twice(
    inputs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main(in_shards(inputs, whole)) == 1
    assert "1 lines could not be answered" in capsys.readouterr().err
    assert sorted(shards(whole)) == [
        *(f"answers-0000{n}.jsonl" for n in range(4)),
        "answers.json",
    ]
    answers = [
        json.loads(line) for n in range(4) for line in open(whole / f"answers-0000{n}.jsonl")
    ]
    assert [one.get("id") for one in answers] == [0, 1, 2, 3, None, 5, 6]
    assert answers[4]["error"].endswith("lists.txt:9: candidates: not a list")
    assert cli.main(command(inputs, "--output", str(tmp_path / "plain.jsonl"))) == 1
    for one, other in zip(open(tmp_path / "plain.jsonl"), answers, strict=True):
        for a, b in zip(
            json.loads(one).get("candidates", ()), other.get("candidates", ()), strict=True
        ):
            assert a["logit"] == pytest.approx(b["logit"], abs=1e-4)

    answer, calls = cli._answer, []

    def stops(*arguments: object) -> dict:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return answer(*arguments)

    monkeypatch.setattr(cli, "_answer", stops)
    with pytest.raises(KeyboardInterrupt):
        cli.main(in_shards(inputs, cut))
    assert len(shards(cut)) == 2
    assert cli.main(in_shards(inputs, cut)) == 1
    assert shards(cut) == shards(whole) and len(calls) == 4 + 5
    assert "1 lines" in capsys.readouterr().err
    assert cli.main(in_shards(inputs, cut)) == 1 and len(calls) == 9, "known answers are read"
    assert "1 lines" in capsys.readouterr().err


def test_processes_share_the_shards(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, as threads."""
    assert cli.main(in_shards(inputs, tmp_path / "alone")) == 1
    barrier = threading.Barrier(2, timeout=60)
    scored: dict[str, list[int]] = {"0": [], "1": []}
    answer = cli._answer_or_error

    def noted(arguments: object, reranker: object, number: int, text: str) -> dict:
        scored[threading.current_thread().name].append(number)
        return answer(arguments, reranker, number, text)

    monkeypatch.setattr(cli, "_answer_or_error", noted)
    monkeypatch.setattr(
        processes, "share", lambda: processes.Share(int(threading.current_thread().name), 2)
    )
    monkeypatch.setattr(processes, "meet", lambda name: barrier.wait())
    argv = in_shards(inputs, tmp_path / "shared")
    threads = [threading.Thread(target=cli.main, args=(argv,), name=str(n)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scored == {"0": [1, 3, 9, 11], "1": [5, 7, 13]}
    assert shards(tmp_path / "shared") == shards(tmp_path / "alone")


def test_what_cannot_go_on_is_told(
    inputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["score", "--shards", str(tmp_path / "a")]) == 2
    assert "--shards needs --input FILE" in capsys.readouterr().err
    cli.main(in_shards(inputs, tmp_path / "b"))
    capsys.readouterr()
    assert cli.main([*in_shards(inputs, tmp_path / "b"), "--shard-lines", "3"]) == 1
    told = capsys.readouterr().err
    assert "answers of another kind" in told and "shard_lines" in told
    assert (tmp_path / "b" / bulk.ABOUT).exists()

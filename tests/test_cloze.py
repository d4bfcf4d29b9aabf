"""Cloze lists: the words of the query stand in the relevant text alone, the same every time."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from train import cloze
from train.lexical import words_of
from unirank_jax.datasets.dataset import open_source


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lists_are_what_they_promise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--data", "sample:sci", "--lists", "60", "--valid", "20", "--size", "8"]
    assert cloze.main([*command, "--out", str(tmp_path / "a")]) == 0
    assert "60 train, 20 valid" in capsys.readouterr().out
    lists = read(tmp_path / "a" / "train.jsonl")
    hard, kinds = 0, Counter(one["kind"] for one in lists)
    assert set(kinds) == {"span", "handful", "taken out"}, kinds
    for one in lists:
        wanted = set(words_of(one["query"]["text"]))
        grades = [candidate["grade"] for candidate in one["candidates"]]
        assert grades == [1] + [0] * 7 and wanted
        assert len({candidate["did"] for candidate in one["candidates"]}) == 8
        for candidate in one["candidates"]:
            found = set(words_of(candidate["text"]))
            if one["kind"] == "taken out":
                continue
            assert (wanted <= found) == bool(candidate["grade"])
            hard += bool(wanted & found) and not candidate["grade"]
    assert hard > 100, "many share some words with the query"
    assert len({len(words_of(one["query"]["text"])) for one in lists}) > 3
    texts = {" ".join(text.split()) for text in cloze.texts_of(open_source("sample:sci"), "train")}
    for one in lists:
        if one["kind"] == "taken out":
            words, rest = one["query"]["text"], one["candidates"][0]["text"]
            cuts = (
                f"{rest[:n].rstrip()} {words} {rest[n:].lstrip()}" for n in range(len(rest) + 1)
            )
            whole = {text.replace(" ", "") for text in texts}
            assert any(cut.replace(" ", "") in whole for cut in (" ".join(c.split()) for c in cuts))
    dataset = open_source(str(tmp_path / "a"))
    assert len(dataset.lists("train")) == 60 and len(dataset.lists("valid")) == 20
    assert not set(dataset.pool("train")) & set(dataset.pool("valid"))

    assert cloze.main([*command, "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "train.jsonl").read_bytes() == (
        tmp_path / "b" / "train.jsonl"
    ).read_bytes()
    assert cloze.main([*command, "--seed", "1", "--out", str(tmp_path / "c")]) == 0
    assert read(tmp_path / "c" / "train.jsonl") != lists


def test_errors_name_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert cloze.main(["--data", "sample:sci", "--size", "100000", *out]) == 1
    assert "are too few for lists of 100000; choose a smaller --size" in capsys.readouterr().err
    assert cloze.main(["--data", str(tmp_path / "none"), *out]) == 1
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "out" / "train.jsonl").exists()

"""Cloze lists: the words of the query stand in the relevant text alone, the same every time."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from train import cloze
from train.lexical import words_of
from train.picture_cloze import pictures_of
from unirank_jax.datasets.dataset import open_source
from unirank_jax.datasets.formats.writing import json_line, write_lines
from unirank_jax.images import decode


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _texts(number: int) -> str:
    one = {"did": f"d{number}", "text": f"some words {number}", "grade": 1}
    return json_line({"qid": f"q{number}", "query": {"text": "some"}, "candidates": [one]})


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


def test_random_words_say_nothing_by_themselves(tmp_path: Path) -> None:
    command = ["--data", "sample:sci", "--lists", "0", "--valid", "5", "--size", "6"]
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        assert cloze.main([*command, "--words", "80", "--out", str(folder)]) == 0
    assert (folders[0] / "train.jsonl").read_bytes() == (folders[1] / "train.jsonl").read_bytes()
    lists = read(folders[0] / "train.jsonl")
    assert {one["kind"] for one in lists} == {"words"} and len(lists) == 80
    texts = " ".join(cloze.texts_of(open_source("sample:sci"), "train"))
    some = 0
    for one in lists:
        wanted = set(one["query"]["text"].split())
        assert all(word in texts for word in wanted)
        for candidate in one["candidates"]:
            found = set(candidate["text"].split())
            assert (wanted <= found) == bool(candidate["grade"])
            some += bool(wanted & found) and not candidate["grade"]
    assert [sum(c["grade"] for c in one["candidates"]) for one in lists] == [1] * 80
    assert some > 100, "many hold a part of the query"


def test_pictures_ask_for_themselves(tmp_path: Path) -> None:
    command = ["--data", "sample:sci", "--lists", "4", "--valid", "3", "--size", "6"]
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        assert cloze.main([*command, "--pictures", "12", "--out", str(folder)]) == 0
    lists = [one for one in read(folders[0] / "train.jsonl") if one["kind"] == "picture"]
    assert len(lists) == 12 and len(read(folders[0] / "valid.jsonl")) == 6
    known = {picture.same: picture for picture in pictures_of(open_source("sample:sci"), "train")}
    pixels = {decode(one.source, "x").tobytes(): one for one in known.values()}
    alike = 0
    for one in lists:
        shown = [Image.open(folders[0] / c["image"]) for c in one["candidates"]]
        found = [pixels[image.tobytes()] for image in shown]
        assert [c["grade"] for c in one["candidates"]] == [1] + [0] * 5
        assert len({picture.same for picture in found}) == 6, "no picture twice"
        assert found[0].unit not in {picture.unit for picture in found[1:]}
        alike += sum(picture.family == found[0].family for picture in found[1:])
        asked = Image.open(folders[0] / one["query"]["image"])
        assert asked.size == shown[0].size and asked.tobytes() != shown[0].tobytes(), "it is moved"
    assert alike > 5
    files = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in folders]
    assert files[0] == files[1] and all(path.suffix != ".part" for path in files[0])
    for path in files[0]:
        assert (folders[0] / path).read_bytes() == (folders[1] / path).read_bytes()
    dataset = open_source(str(folders[0]))
    assert dataset.query(lists[0]["qid"]).kind == "picture"


def test_errors_name_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert cloze.main(["--data", "sample:sci", "--size", "100000", *out]) == 1
    assert "are too few for lists of 100000; choose a smaller --size" in capsys.readouterr().err
    (tmp_path / "texts").mkdir()
    write_lines(tmp_path / "texts" / "train.jsonl", [_texts(n) for n in range(30)])
    write_lines(tmp_path / "texts" / "valid.jsonl", [_texts(n) for n in range(40, 70)])
    texts = ["--data", str(tmp_path / "texts"), "--size", "4", "--lists", "2", "--valid", "2"]
    assert cloze.main([*texts, "--pictures", "3", *out]) == 1
    assert "0 pictures in split 'train' are too few" in capsys.readouterr().err
    assert not (tmp_path / "out" / "train.jsonl").exists()
    assert cloze.main(["--data", str(tmp_path / "none"), *out]) == 1
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "out" / "train.jsonl").exists()

"""Lists from a file over a dataset: they are read back as written, and bad lines are told."""

from __future__ import annotations

import gzip
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from test_formats_shared import lines

from unirank_jax.datasets.dataset import Dataset, DatasetError, sample
from unirank_jax.datasets.formats.problems import FormatError
from unirank_jax.datasets.overlay import Overlay, overlaid, read_lists, write_lists
from unirank_jax.datasets.records import RankList


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Two training queries and one test query with three candidates each."""

    def line(qid: str, rel_min: int = 1) -> dict:
        docs = [
            {"did": f"{qid}-{n}", "text": f"{qid} {n}", "grade": 2 * (n == 0)} for n in range(3)
        ]
        return {"qid": qid, "query": {"text": qid}, "candidates": docs, "rel_min": rel_min}

    lines(tmp_path / "d" / "train.jsonl", line("a"), line("b", 2))
    lines(tmp_path / "d" / "test.jsonl", line("t"))
    return Dataset.open(tmp_path / "d")


A = RankList("a", ("b-0", "a-0", "b-2"), (0, 1, -1), ("near", "positive", "unjudged"))
B = RankList("b", ("a-1",), (0,), ("easy",), (2, 1))


def test_written_lists_are_read_back_and_equal_bytes_come_out(
    data: Dataset, tmp_path: Path
) -> None:
    for name in ("x.jsonl", "x.jsonl.gz"):
        write_lists(tmp_path / name, [A, B])
        assert read_lists(tmp_path / name, data, "train") == (A, B)
        first = (tmp_path / name).read_bytes()
        write_lists(tmp_path / name, [A, B])
        assert (tmp_path / name).read_bytes() == first
    assert (tmp_path / "x.jsonl").read_bytes() == gzip.decompress(first)
    assert not list(tmp_path.glob(".x*")), "no half-written file stays"


def test_an_overlay_replaces_the_lists_of_one_split_and_keeps_the_rest(
    data: Dataset, tmp_path: Path
) -> None:
    write_lists(tmp_path / "x.jsonl.gz", [B, A])
    over = pickle.loads(pickle.dumps(overlaid(data, "train", tmp_path / "x.jsonl.gz")))
    assert over.splits == ("train", "test") and over.path == data.path
    assert list(over.lists("train")) == [B, A] and len(data.lists("train")) == 2
    assert list(over.lists("test")) == list(data.lists("test"))
    example = over.example("train", 1)
    assert [item.did for item in example.candidates] == ["b-0", "a-0", "b-2"]
    assert example.query == data.query("a") and example.grades == A.grades
    assert over.example("train", 0).missing == (2, 1)
    assert list(over.items_of("train")) == list(data.items_of("train"))
    assert over.size("a-0") == data.size("a-0")
    assert list(over.pool("train")) == [f"{q}-{n}" for q in "ab" for n in range(3)]


def test_own_candidates_follow_those_of_the_file(data: Dataset, tmp_path: Path) -> None:
    write_lists(tmp_path / "x.jsonl.gz", [A, B])
    over = overlaid(data, "train", tmp_path / "x.jsonl.gz", own=True)
    first, second = over.lists("train")
    assert first.dids == ("b-0", "a-0", "b-2", "a-1", "a-2"), "a-0 stands once"
    assert first.grades == (0, 1, -1, 0, 0), "of a candidate on both the file's grade counts"
    assert second.dids == ("a-1", "b-0", "b-1", "b-2") and second.grades == (0, 2, 0, 0)
    assert second.missing == (), "what the first stage missed is there now"
    assert all(len(r.dids) == len(r.neg_types) for r in (first, second))
    assert over.fingerprint != overlaid(data, "train", tmp_path / "x.jsonl.gz").fingerprint


def test_the_fingerprint_covers_the_content_and_the_lists(data: Dataset, tmp_path: Path) -> None:
    one = Overlay(data, {"train": [A, B]}).fingerprint
    assert one == Overlay(data, {"train": (A, B)}).fingerprint != data.fingerprint
    assert one != Overlay(data, {"train": [A]}).fingerprint
    assert one != Overlay(data, {"train": [A, replace(B, missing=(2,))]}).fingerprint
    assert one != Overlay(data, {"test": [A, B]}).fingerprint
    lines(tmp_path / "e" / "train.jsonl", *(json.loads(x) for x in _lines_of(data)))
    assert one != Overlay(Dataset.open(tmp_path / "e"), {"train": [A, B]}).fingerprint


def _lines_of(data: Dataset) -> list[str]:
    return (data.path / "train.jsonl").read_text().replace('"a 1"', '"a one"').splitlines()


def test_a_split_without_lists_and_an_unknown_one(data: Dataset, tmp_path: Path) -> None:
    assert Overlay(data, {"train": []}).splits == ("test",)
    write_lists(tmp_path / "x.jsonl", [A])
    with pytest.raises(DatasetError, match="no lists in split 'valid'; choose one of: train, test"):
        overlaid(data, "valid", tmp_path / "x.jsonl")
    with pytest.raises(DatasetError, match="no split 'tset'"):
        Overlay(data, {"tset": [A]})


GOOD = {"qid": "a", "dids": ["a-0", "b-1"], "grades": [1, 0], "neg_types": ["positive", "near"]}
BAD = {  # name: (change of the good line, field, problem, remedy)
    "query unknown": ({"qid": "c"}, "qid", "no query 'c' in the data", "give the dataset"),
    "query of another split": ({"qid": "t"}, "qid", "query 't' is of another split", "keep"),
    "query missing": ({"qid": None}, "qid", "missing", "give every record an id"),
    "query a list": ({"qid": []}, "qid", "a list, not a text", "give a text"),
    "item unknown": ({"dids": ["a-0", "x"]}, "dids[1]", "no item 'x' in the data", "give the"),
    "item of another split": ({"dids": ["a-0", "t-1"]}, "dids[1]", "of another split", "keep"),
    "item twice": ({"dids": ["a-0", "a-0"]}, "dids[1]", "'a-0' is also dids[0]", "once"),
    "item a number": ({"dids": ["a-0", 1.5]}, "dids[1]", "a number, not a text", "give"),
    "no items": ({"dids": []}, "dids", "an empty list", "leave"),
    "items a text": ({"dids": "a-0"}, "dids", "a text, not a list", "put it in [ ]"),
    "fewer grades": ({"grades": [1]}, "grades", "1 for 2 dids", "give one for every"),
    "more origins": ({"neg_types": ["", "", ""]}, "neg_types", "3 for 2 dids", "give one"),
    "no origins": ({"neg_types": ...}, "neg_types", "missing", "give qid, dids"),
    "origin null": ({"neg_types": ["", None]}, "neg_types[1]", "null, not a text", 'write ""'),
    "grade a fraction": ({"grades": [1, 0.5]}, "grades[1]", "0.5 is not an integer", "give"),
    "grade below": ({"grades": [1, -2]}, "grades[1]", "-2 is out of range", "from -1"),
    "missing no list": ({"missing": 1}, "missing", "a number, not a list", "put it in"),
    "nothing relevant": ({"grades": [0, -1]}, "grades", "no candidate of grade 2", "correct"),
    "too little": ({"qid": "b", "missing": [1]}, "grades", "no candidate of grade 2", "leave"),
    "a wrong name": ({"mising": [1]}, "mising", "unknown field", "did you mean 'missing'?"),
    "not JSON": (b"{", "line", "not valid JSON", "one JSON object per line"),
    "not UTF-8": (b"\xff", "line", "not UTF-8 at byte 0", "save the file"),
    "query twice": (GOOD, "qid", "'a' has a list in x.jsonl:1 already", "give every query one"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lines_name_place_field_problem_and_remedy(
    data: Dataset, tmp_path: Path, name: str
) -> None:
    change, field, told, remedy = BAD[name]
    bad = change
    if isinstance(change, dict):
        other = GOOD if name == "query twice" else GOOD | {"qid": "b"}
        bad = {key: value for key, value in (other | change).items() if value is not ...}
    lines(tmp_path / "x.jsonl", GOOD, "", bad)
    with pytest.raises(FormatError) as caught:
        read_lists(tmp_path / "x.jsonl", data, "train")
    wanted = [one for one in caught.value.problems if one.startswith(f"x.jsonl:3: {field}: ")]
    assert any(told in one and remedy in one.partition("; ")[2] for one in wanted), caught.value


def test_all_problems_are_told_together_and_files_that_cannot_be_read(
    data: Dataset, tmp_path: Path
) -> None:
    lines(tmp_path / "x.jsonl", GOOD | {"dids": ["x", "y"]}, GOOD | {"grades": []})
    with pytest.raises(FormatError) as caught:
        read_lists(tmp_path / "x.jsonl", data, "train")
    assert len(caught.value.problems) == 3
    (tmp_path / "e.jsonl").write_text("\n")
    with pytest.raises(FormatError, match="e.jsonl: file: no list in it; write one"):
        read_lists(tmp_path / "e.jsonl", data, "train")
    with pytest.raises(FormatError, match="n.jsonl: file: there is none; correct the path"):
        read_lists(tmp_path / "n.jsonl", data, "train")
    for content in (b"plain text", gzip.compress(b'{"qid": "a"}' * 900)[:-20]):
        (tmp_path / "z.jsonl.gz").write_bytes(content)
        with pytest.raises(FormatError, match=r"z.jsonl.gz:1: file: cannot be read .*; write the"):
            read_lists(tmp_path / "z.jsonl.gz", data, "train")


def test_the_embedded_sample_knows_its_pool_without_reading_it() -> None:
    data = sample("sci")
    assert list(data.pool("valid")) == [item.did for item in data.items_of("valid")]
    (ranked, *_) = data.lists("valid")
    assert set(ranked.dids) <= set(data.pool("valid"))
    assert not set(data.pool("valid")) & set(data.pool("test"))

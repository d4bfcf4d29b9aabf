"""The user's own data: what is read, and that every kind of bad line is told with its remedy."""

from __future__ import annotations

import json
import os
import pickle

import pytest
from PIL import Image

from unirank_jax.content import ImagePart, TextPart
from unirank_jax.datasets.check import check
from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.jsonl import JsonlError
from unirank_jax.datasets.records import ContentSize, split_of


def good_line(qid="q1", **changes):
    line = {
        "qid": qid,
        "query": {"text": "a red square"},
        "candidates": [
            {"image": "images/red.png", "grade": 1},
            {"did": f"{qid}-text", "text": "a blue circle", "grade": 0},
            {"parts": [{"text": "see"}, {"image": "images/blue.png"}, "here"], "grade": 0},
        ],
    }
    return line | changes


def write(folder, name, lines):
    text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "images" / "red.png")
    Image.new("RGB", (20, 50), "blue").save(tmp_path / "images" / "blue.png")
    return tmp_path


def test_lists_are_read(folder):
    line = good_line(instruction="Find the shape.", domain="shapes", kind="named", split_id="d1")
    write(folder, "train.jsonl", [line, "", good_line("q2", rel_min=1)])
    write(folder, "test.jsonl", [good_line("q3", query={"image": "images/blue.png"})])
    dataset = Dataset.open(folder)
    assert dataset.splits == ("train", "test")
    assert [ranked.qid for ranked in dataset.lists("train")] == ["q1", "q2"]
    example = dataset.example("train", 0)
    assert example.query.parts == (TextPart("a red square"),)
    assert (example.query.instruction, example.query.domain) == ("Find the shape.", "shapes")
    assert (example.query.kind, example.query.split_id) == ("named", "d1")
    assert example.grades == (1, 0, 0)
    assert example.neg_types == ("positive", "negative", "negative")
    assert [item.did for item in example.candidates] == ["q1#0", "q1-text", "q1#2"]
    assert [item.modality for item in example.candidates] == ["image", "text", "mixed"]
    red = str((folder / "images" / "red.png").resolve())
    assert example.candidates[0].parts == (ImagePart(red),)
    assert [type(part) for part in example.candidates[2].parts] == [TextPart, ImagePart, TextPart]
    assert dataset.size("q1#2") == ContentSize(7, ((50, 20),))
    other = dataset.example("test", 0)
    assert other.query.kind == "image" and other.query.split_id == "q3"
    assert len(dataset.items_of("train")) == 6
    assert pickle.loads(pickle.dumps(dataset)).example("train", 0) == example
    with pytest.raises(DatasetError, match="no split 'dev'"):
        dataset.lists("dev")


def test_one_file_is_split_by_split_id(folder):
    lines = [good_line(f"q{number}", split_id=f"d{number % 60}") for number in range(120)]
    write(folder, "mine.jsonl", lines)
    for path in (folder, folder / "mine.jsonl"):
        dataset = Dataset.open(path)
        assert dataset.splits == ("train", "valid", "test")
        for split in dataset.splits:
            for ranked in dataset.lists(split):
                assert split_of(dataset.query(ranked.qid).split_id) == split
        assert sum(len(dataset.lists(split)) for split in dataset.splits) == 120


def test_unjudged_and_graded_candidates(folder):
    candidates = [
        {"text": "front", "grade": 2},
        {"text": "side", "grade": 1},
        {"text": "unknown", "grade": -1},
    ]
    write(folder, "train.jsonl", [good_line(candidates=candidates, rel_min=2)])
    example = Dataset.open(folder).example("train", 0)
    assert example.query.rel_min == 2
    assert example.neg_types == ("positive", "negative", "unjudged")


def test_fingerprint_follows_lines_and_images(folder):
    write(folder, "train.jsonl", [good_line()])
    first = Dataset.open(folder).fingerprint
    assert Dataset.open(folder).fingerprint == first
    Image.new("RGB", (40, 30), "green").save(folder / "images" / "red.png")
    second = Dataset.open(folder).fingerprint
    write(folder, "train.jsonl", [good_line(instruction="other")])
    third = Dataset.open(folder).fingerprint
    assert len({first, second, third}) == 3
    write(folder, "train.jsonl", [good_line(query={"image": "images/query.png"})])
    seen = set()
    for colour in ("green", "red"):
        Image.new("RGB", (40, 30), colour).save(folder / "images" / "query.png")
        seen.add(Dataset.open(folder).fingerprint)
    assert len(seen) == 2, "the picture of a query counts too"


CANDIDATES = good_line()["candidates"]
BAD_LINES = {
    "not JSON": ('{"qid": "q1",', "line: not valid JSON", "one JSON object per line"),
    "a list": ("[1, 2]", "line: a list, not an object", 'write {"qid"'),
    "NaN": (
        json.dumps(good_line()).replace('"grade": 1', '"grade": NaN'),
        "line: not valid JSON (NaN is not a JSON value)",
        "one JSON object",
    ),
    "key twice": (
        json.dumps(good_line())[:-1] + ', "qid": "q9"}',
        "key 'qid' is there twice",
        "one JSON object",
    ),
    "unknown field": (good_line(instuction="x"), "instuction: unknown field", "'instruction'?"),
    "unknown field of a candidate": (
        good_line(candidates=[{"text": "x", "grade": 1, "graed": 1}]),
        "candidates[0].graed: unknown field",
        "did you mean 'grade'?",
    ),
    "unknown field of the query": (
        good_line(query={"txt": "x"}),
        "query.txt: unknown field",
        "did you mean 'text'?",
    ),
    "no qid": ({**good_line(), "qid": None}, "qid: missing", "add a text"),
    "qid is a number": (good_line(qid=7), "qid: a number, not a text", "put it in quotes"),
    "no query": (
        {"qid": "q1", "candidates": CANDIDATES},
        "query: missing",
        'add "query": {"text"',
    ),
    "query is a text": (good_line(query="red"), "query: a text, not an object", 'write {"text"'),
    "empty text": (good_line(query={"text": "  "}), "query: the text is empty", "give some text"),
    "no content": (good_line(query={}), "query: no content", "'text', 'image' or 'parts'"),
    "parts and text": (
        good_line(query={"text": "x", "parts": ["y"]}),
        "query: both 'parts' and 'text'",
        "put all into 'parts'",
    ),
    "parts is a text": (
        good_line(query={"parts": "x"}),
        "query.parts: a text, not a list",
        "[{",
    ),
    "nested parts": (
        good_line(query={"parts": [["x"]]}),
        "query.parts[0]: a list inside a list",
        "flatten",
    ),
    "text is a number": (good_line(query={"text": 3}), "query.text: the text is a int", "a str"),
    "image address": (
        good_line(query={"image": "https://example.org/a.png"}),
        "query.image: 'https://example.org/a.png' is an address",
        "download",
    ),
    "missing image": (
        good_line(query={"image": "images/green.png"}),
        "query.image: no file 'images/green.png'",
        "correct the path",
    ),
    "folder as image": (good_line(query={"image": "images"}), "query.image: no file", "correct"),
    "absolute image": (
        good_line(query={"image": "/etc/hostname"}),
        "query.image: '/etc/hostname' is absolute",
        "beside the .jsonl file",
    ),
    "image outside": (
        good_line(query={"parts": ["x", {"image": "images/../../secret.png"}]}),
        "query.parts[1].image: 'images/../../secret.png' leaves the folder",
        "copy the image",
    ),
    "link to outside": (
        good_line(query={"image": "images/link.png"}),
        "query.image: 'images/link.png' leaves the folder",
        "copy the image",
    ),
    "no candidates": (good_line(candidates=[]), "candidates: an empty list", 'add "candidates"'),
    "candidate is a text": (
        good_line(candidates=["x"]),
        "candidates[0]: a text, not an object",
        "write",
    ),
    "no grade": (
        good_line(candidates=[{"text": "x"}]),
        "candidates[0].grade: missing",
        "add an integer",
    ),
    "grade is a fraction": (
        good_line(candidates=[{"text": "x", "grade": 0.5}]),
        "candidates[0].grade: 0.5 is not an integer",
        "as a number",
    ),
    "grade is true": (
        good_line(candidates=[{"text": "x", "grade": True}]),
        "candidates[0].grade: true is not an integer",
        "as a number",
    ),
    "grade too low": (
        good_line(candidates=[{"text": "x", "grade": -2}, {"text": "y", "grade": 1}]),
        "candidates[0].grade: -2 is out of range",
        "from -1 to 999",
    ),
    "nothing relevant": (
        good_line(candidates=[{"text": "x", "grade": 0}]),
        "candidates: no candidate of grade 1 or more",
        "add a relevant candidate",
    ),
    "nothing relevant enough": (
        good_line(rel_min=2),
        "candidates: no candidate of grade 2 or more",
        "correct the grades",
    ),
    "rel_min is zero": (good_line(rel_min=0), "rel_min: 0 is out of range", "from 1"),
    "did twice in a list": (
        good_line(candidates=[{"did": "a", "text": "x", "grade": 1}] * 2),
        "candidates[1].did: 'a' is also candidates[0]",
        "once",
    ),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_told(folder, name):
    line, problem, remedy = BAD_LINES[name]
    (folder.parent / "secret.png").write_bytes(b"x")
    os.symlink(folder.parent / "secret.png", folder / "images" / "link.png")
    write(folder, "train.jsonl", [good_line("fine"), line])
    with pytest.raises(JsonlError) as caught:
        Dataset.open(folder)
    (message,) = caught.value.problems
    assert message.startswith("train.jsonl:2: ")
    assert problem in message
    before, after = message.split(problem)
    assert remedy in after.split("; ", 1)[1]
    assert not check(folder).ok


def test_problems_over_lines_are_told_together(folder):
    write(folder, "train.jsonl", [good_line(), good_line(), good_line("q2", query={})])
    other = good_line("q3")
    other["candidates"][1] |= {"did": "q1-text", "text": "something else"}
    write(folder, "test.jsonl", [other])
    (folder / "valid.jsonl").write_bytes(b'{"qid": "\xff"}\n')
    with pytest.raises(JsonlError) as caught:
        Dataset.open(folder)
    text = str(caught.value)
    assert "train.jsonl:2: qid: 'q1' was used before in train.jsonl:1; give every" in text
    assert "train.jsonl:3: query: no content" in text
    assert "test.jsonl:1: candidates[1].did: 'q1-text' has other content in train.jsonl:1" in text
    assert "valid.jsonl:1: line: not UTF-8 at byte 9; save the file as UTF-8" in text
    assert len(caught.value.problems) == 4


def test_only_the_first_problems_are_shown(folder):
    write(folder, "train.jsonl", [good_line(f"q{n}", query={}) for n in range(50)])
    with pytest.raises(JsonlError, match=r"\.\.\. and 30 more problems") as caught:
        Dataset.open(folder)
    assert len(caught.value.problems) == 50


def test_a_folder_that_cannot_be_understood(folder):
    with pytest.raises(DatasetError, match="no dataset here"):
        Dataset.open(folder)
    write(folder, "a.jsonl", [good_line()])
    write(folder, "b.jsonl", [good_line()])
    with pytest.raises(DatasetError, match="2 .jsonl files and none is named train.jsonl"):
        Dataset.open(folder)
    (folder / "b.jsonl").unlink()
    write(folder, "a.jsonl", [])
    with pytest.raises(JsonlError, match="no list in it"):
        Dataset.open(folder)


def test_a_file_that_changes_while_in_use_is_told(folder):
    write(folder, "train.jsonl", [good_line()])
    dataset = Dataset.open(folder)
    (folder / "images" / "red.png").unlink()
    with pytest.raises(JsonlError, match="changed while it was in use"):
        dataset.example("train", 0)


def test_check_counts_and_warns(folder):
    everything = good_line("q3", candidates=[{"text": "only this", "grade": 1}])
    itself = good_line("q4", split_id="d4")
    itself["candidates"].append({"text": "A red square", "grade": 0})
    write(folder, "train.jsonl", [good_line(), good_line("q2"), everything])
    write(folder, "test.jsonl", [itself])
    report = check(folder)
    assert report.ok
    train = report.splits["train"]
    assert (train.lists, train.queries, train.lengths) == (3, {"text": 3}, {3: 2, 1: 1})
    assert train.candidates == {"image": 2, "text": 3, "mixed": 2}
    assert train.positives == {"image": 2, "text": 1}
    assert train.grades == {1: 3, 0: 4}
    warnings = "\n".join(report.warnings)
    assert "train: list 'q3': every candidate is relevant" in warnings
    assert "candidates[3]: is the query itself" in warnings
    assert "the content of 'q4#0' is in train and in test; give both one split_id" in warnings
    assert "lists of 1 to 3 candidates" in report.text()
    assert report.text().startswith(f"{folder}: usable\nwarning: ")


def test_check_finds_broken_images(folder):
    data = (folder / "images" / "blue.png").read_bytes()
    (folder / "images" / "blue.png").write_bytes(data[: len(data) // 2])
    write(folder, "train.jsonl", [good_line()])
    report = check(folder)
    assert not report.ok
    (problem,) = report.problems
    assert problem.startswith("train: list 'q1': candidates[2][1].image: ")
    assert "not usable" in report.text()
    assert not check(folder / "nowhere").ok

"""sentence-transformers columns: the three layouts, the way back, and twenty bad records."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_formats_shared import contents, lines, picture, png, refused

from unirank_jax.content import ImagePart, TextPart
from unirank_jax.datasets.check import check
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.formats.registry import write


def test_the_three_layouts(tmp_path):
    lines(
        tmp_path / "train.jsonl",
        {"anchor": "x", "positive": "a", "negative_1": "b", "negative_2": "c"},
        {"query": "y", "docs": ["a", "b", "c"], "labels": [2, 0, True], "extra": 1},
        {"sentence1": "z", "sentence2": "a", "label": 1},
        {"sentence1": "z", "sentence2": "b", "label": 0.0},
        {"sentence1": "alone", "sentence2": "b", "label": 0},
        {"query": "v", "positive": ["a", "b"], "negative": [{"text": "c"}], "query_id": "mine"},
    )
    lines(tmp_path / "dev.jsonl", {"query": "w", "documents": ["a", "b"], "labels": [1, 0]})
    dataset = Dataset.open(tmp_path)
    assert contents(dataset)["train"] == [
        (
            "train:1",
            ["x"],
            None,
            [(["a"], 1, "train:1#0"), (["b"], 0, "train:1#1"), (["c"], 0, "train:1#2")],
        ),
        (
            "train:2",
            ["y"],
            None,
            [(["a"], 2, "train:2#0"), (["b"], 0, "train:2#1"), (["c"], 1, "train:2#2")],
        ),
        ("train:3", ["z"], None, [(["a"], 1, "train:3#0"), (["b"], 0, "train:3#1")]),
        ("mine", ["v"], None, [(["a"], 1, "mine#0"), (["b"], 1, "mine#1"), (["c"], 0, "mine#2")]),
    ]
    assert dataset.splits == ("train", "valid")
    assert dataset.lists("train")[2].neg_types == ("positive", "negative")
    assert len(dataset.items_of("train")) == 11
    assert dataset.item("train:3#1").parts == (TextPart("b"),)
    with pytest.raises(KeyError):
        dataset.item("train:3#2")
    text = check(tmp_path).text()
    assert "1 queries have no relevant candidate: left out" in text
    assert "1 lists are made of several records of the same query" in text
    assert "ignored: extra" in text and "dev.jsonl: valid" in text


def test_records_of_one_id_make_one_list(tmp_path):
    rows = [{"qid": "q", "query": "x", "positive": "a", "negative": n} for n in ("b", "c", "b")]
    lines(tmp_path / "mine.jsonl", *rows)
    dataset = Dataset.open(tmp_path / "mine.jsonl")
    (split,) = dataset.splits
    example = dataset.example(split, 0)
    assert [item.parts[0].text for item in example.candidates] == ["a", "b", "c"]
    assert example.grades == (1, 0, 0)
    assert example.candidates[0].did == "q#0" and len(dataset.items_of(split)) == 3


def test_a_text_is_never_a_path(tmp_path):
    picture(tmp_path / "a.png")
    lines(
        tmp_path / "train.jsonl", {"query": "a.png", "positive": "a.png", "negative": "/etc/passwd"}
    )
    example = Dataset.open(tmp_path).example("train", 0)
    assert {item.modality for item in example.candidates} == {"text"}


def test_parquet_columns_with_images(tmp_path):
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("query", pa.string()), ("positive", image), ("negatives", pa.list_(pa.string()))]
    )
    rows = [
        {"query": f"x{n}", "positive": {"bytes": png(), "path": None}, "negatives": ["b", "c"]}
        for n in range(5)
    ]
    (tmp_path / "data").mkdir()
    name = "train-00000-of-00001"
    pq.write_table(
        pa.Table.from_pylist(rows, schema), tmp_path / "data" / f"{name}.parquet", row_group_size=2
    )
    dataset = pickle.loads(pickle.dumps(Dataset.open(tmp_path)))
    assert len(dataset.lists("train")) == 5
    for number in (3, 0, 4):
        assert dataset.example("train", number).query.parts == (TextPart(f"x{number}"),)
    example = dataset.example("train", 4)
    assert example.query.qid == f"{name}:5"
    assert example.candidates[0].parts == (ImagePart(png()),)
    assert [item.modality for item in example.candidates] == ["image", "text", "text"]


def test_round_trip(tmp_path):
    folder = tmp_path / "in"
    picture(folder / "a.png")
    candidates = [
        {"image": "a.png", "grade": 2},
        {"text": "b", "grade": 0},
        {"image": "a.png", "text": "both", "grade": 1},
        {"text": "both", "image": "a.png", "grade": 0},
        {"text": "?", "grade": -1},
    ]
    line = {"qid": "q1", "query": {"image": "a.png"}, "candidates": candidates}
    lines(folder / "train.jsonl", line, line | {"qid": "q2", "instruction": "i", "rel_min": 2})
    lines(folder / "test.jsonl", line | {"qid": "q3", "query": {"text": "x"}})
    before = Dataset.open(folder)
    told = "\n".join(write(before, "sentence-transformers", tmp_path / "out"))
    for loss in ("ids of queries", "unjudged candidates are left", "instructions", "rel_min"):
        assert loss in told, loss
    after = Dataset.open(tmp_path / "out")
    expected = {
        split: [
            ("", query, None, [(parts, grade, "") for parts, grade, _ in row if grade >= 0])
            for _, query, _, row in rows
        ]
        for split, rows in contents(before, ids=False).items()
    }
    assert contents(after, ids=False) == expected


LIST = {"query": "x", "docs": ["a", "b"], "labels": [1, 0]}
BAD = {  # name: (record, field, problem, remedy)
    "no query": ({**LIST, "query": None}, "query", "missing", "add one of: query, anchor"),
    "query is a list": ({**LIST, "query": ["x"]}, "query", "a list, not a text", "give a text"),
    "empty query": ({**LIST, "query": ""}, "query", "the text is empty", "give some text"),
    "documents are a text": ({**LIST, "docs": "ab"}, "docs", "a text, not a list", "put it in"),
    "no documents": ({**LIST, "docs": [], "labels": []}, "docs", "an empty list", "at least one"),
    "document is null": (
        {**LIST, "docs": ["a", None]},
        "docs[1]",
        "null, not a text",
        "give a text",
    ),
    "blank document": ({**LIST, "docs": ["a", " \t"]}, "docs[1]", "white space", "give some text"),
    "no labels": ({"query": "x", "docs": ["a"]}, "labels", "missing", "one label for each"),
    "fewer labels": ({**LIST, "labels": [1]}, "labels", "1 labels for 2 docs", "for each"),
    "label is a text": (
        {**LIST, "labels": ["1", 0]},
        "labels[0]",
        "'1' is not an integer",
        "give 0",
    ),
    "label is a score": ({**LIST, "labels": [0.7, 0]}, "labels[0]", "0.7 is not", "no grades"),
    "label out of range": ({**LIST, "labels": [1, -2]}, "labels[1]", "-2 is out of range", "-1 to"),
    "no relevant one": ({**LIST, "labels": [0, 0]}, "record", "no relevant candidate", "leave"),
    "address": (
        {**LIST, "docs": ["a", "https://x.org/a.jpg"]},
        "docs[1]",
        "the address of an image; nothing is fetched",
        "download",
    ),
    "data address": (
        {**LIST, "docs": ["a", "data:image/png;base64,AA"]},
        "docs[1]",
        "address",
        "as",
    ),
    "unknown part": ({**LIST, "docs": ["a", {"video": "x"}]}, "docs[1].video", "unknown", "image"),
    "empty content": ({**LIST, "docs": ["a", {"text": ""}]}, "docs[1]", "no content", "or both"),
    "path above": (
        {**LIST, "docs": ["a", {"image": "../x.png"}]},
        "docs[1].image",
        "leaves the folder",
        "copy",
    ),
    "no file": ({**LIST, "docs": ["a", {"image": "x.png"}]}, "docs[1].image", "no file", "correct"),
    "image is a number": (
        {**LIST, "docs": ["a", {"image": 1}]},
        "docs[1].image",
        "a number",
        "path",
    ),
    "no positive": ({"anchor": "x", "negative": "b"}, "record", "no relevant", "add a relevant"),
    "nothing but a query": ({"anchor": "x"}, "positive", "missing", "add positive"),
    "one label for two": (
        {"query": "x", "positive": "a", "negative": "b", "label": 1},
        "label",
        "one label for 2 candidates",
        "list of documents",
    ),
    "id is true": ({**LIST, "id": True}, "id", "true/false, not a text", "an integer"),
    "instruction is a list": ({**LIST, "instruction": []}, "instruction", "a list", "give a text"),
    "id of another query": ({**LIST, "qid": "one"}, "qid", "has another query in", "one id for"),
    "lone surrogate": ({**LIST, "docs": ["a", "\ud800"]}, "docs[1]", "Unicode", "decode"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_records(tmp_path, name):
    record, field, *told = BAD[name]
    lines(tmp_path / "train.jsonl", LIST | {"qid": "one", "query": "first"}, "", record)
    refused(tmp_path, f"train.jsonl:3: {field}: ", *told)


def test_one_id_in_two_splits(tmp_path):
    lines(tmp_path / "train.jsonl", LIST | {"qid": "q"})
    lines(tmp_path / "test.jsonl", LIST | {"qid": "q"})
    refused(
        tmp_path, "train.jsonl:1: qid: ", "is also in test.jsonl:1, of another split", "one split"
    )

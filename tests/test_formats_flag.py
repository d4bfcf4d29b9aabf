"""FlagEmbedding lines: what is read, and twenty bad lines."""

from __future__ import annotations

import pytest
from test_formats_shared import contents, lines, refused

from unirank_jax.datasets.check import check
from unirank_jax.datasets.dataset import Dataset

LINE = {"query": "x", "pos": ["a", "b"], "neg": ["c"]}


def test_lines_are_read(tmp_path):
    scored = {"pos_scores": [0.9, 1], "neg_scores": [-2.5], "prompt": "Find it.", "type": "normal"}
    lines(tmp_path / "train.jsonl", LINE, LINE | scored | {"id": 7}, {"query": "y", "pos": ["a"]})
    dataset = Dataset.open(tmp_path)
    rows = [(["a"], 1), (["b"], 1), (["c"], 0)]
    found = contents(dataset)["train"]
    assert [(qid, told, [(p, g) for p, g, _ in row]) for qid, _, told, row in found] == [
        ("train:1", None, rows),
        ("7", "Find it.", rows),
        ("train:3", None, rows[:1]),
    ]
    text = check(tmp_path).text()
    assert "format: FlagEmbedding lines" in text and "prompt -> instruction" in text
    assert "ignored: type" in text and "list 'train:3': every candidate is relevant" in text


BAD = {  # name: (line, field, problem, remedy)
    "not JSON": ("x", "line", "not valid JSON", "one JSON object"),
    "a text": ('"x"', "line", "a text, not an object", "write {"),
    "not UTF-8": (b'{"query": "\xff"}', "line", "not UTF-8 at byte 11", "save"),
    "key twice": ('{"pos": [], "pos": []}', "line", "key 'pos' is there twice", "one JSON"),
    "no query": ({"pos": ["a"]}, "query", "missing", "add a text"),
    "query is a list": (LINE | {"query": ["x"]}, "query", "a list, not a text", "give a text"),
    "blank query": (LINE | {"query": " "}, "query", "the text is empty", "give some text"),
    "query is an image": (LINE | {"query": {"image": "a.png"}}, "query", "an object, not", "give"),
    "no pos": ({"query": "x", "neg": ["a"]}, "pos", "no relevant text", "add a list"),
    "pos is empty": (LINE | {"pos": []}, "pos", "no relevant text", "add a list"),
    "pos is a text": (LINE | {"pos": "abc"}, "pos", "a text, not a list", "put it in [ ]"),
    "neg is a text": (LINE | {"neg": "abc"}, "neg", "a text, not a list", "put it in [ ]"),
    "pos holds a number": (
        LINE | {"pos": ["a", 1]},
        "pos[1]",
        "a number, not a text",
        "give a text",
    ),
    "pos holds null": (LINE | {"pos": [None]}, "pos[0]", "null, not a text", "give a text"),
    "neg holds a blank": (LINE | {"neg": [""]}, "neg[0]", "the text is empty", "give some text"),
    "neg holds a list": (LINE | {"neg": [["c"]]}, "neg[0]", "a list, not a text", "give a text"),
    "surrogate": (LINE | {"neg": ["\udc00"]}, "neg[0]", "not valid Unicode", "decode"),
    "address": (LINE | {"neg": ["http://x.org/a.png"]}, "neg[0]", "nothing is fetched", "download"),
    "fewer scores": (
        LINE | {"pos_scores": [1.0]},
        "pos_scores",
        "1 scores for 2 texts",
        "for each",
    ),
    "scores are a number": (LINE | {"pos_scores": 1}, "pos_scores", "a number, not a list", "[ ]"),
    "score is a text": (LINE | {"neg_scores": ["1"]}, "neg_scores[0]", "a text is no", "finite"),
    "score is NaN": (
        '{"query": "x", "pos": ["a"], "pos_scores": [NaN]}',
        "pos_scores[0]",
        "nan",
        "f",
    ),
    "score is true": (LINE | {"neg_scores": [True]}, "neg_scores[0]", "true/false", "finite"),
    "prompt is a list": (LINE | {"prompt": ["x"]}, "prompt", "a list, not a text", "give a text"),
    "id is a fraction": (LINE | {"id": 1.5}, "id", "a number, not a text", "an integer"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lines(tmp_path, name):
    line, field, *told = BAD[name]
    lines(tmp_path / "mine.jsonl", LINE, line)
    refused(tmp_path / "mine.jsonl", f"mine.jsonl:2: {field}: ", *told)

"""ms-swift messages: reranker and embedding lines, the way back, and twenty bad lines."""

from __future__ import annotations

import pytest
from test_formats_shared import contents, lines, picture, png, refused

from unirank_jax.content import ImagePart, TextPart
from unirank_jax.datasets.check import check
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.formats.problems import WriteError
from unirank_jax.datasets.formats.registry import write


def user(text):
    return [{"role": "user", "content": text}]


def documents(*texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "swift"
    for name in ("q", "p", "n"):
        picture(path / "img" / f"{name}.png", {"q": "red", "p": "blue", "n": "green"}[name])
    return path


LINE = {
    "messages": user("<image>what is it"),
    "images": ["img/q.png"],
    "positive_messages": documents("see <image> here", "text"),
    "positive_images": [["img/p.png"], []],
    "negative_messages": documents("<image>"),
    "negative_images": [["img/n.png"]],
}


def test_reranker_lines(folder):
    system = [{"role": "system", "content": "Find it."}]
    plain = {"messages": system + user("x"), "positive_messages": documents("a", "b")}
    plain["negative_messages"] = documents("c")
    lines(folder / "train.jsonl", LINE, plain)
    dataset = Dataset.open(folder)
    example = dataset.example("train", 0)
    assert example.query.parts[1] == TextPart("what is it") and example.query.kind == "mixed"
    text, image, more = example.candidates[0].parts
    assert (text, more) == (TextPart("see "), TextPart(" here"))
    assert isinstance(image, ImagePart) and image.place == "[1].image"
    assert example.grades == (1, 1, 0)
    assert [item.modality for item in example.candidates] == ["mixed", "text", "image"]
    assert dataset.example("train", 1).query.instruction == "Find it."
    text = check(folder).text()
    assert (
        "format: ms-swift messages" in text and "negative_messages -> candidates of grade 0" in text
    )


def test_embedding_lines_with_labels(folder):
    rows = [("x", "a", 1), ("x", "b", 0), ("y", "a", True), ("x", "c", 0.0)]
    lines(
        folder / "train.jsonl",
        *(
            {"messages": user(q), "positive_messages": documents(d), "label": label}
            for q, d, label in rows
        ),
    )
    found = contents(Dataset.open(folder))["train"]
    assert [(qid, [(p, g) for p, g, _ in row]) for qid, _, _, row in found] == [
        ("train:1", [(["a"], 1), (["b"], 0), (["c"], 0)]),
        ("train:3", [(["a"], 1)]),
    ]


def test_round_trip_keeps_interleaved_parts(tmp_path):
    folder = tmp_path / "in"
    picture(folder / "a.png")
    picture(folder / "b.png", "blue")
    candidates = [
        {"parts": ["see", {"image": "a.png"}, " and ", {"image": "b.png"}], "grade": 1},
        {"parts": [{"image": "b.png"}, {"image": "a.png"}], "grade": 0},
        {"text": "b", "grade": 0},
    ]
    line = {"qid": "q1", "query": {"parts": ["x", {"image": "a.png"}]}, "candidates": candidates}
    lines(folder / "train.jsonl", line | {"instruction": "Find it."})
    lines(folder / "valid.jsonl", line | {"qid": "q2"})
    before = Dataset.open(folder)
    assert write(before, "ms-swift", tmp_path / "out") == (
        "ids of queries and candidates are not kept (2 times, first query q1)",
    )
    after = Dataset.open(tmp_path / "out")
    assert contents(after, ids=False) == contents(before, ids=False)
    assert sorted(p.read_bytes() for p in (tmp_path / "out" / "images").iterdir()) == sorted(
        [png("red"), png("blue")]
    )


def test_what_is_lost_is_told_and_a_tag_in_a_text_is_refused(tmp_path):
    candidates = [{"text": "a", "grade": 0}, {"text": "b", "grade": 2}, {"text": "c", "grade": -1}]
    line = {"qid": "q", "query": {"text": "x"}, "candidates": candidates}
    lines(tmp_path / "in" / "train.jsonl", line)
    told = "\n".join(write(Dataset.open(tmp_path / "in"), "ms-swift", tmp_path / "out"))
    for loss in ("unjudged", "grades become relevant or not", "order of candidates"):
        assert loss in told, loss
    lines(tmp_path / "in" / "train.jsonl", line | {"query": {"text": "an <image> tag"}})
    with pytest.raises(WriteError, match="query q: the text holds <image>, which is a tag"):
        write(Dataset.open(tmp_path / "in"), "ms-swift", tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def changed(**fields):
    return {**LINE, **fields}


BAD = {  # name: (line, field, problem, remedy)
    "not JSON": ("{'messages': 1}", "line", "not valid JSON", "one JSON object"),
    "no messages": (changed(messages=None), "messages", "missing", "role"),
    "messages are a text": (changed(messages="x"), "messages", "a text, not a list", "role"),
    "no message": (changed(messages=[]), "messages", "0 messages", "one message"),
    "two turns": (changed(messages=user("<image>") + user("b")), "messages", "2 messages", "whole"),
    "message is a text": (changed(messages=["x"]), "messages[0]", "no message", "write {"),
    "content is a list": (changed(messages=user(["x"])), "messages[0]", "no message", "write {"),
    "no role": (changed(messages=[{"content": "x"}]), "messages[0].role", "None in this", "user"),
    "tool role": (
        changed(messages=[{"role": "tool", "content": "x"}]),
        "messages[0].role",
        "'tool' in this place",
        "use system",
    ),
    "system last": (
        changed(messages=[*user("<image>"), {"role": "system", "content": "x"}]),
        "messages[1].role",
        "'system' in this place",
        "use system (first)",
    ),
    "empty content": (
        changed(messages=user(" "), images=[]),
        "messages[0].content",
        "empty",
        "give a text or an image",
    ),
    "fewer images": (changed(images=[]), "images", "0 images for 1 tags", "one for each tag"),
    "no images": (changed(images=None), "images", "0 images for 1 tags", "one for each tag"),
    "more images": (
        changed(messages=user("x")),
        "images",
        "1 images for 0 tags",
        "one for each tag",
    ),
    "images are an object": (changed(images={}), "images", "an object for 1 tags", "one for each"),
    "image above": (changed(images=["../q.png"]), "images[0]", "leaves the folder", "copy"),
    "image address": (changed(images=["http://x.org/q.png"]), "images[0]", "is an address", "down"),
    "image absolute": (changed(images=["/q.png"]), "images[0]", "is absolute", "below"),
    "no image file": (changed(images=["q.png"]), "images[0]", "no file 'q.png'", "correct"),
    "image of null": (changed(images=[None]), "images[0]", "null, not an image", "path"),
    "no positives": (changed(positive_messages=[]), "positive_messages", "missing", "relevant"),
    "positives are flat": (
        changed(positive_messages=user("x"), positive_images=None),
        "positive_messages[0]",
        "an object, not a list",
        "role",
    ),
    "positives are a text": (
        changed(positive_messages="x"),
        "positive_messages",
        "a text, not a list",
        "put it in",
    ),
    "lists of images differ": (
        changed(positive_images=[["img/p.png"]]),
        "positive_images",
        "1 lists",
        "each of the 2 positive_messages",
    ),
    "negative without its image": (
        changed(negative_images=[[]]),
        "negative_images[0]",
        "0 images for 1 tags",
        "one for each tag",
    ),
    "videos": (changed(videos=["x.mp4"]), "videos", "only texts and images", "leave the line out"),
    "one label for three": (
        changed(label=1),
        "label",
        "one label for 3 candidates",
        "one positive",
    ),
    "label is a similarity": (
        {"messages": user("x"), "positive_messages": documents("a"), "label": 0.8},
        "label",
        "0.8 is not an integer",
        "scores between them are no grades",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lines(folder, name):
    line, field, *told = BAD[name]
    lines(folder / "train.jsonl", LINE, line)
    refused(folder, f"train.jsonl:2: {field}: ", *told)

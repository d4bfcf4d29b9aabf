"""What all formats share: how data is told apart, paths that leave the folder, and the helpers."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unirank_jax.content import ImagePart, TextPart
from unirank_jax.datasets.check import check
from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.formats.problems import FormatError, Problems, WriteError
from unirank_jax.datasets.formats.registry import detect
from unirank_jax.datasets.formats.tables import JsonTable, json_object
from unirank_jax.datasets.formats.writing import new_folder
from unirank_jax.datasets.jsonl import JsonlDataset


def lines(path: Path, *records: object) -> None:
    """Write JSON lines; a str or bytes is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = (one if isinstance(one, str | bytes) else json.dumps(one) for one in records)
    path.write_bytes(b"".join((x if isinstance(x, bytes) else x.encode()) + b"\n" for x in raw))


def png(colour: str = "red", size: tuple[int, int] = (12, 8)) -> bytes:
    """The bytes of a small picture."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def picture(path: Path, colour: str = "red") -> None:
    """A small picture as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(colour))


def refused(path: Path, *told: str) -> tuple[str, ...]:
    """The data is refused by FormatError alone; one problem holds all of `told`, and check too."""
    with pytest.raises(DatasetError) as caught:
        Dataset.open(path)
    assert type(caught.value) is FormatError, repr(caught.value)
    problems = caught.value.problems
    assert any(all(one in problem for one in told) for problem in problems), problems
    assert all(problem.count("; ") for problem in problems), "every problem has its remedy"
    report = check(path)
    assert report.problems == problems and not report.ok and "not usable" in report.text()
    return problems


def contents(dataset: Dataset, ids: bool = True) -> dict[str, list[object]]:
    """All lists of a dataset in comparable form, image files as their bytes."""
    result: dict[str, list[object]] = {}
    for split in dataset.splits:
        for number in range(len(dataset.lists(split))):
            example = dataset.example(split, number)
            row = [(_parts(i.parts), g, i.did if ids else "") for i, g in zip_graded(example)]
            qid = example.query.qid if ids else ""
            result.setdefault(split, []).append(
                (qid, _parts(example.query.parts), example.query.instruction, row)
            )
    return result


def zip_graded(example):
    return list(zip(example.candidates, example.grades, strict=True))


def _parts(parts):
    return [
        part.text
        if isinstance(part, TextPart)
        else part.source
        if isinstance(part.source, bytes)
        else Path(str(part.source)).read_bytes()
        for part in parts
    ]


OURS = {"qid": "q", "query": {"text": "x"}, "candidates": [{"text": "a", "grade": 1}]}
FIRST_RECORDS = {
    "ms-swift messages": {"messages": [], "positive_messages": []},
    "FlagEmbedding lines": {"query": "x", "pos": ["a"]},
    "sentence-transformers columns": {"anchor": "x", "positive": "a"},
    None: OURS,
}


@pytest.mark.parametrize("name", FIRST_RECORDS, ids=str)
def test_records_are_told_apart_by_their_fields(tmp_path, name):
    for file in ("train.jsonl", "other/mine.jsonl"):
        lines(tmp_path / file, "", FIRST_RECORDS[name])
    assert detect(tmp_path) == detect(tmp_path / "other") == name
    assert detect(tmp_path / "other" / "mine.jsonl") == name


def test_our_own_form_stays_ours(tmp_path):
    lines(tmp_path / "train.jsonl", OURS)
    lines(tmp_path / "corpus.jsonl", {"_id": "d"})
    lines(tmp_path / "queries.jsonl", {"_id": "q"})
    assert isinstance(Dataset.open(tmp_path), JsonlDataset)
    with pytest.raises(DatasetError, match="no dataset here; give a folder"):
        Dataset.open(tmp_path / "absent")
    with pytest.raises(DatasetError, match="a run goes with a corpus and queries"):
        Dataset.open(tmp_path, run=tmp_path / "run.trec")
    with pytest.raises(DatasetError, match="a depth of 0"):
        Dataset.open(tmp_path, depth=0)


def test_a_link_out_of_the_folder_is_followed_and_refused(tmp_path):
    picture(tmp_path / "secret.png")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    row = {"query": "x", "docs": [{"image": "link.png"}], "labels": [1]}
    lines(folder / "train.jsonl", row)
    refused(folder, "train.jsonl:1: docs[0].image: ", "leaves the folder", "copy the image")


def test_problems_are_gathered_and_bounded(tmp_path):
    row = {"query": "x", "docs": ["a"], "labels": [7.5]}
    lines(tmp_path / "train.jsonl", {"query": "x", "docs": ["a"], "labels": [1]}, *[row] * 30)
    problems = refused(tmp_path, "train.jsonl:2: labels[0]: 7.5 is not an integer")
    assert len(problems) == 30
    with pytest.raises(FormatError, match="and 10 more problems"):
        Dataset.open(tmp_path)
    lines(tmp_path / "train.jsonl", *[row] * 2000)
    assert len(refused(tmp_path, "reading stopped after 1000 problems")) == 1001


def test_a_file_that_changes_is_told(tmp_path):
    good = {"query": "x", "docs": ["a", "b"], "labels": [1, 0]}
    lines(tmp_path / "train.jsonl", good, good | {"query": "y"})
    dataset = Dataset.open(tmp_path)
    assert pickle.loads(pickle.dumps(dataset)).example("train", 1) == dataset.example("train", 1)
    lines(tmp_path / "train.jsonl", "{", good)
    again = pickle.loads(pickle.dumps(dataset))
    with pytest.raises(FormatError, match="train.jsonl:1: file: changed while it was in use"):
        again.example("train", 0)


def test_the_fingerprint_follows_lines_and_pictures(tmp_path):
    picture(tmp_path / "a.png")
    row = {"query": "x", "docs": [{"image": "a.png"}, "b"], "labels": [1, 0]}
    lines(tmp_path / "train.jsonl", row)
    seen = [Dataset.open(tmp_path).fingerprint, Dataset.open(tmp_path).fingerprint]
    picture(tmp_path / "a.png", "blue")
    seen.append(Dataset.open(tmp_path).fingerprint)
    lines(tmp_path / "train.jsonl", row | {"query": "y"})
    seen.append(Dataset.open(tmp_path).fingerprint)
    assert seen[0] == seen[1] and len(set(seen)) == 3


def test_check_names_the_line_of_a_broken_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(png()[:50])
    lines(tmp_path / "train.jsonl", "", {"query": "x", "positive": {"image": "a.png"}})
    report = check(tmp_path)
    assert any(
        p.startswith("train.jsonl:2: candidate 'train:2#0'.image: ") for p in report.problems
    )


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("x")
        assert not (tmp_path / "out").exists()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("x")
    with pytest.raises(WriteError, match="is there already"), new_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
NAMES = (
    *("query", "anchor", "positive", "negative_1", "docs", "labels", "label", "pos", "neg"),
    *("messages", "positive_messages", "images", "positive_images", "prompt", "pos_scores", "id"),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(NAMES), JSON), min_size=1, max_size=3))
def test_no_record_raises_anything_else(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("fuzz")
    lines(folder / "train.jsonl", *records)
    if detect(folder) is not None:
        try:
            Dataset.open(folder)
        except FormatError:
            pass


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(data):
    problems = Problems()
    assert isinstance(json_object(data, "x:1", problems), dict) != bool(problems.found)


def test_json_lines_keep_their_offsets(tmp_path):
    lines(tmp_path / "x.jsonl", b"\xef\xbb\xbf{}", "", {"a": "\u00e4"}, "[]", {"b": 1})
    table, problems = JsonTable(tmp_path / "x.jsonl", "x.jsonl"), Problems()
    rows = list(table.rows(problems))
    assert [number for _, number, _ in rows] == [1, 3, 5]
    assert [table.read(offset, number) for offset, number, _ in rows] == [r for _, _, r in rows]
    assert problems.found == ["x.jsonl:4: line: a list, not an object; write {...} on every line"]


def test_placed_images_know_their_place(tmp_path):
    picture(tmp_path / "a.png")
    lines(tmp_path / "train.jsonl", {"query": "x", "positive": {"text": "t", "image": "a.png"}})
    text, image = Dataset.open(tmp_path).example("train", 0).candidates[0].parts
    assert text == TextPart("t")
    assert isinstance(image, ImagePart) and image.place == "[1].image"

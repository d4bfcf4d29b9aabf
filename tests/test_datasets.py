"""The stored form of a dataset: records, hashes, sizes, and what happens when it is wrong."""

from __future__ import annotations

import io
import json
import pickle
from collections import Counter
from dataclasses import replace

import msgpack
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from made_molecules import LICENCES, make_dataset
from PIL import Image

from unirank_jax.content import ImagePart, TextPart
from unirank_jax.datasets.dataset import Dataset, DatasetError, sample
from unirank_jax.datasets.records import (
    ContentSize,
    dup_id_of,
    split_of,
)
from unirank_jax.datasets.writer import write_dataset


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A dataset that is only read: its folder and what was written."""
    path = tmp_path_factory.mktemp("stored") / "data"
    return path, *make_dataset(path)


# ---------------------------------------------------------------- records


def test_split_is_a_fixed_function_of_split_id():
    known = {
        "S2": "test",
        "S10": "test",
        "S41": "valid",
        "S13": "valid",
        "S35": "train",
        "S7": "train",
    }  # CRC-32 mod 20 is 0, 1, 2, 3, 4, 19
    assert {name: split_of(name) for name in known} == known
    assert split_of("MUIPLRMGAXZWSQ") == "train"
    shares = Counter(split_of(f"document {number}") for number in range(20_000))
    assert 0.09 < shares["test"] / 20_000 < 0.11
    assert 0.09 < shares["valid"] / 20_000 < 0.11


def test_dup_id_ignores_case_and_spaces_but_not_the_kind_of_content():
    assert dup_id_of("A  cat\n") == dup_id_of("a cat")
    assert dup_id_of("a cat") != dup_id_of("a dog")
    assert dup_id_of("cat") != dup_id_of(b"cat")
    assert dup_id_of("ab", "c") != dup_id_of("a", "bc")


# ---------------------------------------------------------------- stored form


def test_what_is_written_is_read_back(stored):
    path, items, queries, lists, meta = stored
    dataset = Dataset.open(path)
    assert dataset.splits == ("train", "test")
    assert dataset.fingerprint == meta["content_hash"]
    for item in items:
        assert dataset.item(item.did) == item
    for query in queries:
        assert dataset.query(query.qid) == query
    for split in ("train", "test"):
        assert list(dataset.lists(split)) == lists[split]
        assert dataset.lists(split)[-1] == lists[split][-1]
        assert dataset.lists(split)[1:3] == lists[split][1:3]
        assert list(dataset.items_of(split)) == [x for x in items if split_of(x.split_id) == split]
    assert len(dataset.lists("valid")) == 0
    example = dataset.example("test", 3)
    assert example.query.qid == lists["test"][3].qid
    assert [item.did for item in example.candidates] == list(lists["test"][3].dids)
    assert example.grades == lists["test"][3].grades
    with pytest.raises(KeyError):
        dataset.item("nothing")
    with pytest.raises(DatasetError, match="no split 'dev'"):
        dataset.lists("dev")
    with pytest.raises(IndexError):
        dataset.lists("test")[10_000]


def test_sizes_are_known_without_content(tmp_path):
    items, *_ = make_dataset(tmp_path / "data")
    (tmp_path / "data" / "items.array_record").unlink()
    dataset = Dataset.open(tmp_path / "data")
    for item in items:
        texts = sum(len(part.text) for part in item.parts if isinstance(part, TextPart))
        sizes = []
        for part in item.parts:
            if isinstance(part, ImagePart):
                with Image.open(io.BytesIO(part.source)) as image:
                    sizes.append((image.height, image.width))
        assert dataset.size(item.did) == ContentSize(texts, tuple(sizes))
    with pytest.raises(DatasetError, match="items.array_record: missing"):
        dataset.item(items[0].did)


def test_an_image_is_stored_once(stored):
    path, items, *_ = stored

    def parts_in(file_name):
        records = ArrayRecordReader(str(path / file_name)).read_all()
        return [part for record in records for part in msgpack.unpackb(record)["parts"]]

    images = [part for part in parts_in("items.array_record") if isinstance(part, bytes)]
    assert len(images) == len(set(images)) == 30, "30 pictures, shown by 60 molecules"
    assert any(item.modality == "mixed" for item in items)
    assert not any(isinstance(part, bytes) for part in parts_in("queries.array_record"))


def test_a_dataset_can_be_sent_to_a_worker(stored):
    dataset = Dataset.open(stored[0])
    before = dataset.example("train", 0)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.example("train", 0) == before


def test_the_hash_is_that_of_the_content(stored, tmp_path):
    _, items, queries, lists, meta = stored
    assert make_dataset(tmp_path / "two")[3]["content_hash"] == meta["content_hash"]
    changed = [replace(items[1], parts=(TextPart("another name"),)), *items[2:]]
    other = write_dataset(
        tmp_path / "three", [items[0], *changed], queries, lists, name="x", licences=LICENCES
    )
    assert other["content_hash"] != meta["content_hash"]
    renamed = write_dataset(
        tmp_path / "four", items, queries, lists, name="other name", licences=LICENCES
    )
    assert renamed["content_hash"] == meta["content_hash"]


def broken_datasets():
    def double_item(items, queries, lists):
        items.append(items[0])

    def unknown_item(items, queries, lists):
        del items[:5]

    def unknown_query(items, queries, lists):
        queries.pop()

    def wrong_split(items, queries, lists):
        lists["valid"] = [lists["test"].pop()]

    def nothing_relevant(items, queries, lists):
        first = lists["test"][0]
        lists["test"][0] = replace(first, grades=(0,) * len(first.grades))

    def uneven(items, queries, lists):
        first = lists["test"][0]
        lists["test"][0] = replace(first, grades=first.grades[1:])

    def no_licence(items, queries, lists):
        items[0] = replace(items[0], licence="unknown")

    return [
        (double_item, "used twice"),
        (unknown_item, "unknown items"),
        (unknown_query, "no such query"),
        (wrong_split, "another split than valid"),
        (nothing_relevant, "no candidate of grade 1"),
        (uneven, "differ in number"),
        (no_licence, "no licence 'unknown'"),
    ]


@pytest.mark.parametrize(("damage", "message"), broken_datasets())
def test_a_wrong_dataset_is_refused_and_the_old_one_stays(tmp_path, damage, message):
    items, queries, lists, meta = make_dataset(tmp_path / "data")
    damage(items, queries, lists)
    with pytest.raises(DatasetError, match=message):
        write_dataset(tmp_path / "data", items, queries, lists, name="x", licences=LICENCES)
    assert Dataset.open(tmp_path / "data").fingerprint == meta["content_hash"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_crash_while_writing_leaves_the_old_dataset(tmp_path, monkeypatch):
    items, queries, lists, meta = make_dataset(tmp_path / "data")

    def crash(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("unirank_jax.datasets.writer._index", crash)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "data", items, queries, lists, name="x", licences=LICENCES)
    assert Dataset.open(tmp_path / "data").fingerprint == meta["content_hash"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_that_is_no_dataset_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("keep me")
    with pytest.raises(DatasetError, match="is no dataset"):
        make_dataset(tmp_path / "photos")
    assert (tmp_path / "photos" / "mine.txt").read_text() == "keep me"
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_opening_tells_what_is_wrong(tmp_path):
    with pytest.raises(DatasetError, match="no dataset here; give a folder with meta.json"):
        Dataset.open(tmp_path)
    make_dataset(tmp_path / "data")
    meta_path = tmp_path / "data" / "meta.json"
    meta_path.write_text(json.dumps(json.loads(meta_path.read_text()) | {"format": 99}))
    with pytest.raises(DatasetError, match="dataset format 99, this version reads 1"):
        Dataset.open(tmp_path / "data")
    meta_path.write_text("{")
    with pytest.raises(DatasetError, match="meta.json: .*build the dataset again"):
        Dataset.open(tmp_path / "data")
    with pytest.raises(DatasetError, match="no embedded sample 'design'; there are: sci"):
        sample("design")

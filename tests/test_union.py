"""Several datasets as one: lists in order, ids of one part alone, one name in a configuration."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from test_formats_shared import lines

from configs import sci
from train.config import ConfigError
from train.export import _data
from train.inputs import open_data
from unirank_jax.datasets.dataset import Dataset, DatasetError, open_source, sample
from unirank_jax.datasets.overlay import write_lists
from unirank_jax.datasets.union import Chain, Union
from unirank_jax.images import ImageSpec


def write(folder: Path, splits: dict[str, list[str]]) -> Path:
    """A JSONL folder with a list of two candidates for each named query."""
    for split, qids in splits.items():
        docs = [
            {
                "qid": qid,
                "query": {"text": qid},
                "candidates": [
                    {"did": f"{qid}-{n}", "text": f"{qid}{n}", "grade": n} for n in (1, 0)
                ],
            }
            for qid in qids
        ]
        lines(folder / f"{split}.jsonl", *docs)
    return folder


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    first = write(tmp_path / "first", {"train": ["a", "b"], "test": ["t"]})
    return first, write(tmp_path / "second", {"train": ["c"], "valid": ["v"]})


def test_lists_follow_each_other_and_ids_are_found(paths: tuple[Path, Path]) -> None:
    both = pickle.loads(pickle.dumps(open_source(f"{paths[0]},{paths[1]}")))
    assert both.splits == ("train", "valid", "test")
    assert [ranked.qid for ranked in both.lists("train")] == ["a", "b", "c"]
    assert [ranked.qid for ranked in both.lists("valid")] == ["v"]
    assert both.query("c").qid == "c" and both.item("a-1").did == "a-1"
    assert both.size("c-1").text_characters == 2
    assert len(both.pool("train")) == len(both.items_of("train")) == 6
    example = both.example("train", 2)
    assert [item.did for item in example.candidates] == ["c-1", "c-0"]
    with pytest.raises(KeyError):
        both.item("none")
    with pytest.raises(DatasetError, match="first,second: no lists in split 'dev'; choose one of"):
        both.lists("dev")


def test_the_fingerprint_is_that_of_the_content_in_order(paths: tuple[Path, Path]) -> None:
    first, second = (Dataset.open(path) for path in paths)
    prints = {Union([first, second]).fingerprint, Union([second, first]).fingerprint}
    assert len(prints | {first.fingerprint, second.fingerprint}) == 4
    assert Union([first, second]).fingerprint in prints


def test_an_id_of_two_parts_is_an_error(paths: tuple[Path, Path], tmp_path: Path) -> None:
    again = write(tmp_path / "again", {"train": ["a"]})
    both = Union([Dataset.open(paths[0]), Dataset.open(again)])
    with pytest.raises(DatasetError, match="the id 'a' is in .*first and in .*again; rename one"):
        both.query("a")
    assert both.query("b").qid == "b"


def test_names_in_a_configuration(paths: tuple[Path, Path], tmp_path: Path) -> None:
    mixed = open_source(f"sample:sci, {paths[1]}")
    assert len(mixed.lists("train")) == len(sample("sci").lists("train")) + 1
    with pytest.raises(DatasetError, match="nothing before or after a comma"):
        open_source(f"{paths[0]},")
    with pytest.raises(DatasetError, match="give two or more"):
        Union([Dataset.open(paths[0])])
    odd = write(tmp_path / "a,b", {"train": ["a"]})
    assert len(open_source(str(odd)).lists("train")) == 1, "a path with a comma that exists"


def test_lists_of_files_replace_those_of_their_source(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    (kept,) = Dataset.open(paths[0]).lists("train")[1:]
    (other,) = Dataset.open(paths[1]).lists("train")
    first, second = str(tmp_path / "x.jsonl"), str(tmp_path / "y.jsonl")
    write_lists(Path(first), [kept])
    turned = replace(other, dids=other.dids[::-1], grades=other.grades[::-1])
    write_lists(Path(second), [turned])
    data = replace(sci.tiny().data, source=f"{paths[0]},{paths[1]}")

    def read(lists: str) -> list[str]:
        found = open_data(replace(data, lists=lists), ImageSpec(12, 2, 16, 16)).lists("train")
        return [ranked.dids[0] for ranked in found]

    assert read(first) == ["b-1", "c-1"]
    assert read(f",{second}") == ["a-1", "b-1", "c-0"]
    assert read(f"{first},{second}") == ["b-1", "c-0"]
    with pytest.raises(ConfigError, match="3 files for 2 of data.source; give one for each"):
        read(f"{first},,{second}")


def test_a_chain_reads_like_a_sequence() -> None:
    chain = Chain([[1, 2], [], [3]])
    assert list(chain) == [1, 2, 3] and len(chain) == 3
    assert chain[-1] == 3 and chain[-3] == 1 and chain[1:] == [2, 3]
    for index in (3, -4):
        with pytest.raises(IndexError):
            chain[index]


def test_an_address_is_an_error_that_names_the_remedy() -> None:
    with pytest.raises(DatasetError, match="gs://bucket/sci': addresses are not read; mount"):
        open_source("sample:sci,gs://bucket/sci")


def test_a_card_names_every_source(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text('{"data": "0123456789abcdef"}')
    config = sci.tiny()
    config = replace(config, data=replace(config.data, source="data/sci,runs/cloze"))
    assert _data(tmp_path, config) == "sci and cloze, content hash 0123456789ab, split train"

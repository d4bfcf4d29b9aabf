"""Training lists that cannot be read: left out up to a limit, written down, an error beyond it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run

from configs import sci
from train import data
from train.initial import open_start
from train.inputs import make_prompt
from train.plan import Chosen, PlanSettings, TrainPlan
from train.quarantine import Quarantine
from train.sizes import Index, build_index
from unirank_jax.content import ContentError
from unirank_jax.datasets.dataset import Dataset

SETTINGS = PlanSettings(
    seed=0,
    micro_batches=1,
    shards=1,
    lists=4,
    list_size=5,
    max_positives=1,
    min_other_modality=0,
    kind_power=1.0,
    length_window=1,
    max_tokens=192,
    buckets=1,
)


def broken(folder: Path) -> Dataset:
    """Four lists: the picture of one is cut off in its middle, that of another has no header."""
    tiny_run.dataset_folder(folder)
    lines = []
    for n, colour in enumerate(("red", "green", "blue", "black")):
        picture = folder / f"{colour}-square.png"
        if n == 1:
            picture.write_bytes(picture.read_bytes()[:60])
        if n == 2:
            picture.write_bytes(b"no picture at all")
        candidates = [{"image": picture.name, "grade": 1}, {"text": "a dog", "grade": 0}]
        lines.append({"qid": colour, "query": {"text": "a square"}, "candidates": candidates})
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Dataset.open(folder)


def encoder(dataset: Dataset, model: Path, limit: int, kept: Path) -> tuple[data.Encoder, Index]:
    base = sci.tiny()
    config = replace(
        base,
        model=replace(base.model, init=str(model)),
        data=replace(base.data, min_visual_tokens=1, max_visual_tokens=6, max_tokens=192),
    )
    start = open_start(config.model, 0)
    prompt = make_prompt(config, start)
    index = build_index(dataset, "train", prompt, tolerant=limit > 0)
    quarantine = Quarantine(kept, limit)
    return (
        data.Encoder(dataset, index, prompt, start.config, SETTINGS, None, quarantine),
        index,
    )


def test_lists_that_cannot_be_read_are_left_out_and_written_down(tmp_path: Path) -> None:
    model, dataset = tiny_run.model_folder(tmp_path / "model"), broken(tmp_path / "data")
    kept = tmp_path / "quarantine.jsonl"
    encode, index = encoder(dataset, model, 2, kept)
    planned = TrainPlan(index, SETTINGS)[0]
    ((lists,),) = planned.lists
    assert sorted(one.number for one in lists) == [0, 1, 2, 3]
    (micro,) = encode.shard(lists, planned.bucket)
    for g, one in enumerate(lists):
        good = one.number in (0, 3)
        assert micro.targets.mask[0, g].sum() == (2 if good else 0)
        assert (micro.targets.list_id[0, g] == one.number) == good
        for row in micro.targets.label_row[0, g][micro.targets.mask[0, g]]:
            query = micro.batch.prefix_index[0, row]
            assert query == [n.number for n in lists if n.number in (0, 3)].index(one.number)
    notes = [json.loads(line) for line in kept.read_text().splitlines()]
    assert {note["qid"] for note in notes} == {"green", "blue"}
    assert all("candidate" in note["error"] for note in notes)

    with kept.open("a") as file:
        file.write('{"qid": "re')  # killed while it wrote
    again, _ = encoder(dataset, model, 2, kept)  # a resumed run counts on
    again.shard(lists, planned.bucket)
    assert len(kept.read_text().splitlines()) == 2


def test_beyond_the_limit_they_are_errors(tmp_path: Path) -> None:
    model, dataset = tiny_run.model_folder(tmp_path / "model"), broken(tmp_path / "data")
    encode, index = encoder(dataset, model, 1, tmp_path / "quarantine.jsonl")
    planned = TrainPlan(index, SETTINGS)[0]
    with pytest.raises(ContentError, match="data.bad_lists .* left out; 1 are left out already"):
        encode.shard(planned.lists[0][0], planned.bucket)
    with pytest.raises(ContentError, match="candidate "):  # strict: seen before training begins
        encoder(dataset, model, 0, tmp_path / "none.jsonl")
    strict = data.Encoder(dataset, index, encode.prompt, encode.config, SETTINGS)
    bad = Chosen(1, index.starts[1] + [0, 1])
    with pytest.raises(ContentError, match="query green: candidate"):
        strict.shard([bad], planned.bucket)

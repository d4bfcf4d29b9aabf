"""The mining command: it goes on without a changed byte, and mines anew without scoring."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import tiny_run

from train import mine as command
from train import pool_scores, processes, sft
from train.pool_scores import pool_of, read
from unirank_jax.datasets.dataset import sample
from unirank_jax.datasets.overlay import overlaid
from unirank_jax.datasets.records import hash_number

CONFIG = "configs/sci_mine.py"
FEW = ["split=valid", "limit=30", "texts=8", "images=8", "shard_queries=10"]
RESULTS = ("mined.jsonl.gz", "preferences.jsonl.gz", "audit.jsonl", "summary.json")


class Stopped(Exception):
    pass


class FakeReranker:
    """Logits that depend on the content, and in their last digits on all calls before, as those of
    a real one do; `patience` calls before it is killed."""

    def __init__(self, patience: int = 99):
        self.patience = patience
        self.engine = self
        self.calls = 0

    def history(self):
        return [self.calls]

    def recall(self, history):
        (self.calls,) = history

    def logits_many(self, queries, candidate_lists, *, instruction, on_error):
        if self.patience == 0:
            raise Stopped
        self.patience -= 1
        self.calls += 1
        return [
            np.array([self.logit(q, c) for c in some], np.float32)
            for q, some in zip(queries, candidate_lists, strict=True)
        ]

    def logit(self, query, candidate):
        return hash_number(str(query), str(candidate)) % 1000 / 100 - 5 + self.calls / 10_000

    def calibrate(self, logits):
        return 1 / (1 + np.exp(-logits))


class FakeEmbedder:
    """All that shows one object lies in one place."""

    def __init__(self, reranker):
        pass

    def items(self, records):
        return np.stack([self._vector(record.unit_id) for record in records])

    queries = items

    def _vector(self, name: str) -> np.ndarray:
        return np.random.default_rng(hash_number(name)).normal(size=16).astype(np.float32)


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Embedder", FakeEmbedder)
    monkeypatch.setattr(command, "load_reranker", lambda folder: FakeReranker())


def run(folder: Path, *more: str) -> int:
    return command.main(["--config", CONFIG, "--workdir", str(folder), "--set", *FEW, *more])


def test_a_killed_run_goes_on_without_a_changed_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path / "whole") == 0
    monkeypatch.setattr(command, "load_reranker", lambda folder: FakeReranker(patience=1))
    with pytest.raises(Stopped):
        run(tmp_path / "cut")
    assert len(list((tmp_path / "cut").glob("scores-*.jsonl.gz"))) == 1
    assert not (tmp_path / "cut" / "mined.jsonl.gz").exists()
    monkeypatch.setattr(command, "load_reranker", lambda folder: FakeReranker())
    assert run(tmp_path / "cut") == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_processes_share_the_work_and_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes, as threads: embeddings of the pool and shards are made by one each."""
    monkeypatch.setattr(pool_scores, "PART", 40)
    assert run(tmp_path / "alone") == 0
    barrier = threading.Barrier(3, timeout=60)
    rerankers: dict[int, FakeReranker] = {}

    def share() -> processes.Share:
        return processes.Share(int(threading.current_thread().name), 3)

    def load(folder: Path) -> FakeReranker:
        return rerankers.setdefault(share().index, FakeReranker())

    monkeypatch.setattr(command, "load_reranker", load)
    monkeypatch.setattr(processes, "share", share)
    monkeypatch.setattr(processes, "meet", lambda name: barrier.wait())
    threads = [
        threading.Thread(target=run, args=(tmp_path / "shared",), name=str(n)) for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
    assert [99 - rerankers[n].patience for n in range(3)] == [2, 1, 0], "three shards, one first"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_records_and_results_name_what_the_dataset_holds(tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    data = sample("sci")
    known = {item.did: item for item in data.items_of("valid")}
    records = [r for path in sorted(tmp_path.glob("scores-*")) for r in read(path)]
    unjudged = 0
    assert len(records) == 30
    for record in records:
        assert len(record["dids"]) >= 16
        query = data.query(record["qid"])
        assert not any(known[did].dup_id == query.dup_id for did in record["dids"])
        assert sum(record["retrieved"]) == 16
        assert max(record["grades"]) == 1, "a positive that was missed joins the pool"
        unjudged += record["grades"].count(-1)
        pool = pool_of(record)
        assert len(pool.logits) == len(pool.retrievers["dense"])
    mined = list(read(tmp_path / "mined.jsonl.gz"))
    for one in mined:
        assert one["neg_types"][0] == "positive" and one["grades"][0] == 1
        assert len(one["dids"]) == len(set(one["dids"])) <= 9
    pairs = list(read(tmp_path / "preferences.jsonl.gz"))
    chosen = {(one["qid"], did) for one in mined for did in one["dids"]}
    assert all(
        (p["qid"], p["better"]) in chosen and (p["qid"], p["worse"]) in chosen for p in pairs
    )
    counts = json.loads((tmp_path / "summary.json").read_text())
    assert counts["removed: unjudged"] == unjudged > 20
    assert counts["queries"] == len(mined) and counts["preferences"] == len(pairs)
    assert counts["queries"] + counts.get("queries without a positive", 0) == 30


def test_no_unjudged_item_of_the_query_s_own_object_is_a_negative(tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    data = overlaid(sample("sci"), "valid", tmp_path / "mined.jsonl.gz")
    own = 0
    for number in range(len(data.lists("valid"))):
        example = data.example("valid", number)
        for item, grade, origin in zip(
            example.candidates, example.grades, example.neg_types, strict=True
        ):
            own += item.unit_id == example.query.unit_id
            assert (item.unit_id == example.query.unit_id) == (origin == "positive") == grade
    assert own > 20, "the fake retriever finds them first"


def test_other_settings_mine_again_without_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path) == 0
    first = list(read(tmp_path / "mined.jsonl.gz"))

    def refuse(folder):
        raise AssertionError("nothing is to be scored")

    monkeypatch.setattr(command, "load_reranker", refuse)
    assert run(tmp_path, "mining.num_negatives=3") == 0
    second = list(read(tmp_path / "mined.jsonl.gz"))
    assert [one["qid"] for one in first] == [one["qid"] for one in second]
    assert max(len(one["dids"]) for one in second) <= 5 < max(len(one["dids"]) for one in first)
    assert run(tmp_path, "mining.missed_positives=true") == 0
    assert len(list(read(tmp_path / "mined.jsonl.gz"))) == 30 > len(first)


def test_scores_of_other_things_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    assert run(tmp_path, "texts=9") == 1
    assert "texts: 8 -> 9" in capsys.readouterr().err
    assert run(tmp_path / "x", "split=tset") == 1
    assert "no lists in 'tset'" in capsys.readouterr().err


def test_a_model_trains_on_the_lists_that_it_mined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a dataset through mining to a run, with real models and nothing faked."""
    monkeypatch.undo()
    data = tiny_run.dataset_folder(tmp_path / "data", lists=6)
    model = tiny_run.model_folder(tmp_path / "model")
    here = [f"source={data}", f"model={model}", f"dual_encoder={model}", "limit=0"]
    here += ["texts=4", "images=4", "mining.trivial=1e9", "mining.relative_margin=-9"]
    mined = tmp_path / "mine"
    assert command.main(["--config", CONFIG, "--workdir", str(mined), "--set", *here]) == 0
    lists = mined / "mined.jsonl.gz"
    named = list(read(lists))
    assert len(named) > 2 and sum(len(one["dids"]) for one in named) > 8
    capsys.readouterr()

    def train(workdir: str, **changes: object) -> int:
        settings = tiny_run.settings(
            data, model, batch__lists=8, schedule__steps=3, evaluation__every_steps=0, **changes
        )
        arguments = ["--workdir", str(tmp_path / workdir), "--set", *settings]
        return sft.main(["--config", "configs/sci.py", *arguments])

    assert train("run", data__lists=lists) == 0
    assert f"{len(named)} lists of {lists} of split train" in capsys.readouterr().out
    assert train("joined", data__lists=lists, data__own_candidates=True) == 0
    assert train("alone", data__own_candidates=True) == 1
    assert "give data.lists too" in capsys.readouterr().err
    lists.write_bytes(lists.read_bytes()[:-9])
    assert train("other", data__lists=lists) == 1
    assert "mined.jsonl.gz:" in capsys.readouterr().err

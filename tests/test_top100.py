"""Lists of a first stage over a pool: what is right, what is missed, and what nobody judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_mine import FakeEmbedder

from train import evaluate as command
from train import retrieve
from train import top100 as module
from train.contenders import BASE
from train.evaluation import DUAL, FIRST, evaluate
from train.first_stage import FirstStage
from train.runs import fixed
from train.slices import MICRO
from train.top100 import Sizes, distinct, first_stage_of, top100, write_found
from unirank_jax.datasets.dataset import Dataset, sample
from unirank_jax.datasets.formats.problems import FormatError
from unirank_jax.datasets.overlay import overlaid, read_lists

SIZES = Sizes(texts=10, images=10, limit=40)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    """The lists of 40 queries of the sample, from an encoder that knows the objects."""
    data = sample("sci")
    path = tmp_path_factory.mktemp("top100") / "lists.jsonl.gz"
    items = [data.item(did) for did in data.pool("valid")]
    encoder = FakeEmbedder(None)
    noise = np.random.default_rng(0).normal(size=(len(items), 16))
    vectors = (encoder.items(items) + 1.2 * noise).astype(np.float32)
    stage = FirstStage(items, vectors, texts=10, images=10)
    examples = distinct(data, "valid", 40)
    queries = [example.query for example in examples]
    found = stage.search(queries, encoder.queries(queries))
    write_found(path, data, "valid", examples, stage, found)
    return data, path


def test_lists_fit_the_dataset_and_keep_their_promises(made: tuple[Dataset, Path]) -> None:
    data, path = made
    whole = {ranked.qid: data.example("valid", n) for n, ranked in enumerate(data.lists("valid"))}
    unjudged = missed = 0
    for ranked in read_lists(path, data, "valid"):
        example = whole[ranked.qid]
        query, known = example.query, dict(zip(whole_dids(example), example.grades, strict=True))
        items = [data.item(did) for did in ranked.dids]
        relevant = {c.dup_id for c in example.candidates if known[c.did] >= query.rel_min}
        assert sum(item.modality == "text" for item in items) == 10 == len(items) / 2
        for item, grade in zip(items, ranked.grades, strict=True):
            assert item.dup_id != query.dup_id
            if item.dup_id in relevant:
                assert grade >= query.rel_min
            elif item.unit_id == query.unit_id:
                assert grade == -1
                unjudged += 1
        listed = {item.dup_id for item in items}
        assert len(ranked.missing) == len(relevant - listed)
        missed += len(ranked.missing)
    assert unjudged > 10 and missed > 5, "the sample shows both"


def whole_dids(example) -> list[str]:
    return [item.did for item in example.candidates]


def test_every_question_stands_once() -> None:
    data = sample("sci")
    everything = distinct(data, "valid", None)
    keys = set()
    for example in everything:
        pairs = zip(example.candidates, example.grades, strict=True)
        keys.add((example.query.dup_id, frozenset(i.dup_id for i, grade in pairs if grade)))
    assert len(keys) == len(everything) <= len(data.lists("valid"))
    some = distinct(data, "valid", 7)
    assert [e.query.qid for e in some] == [
        everything[n * len(everything) // 7].query.qid for n in range(7)
    ]


class Twice(Dataset):
    """The sample with two lists, the first of them twice."""

    base = sample("sci")
    path, splits, fingerprint = base.path, ("valid",), "x"

    def lists(self, split):
        first, second = self.base.lists(split)[:2]
        return [first, second, first]

    def query(self, qid):
        return self.base.query(qid)

    def item(self, did):
        return self.base.item(did)

    def items_of(self, split):
        return self.base.items_of(split)


def test_a_question_that_is_asked_twice_is_dropped() -> None:
    assert len(distinct(Twice(), "valid", None)) == 2


def test_the_order_of_the_first_stage_is_a_baseline(made: tuple[Dataset, Path]) -> None:
    data, path = made
    over = overlaid(data, "valid", path)
    order = first_stage_of(path)
    assert order is not None and first_stage_of(path.with_name("other.jsonl.gz")) is None
    for number, ranked in enumerate(over.lists("valid")):
        (scores,) = fixed(order)([over.example("valid", number)])
        assert list(np.sort(scores)[::-1]) == list(scores), "best first, as it was found"
        assert tuple(order[ranked.qid]) == ranked.dids
    report = evaluate(
        over, "valid", {"m": fixed(order)}, {FIRST: fixed(order)}, resamples=9, seed=0
    )
    assert report.baselines[3] == FIRST
    values = report.row(MICRO).values
    assert values[FIRST] == values["m"] and values[FIRST]["hit@1"].mean > 0.1
    (note,) = report.about["notes"]
    assert "of the relevant candidates are on the lists; the others count as missed" in note
    with pytest.raises(FormatError, match=r"x.first-stage.jsonl.gz:1: line: not a qid with"):
        bad = path.with_name("x.jsonl.gz")
        module.write_lines(path.with_name("x.first-stage.jsonl.gz"), ['{"qid": "q"}\n'])
        first_stage_of(bad)


def test_on_lists_that_exist_the_first_stage_is_the_fusion_within_each() -> None:
    data = sample("sci")

    def knows(examples):
        return [np.array(e.grades, np.float32) + 0.1 for e in examples]

    report = evaluate(data, "valid", {}, {DUAL: knows}, resamples=9, seed=0, limit=30)
    assert report.baselines == ("random", "BM25", "TF-IDF", DUAL, FIRST)
    record = report.queries[0]
    scores = np.array(record["scores"][FIRST])
    texts = np.array(record["modalities"]) == "text"
    relevant = np.array(record["grades"]) > 0
    for form in (texts, ~texts):
        if (relevant & form).any():
            words = np.array(record["scores"]["BM25"])[form]
            best = np.flatnonzero(form)[np.argmax(scores[form])]
            assert relevant[best] or words.max() > 0


def test_the_file_is_made_once_and_named_by_what_it_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = []
    monkeypatch.setattr("train.dual.Embedder", FakeEmbedder)
    monkeypatch.setattr("unirank_jax.loading.load", lambda folder: loaded.append(folder))
    data, base = sample("sci"), BASE
    path = top100(data, "valid", base, SIZES, tmp_path / "out")
    first = path.read_bytes()
    assert top100(data, "valid", base, SIZES, tmp_path / "out") == path and len(loaded) == 1
    assert top100(data, "valid", base, Sizes(10, 9, 40), tmp_path / "out") != path
    path.unlink()
    assert top100(data, "valid", base, SIZES, tmp_path / "out").read_bytes() == first
    assert len(read_lists(path, data, "valid")) == 40

    same = ["--data", "sample:sci", "--split", "valid", "--out", str(tmp_path / "out")]
    same += ["--texts", "10", "--images", "10", "--limit", "40"]
    capsys.readouterr()
    assert retrieve.main(same) == 0 and capsys.readouterr().out.strip() == str(path)
    assert retrieve.main([*same, "--split", "vlaid"]) == 1
    assert "no lists in 'vlaid'; choose one of: train, valid, test" in capsys.readouterr().err
    data_only = ["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert retrieve.main(data_only) == 1 and "none" in capsys.readouterr().err

    monkeypatch.setattr(command, "model_scorer", lambda *_: fixed(first_stage_of(path)))
    monkeypatch.setattr(command, "dual_encoder", lambda folder: {})
    arguments = ["--split", "valid", "--limit", "40", "--texts", "10", "--images", "10"]
    arguments += ["--resamples", "20", "--shown", "1", "--out", str(tmp_path / "out")]
    command.main([*arguments, "--lists", "top100"])
    whole = (tmp_path / "out" / "report.md").read_text()
    assert "found in the whole pool of" in whole and "| first stage " in whole
    command.main([*arguments, "--lists", str(path)])
    again = (tmp_path / "out" / "report.md").read_text()
    assert f"Lists: those of {path.name}." in again and "| first stage " in again
    tail = whole.index("## whole lists")
    assert again[again.index("## whole lists") :] == whole[tail:]
    assert len(loaded) == 3, "nothing is embedded again"

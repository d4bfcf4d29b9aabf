"""`unirank data check` and `unirank data convert`, from every source to every format."""

from __future__ import annotations

import json

import pytest
from test_formats_shared import contents, lines, picture

from train import cli
from unirank_jax.datasets.dataset import Dataset, open_source, sample
from unirank_jax.datasets.formats.problems import WriteError
from unirank_jax.datasets.formats.registry import WRITERS, write


@pytest.fixture
def ours(tmp_path):
    folder = tmp_path / "ours"
    picture(folder / "img" / "a.png")
    picture(folder / "img" / "b.png", "blue")
    candidates = [
        {"did": "a", "image": "img/a.png", "grade": 1, "split_id": "s", "kind": "drawing"},
        {"did": "b", "parts": ["see", {"image": "img/b.png"}, "here"], "grade": 0},
        {"did": "c", "text": "\u00fcber", "grade": -1},
    ]
    line = {"qid": "q1", "query": {"text": "x"}, "candidates": candidates, "domain": "shapes"}
    lines(folder / "train.jsonl", line | {"instruction": "Find it.", "kind": "named"})
    lines(folder / "test.jsonl", line | {"qid": "q2", "query": {"image": "img/b.png"}})
    return folder


def test_our_own_form_is_kept_whole(ours, tmp_path):
    assert write(Dataset.open(ours), "jsonl", tmp_path / "out") == ()
    before, after = Dataset.open(ours), Dataset.open(tmp_path / "out")
    assert contents(after) == contents(before)
    for split in before.splits:
        one, two = before.example(split, 0), after.example(split, 0)
        assert [(i.split_id, i.kind) for i in one.candidates] == [
            (i.split_id, i.kind) for i in two.candidates
        ]
        fields = ("qid", "instruction", "domain", "kind", "split_id", "rel_min")
        assert [getattr(one.query, f) for f in fields] == [getattr(two.query, f) for f in fields]


def test_the_embedded_sample_can_be_written(tmp_path):
    """Ten lists of the shipped data through every format with content."""

    dataset = sample("sci")
    short = _First(dataset, 10)
    expected = contents(short)
    for to in ("jsonl", "beir", "ms-swift"):
        write(short, to, tmp_path / to)
        ids = to != "ms-swift"
        found = contents(Dataset.open(tmp_path / to), ids)
        assert found.keys() == expected.keys()
        for split, rows in expected.items():
            for row, other in zip(rows, found[split], strict=True):
                instruction = row[2]
                wanted = {
                    (json.dumps([str(p) for p in parts]), grade) for parts, grade, _ in row[3]
                }
                got = {(json.dumps([str(p) for p in parts]), grade) for parts, grade, _ in other[3]}
                assert got == {(p, min(g, 1) if not ids else g) for p, g in wanted if g >= 0}
                assert other[1:3] == (row[1], instruction)


class _First:
    """The first lists of every split."""

    def __init__(self, dataset, count):
        self.dataset, self.count, self.path = dataset, count, dataset.path
        self.splits = dataset.splits

    def lists(self, split):
        return self.dataset.lists(split)[: self.count]

    def example(self, split, index):
        return self.dataset.example(split, index)

    def item(self, did):
        return self.dataset.item(did)

    def items_of(self, split):
        return []


def test_commands(ours, tmp_path, capsys):
    out = tmp_path / "beir"
    assert cli.main(["data", "convert", str(ours), "--to", "beir", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert f"{out}: beir; train: 1 lists, test: 1 lists" in said.out
    assert "warning: unjudged candidates get grade 0 (2 times, first query q1)" in said.err
    assert "warning: texts of one content are joined" in said.err
    assert cli.main(["data", "convert", str(ours), "--to", "beir", "--out", str(out)]) == 1
    assert "is there already; give a new folder" in capsys.readouterr().err

    run = tmp_path / "best.run"
    lines(run, "q2 Q0 b 1 2 t", "q2 Q0 a 2 1 t")
    assert cli.main(["data", "check", str(out), "--run", str(run), "--depth", "1"]) == 0
    said = capsys.readouterr().out
    assert "format: BEIR folder" in said and "best.run: candidates are the best 1 of each" in said
    assert "test: 1 lists of 1 candidates" in said and "missing     1 relevant" in said
    (out / "corpus.jsonl").write_text("{\n", encoding="utf-8")
    assert cli.main(["data", "check", str(out)]) == 1
    assert "problem: corpus.jsonl:1: line: not valid JSON" in capsys.readouterr().err
    assert cli.main(["data", "check", str(ours), "--run", str(run)]) == 1
    assert "a run goes with a corpus and queries" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["data", "convert", str(ours), "--to", "csv", "--out", str(out)])


def test_a_source_opens_by_name_and_unknown_formats_are_told(ours, tmp_path):
    assert contents(open_source(str(ours))).keys() == {"train", "test"}
    with pytest.raises(WriteError, match="no format 'csv' to write; there are: jsonl, beir, trec"):
        write(Dataset.open(ours), "csv", tmp_path / "out")
    help_text = cli._parser().format_help()
    assert "data" in help_text and set(WRITERS) == {
        "jsonl",
        "beir",
        "trec",
        "sentence-transformers",
        "ms-swift",
    }


def test_a_failed_write_leaves_nothing(ours, tmp_path):
    dataset = Dataset.open(ours)
    (ours / "img" / "b.png").unlink()
    for to in ("jsonl", "beir", "sentence-transformers", "ms-swift"):
        with pytest.raises((WriteError, ValueError)) as caught:
            write(dataset, to, tmp_path / "out")
        assert "b.png" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]

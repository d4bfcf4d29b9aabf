"""BEIR folders: what is read, with and without a run, the way back, and twenty bad folders."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from test_formats_shared import contents, lines, picture, png, refused

from unirank_jax.content import ImagePart, TextPart
from unirank_jax.datasets.check import check
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.formats.problems import FormatError, WriteError
from unirank_jax.datasets.formats.registry import write
from unirank_jax.datasets.records import ContentSize, split_of
from unirank_jax.metrics import Judged, list_metrics

HEADER = "query-id\tcorpus-id\tscore"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "beir"
    picture(path / "images" / "a.png")
    lines(
        path / "corpus.jsonl",
        {"_id": "d1", "title": "A title", "text": "and a text", "metadata": {"url": "x"}},
        {"_id": "d2", "title": "", "text": "picture", "image": "images/a.png"},
        {"_id": "d3", "image": "images/a.png", "text": None},
        {"_id": "d4", "text": "\u00fcber"},
    )
    lines(path / "queries.jsonl", *({"_id": f"q{n}", "text": f"query {n}"} for n in range(1, 6)))
    lines(path / "qrels" / "train.tsv", HEADER, "q1\td1\t1", "q1\td4\t0")
    lines(path / "qrels" / "dev.tsv", HEADER, "q2\td2\t2", "q2\td3\t1", "q2\td4\t0")
    lines(path / "qrels" / "test.tsv", HEADER, "q3\td3\t1", "q3\td1\t-1", "q4\td1\t0")
    return path


def test_the_judged_documents_are_the_candidates(folder):
    dataset = Dataset.open(folder)
    assert dataset.splits == ("train", "valid", "test")
    (ranked,) = dataset.lists("valid")
    assert (ranked.qid, ranked.dids, ranked.grades) == ("q2", ("d2", "d3", "d4"), (2, 1, 0))
    assert ranked.neg_types == ("positive", "positive", "negative") and ranked.missing == ()
    assert dataset.lists("test")[0].neg_types == ("positive", "unjudged")
    assert dataset.item("d1").parts == (TextPart("A title and a text"),)
    image = str((folder / "images" / "a.png").resolve())
    assert dataset.item("d2").parts == (TextPart("picture"), ImagePart(image))
    assert (dataset.item("d3").modality, dataset.item("d2").modality) == ("image", "mixed")
    assert dataset.size("d2") == ContentSize(7, ((8, 12),))
    assert dataset.query("q5").parts == (TextPart("query 5"),)
    assert [item.did for item in dataset.items_of("train")] == ["d1", "d4"]
    assert pickle.loads(pickle.dumps(dataset)).example("test", 0) == dataset.example("test", 0)
    with pytest.raises(KeyError):
        dataset.item("d9")


def test_check_says_what_it_understood(folder):
    report = check(folder)
    assert report.ok
    text = report.text()
    for told in (
        "format: BEIR folder",
        "corpus.jsonl: _id -> did, title -> text, text -> text, image -> image; ignored: metadata",
        "qrels/dev.tsv: valid",
        "warning: test: 1 queries have no relevant document: left out",
        "warning: 1 queries are not judged and in no list",
        "valid: 1 lists of 3 candidates",
        "candidates  image: 1, mixed: 1, text: 1",
        "grades      0: 1, 1: 1, 2: 1",
        "they share one corpus",
    ):
        assert told in text, told


def test_a_run_beside_the_corpus_gives_the_candidates(folder):
    run = ["q3 Q0 d4 9 0.25 bm25", "q3 Q0 d1 1 1e1 bm25", "q3 Q0 d2 2 -3 bm25", "q5 Q0 d1 1 1 b"]
    lines(folder / "run.trec", *run)
    dataset = Dataset.open(folder)
    (ranked,) = dataset.lists("test")
    assert (ranked.dids, ranked.grades) == (("d1", "d4", "d2"), (-1, 0, 0))
    assert ranked.neg_types == ("unjudged", "retrieved", "retrieved")
    assert ranked.missing == dataset.example("test", 0).missing == (1,)
    judged = Judged("q3", ranked.grades, missing=ranked.missing)
    assert list_metrics([3.0, 2.0, 1.0], judged)["recall@10"] == 0.0
    assert len(dataset.lists("train")[0].dids) == 2, "the run has no query of train"
    text = check(folder).text()
    assert "test: 1 relevant documents are not in the run: metrics count them as missed" in text
    assert "train: the run has none of its queries" in text
    assert "missing     1 relevant candidates on no list" in text
    fingerprints = {dataset.fingerprint}
    other = folder.parent / "mine.run"
    (folder / "run.trec").rename(other)
    first = Dataset.open(folder, run=other, depth=1)
    assert first.lists("test")[0].dids == ("d1",)
    fingerprints |= {first.fingerprint, Dataset.open(folder).fingerprint}
    assert len(fingerprints) == 3


def test_mixbench_names_and_an_unnamed_split(tmp_path):
    lines(
        tmp_path / "mixed_corpus.jsonl",
        {"corpus_id": 1, "text": "a"},
        {"corpus_id": 2, "text": "b"},
    )
    lines(tmp_path / "queries.jsonl", *({"query_id": f"q{n}", "text": "x"} for n in range(40)))
    rows = (f"q{n}\t1\t1\nq{n}\t2\t0.0" for n in range(40))
    lines(tmp_path / "qrels" / "qrels.tsv", "query_id\tcorpus_id\tscore", *rows)
    dataset = Dataset.open(tmp_path)
    assert dataset.splits == ("train", "valid", "test")
    for split in dataset.splits:
        assert all(split_of(ranked.qid) == split for ranked in dataset.lists(split))
    assert "qrels/qrels.tsv: split by a hash of the query id" in check(tmp_path).text()


def test_round_trip(folder, tmp_path):
    lines(
        folder / "corpus.jsonl",
        {"_id": "d9", "text": "in no list"},
        *_lines(folder, "corpus.jsonl"),
    )
    before = Dataset.open(folder)
    warnings = write(before, "beir", tmp_path / "again")
    after = Dataset.open(tmp_path / "again")
    told = "unjudged candidates get grade 0 (query q3)"
    assert warnings == (told,)
    expected = contents(before)
    qid, parts, instruction, row = expected["test"][0]
    expected["test"][0] = (qid, parts, instruction, [(p, max(g, 0), did) for p, g, did in row])
    assert contents(after) == expected
    assert after.item("d9").parts == (TextPart("in no list"),)
    (image,) = (tmp_path / "again" / "images").iterdir()
    assert image.read_bytes() == png()


def test_round_trip_keeps_what_the_run_missed(folder, tmp_path):
    lines(
        folder / "run.trec", "q3 Q0 d4 1 2 t", "q3 Q0 d2 2 1 t", "q1 Q0 d1 1 1 t", "q2 Q0 d4 1 1 t"
    )
    before = Dataset.open(folder)
    assert write(before, "beir", tmp_path / "again") == ()
    after = Dataset.open(tmp_path / "again")
    assert contents(after) == contents(before)
    for split in before.splits:
        assert list(after.lists(split)) == list(before.lists(split))
    assert [ranked.missing for ranked in after.lists("valid")] == [(2, 1)]


def test_what_cannot_be_written_is_refused(tmp_path):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    candidate = {"parts": [{"image": "a.png"}, {"image": "b.png"}], "did": "d", "grade": 1}
    line = {"qid": "q", "query": {"text": "x"}, "candidates": [candidate]}
    lines(tmp_path / "train.jsonl", line)
    with pytest.raises(WriteError, match="item d: 2 images in one content.*; convert to jsonl"):
        write(Dataset.open(tmp_path), "beir", tmp_path / "out")
    lines(
        tmp_path / "train.jsonl", line | {"candidates": [{"text": "a", "did": "a b", "grade": 1}]}
    )
    with pytest.raises(WriteError, match=r"1 ids with white space \('a b'\); rename"):
        write(Dataset.open(tmp_path), "beir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _lines(folder, name):
    return (folder / name).read_text(encoding="utf-8").splitlines()


DOC = {"_id": "d1", "text": "x"}
BAD = {  # name: (file, lines added to it, place and field, problem, remedy)
    "not JSON": (
        "corpus.jsonl",
        ["{"],
        "corpus.jsonl:5: line",
        "not valid JSON",
        "one JSON object",
    ),
    "a list": (
        "queries.jsonl",
        ["[]"],
        "queries.jsonl:6: line",
        "a list, not an object",
        "write {",
    ),
    "not UTF-8": ("corpus.jsonl", [b"\xff"], "corpus.jsonl:5: line", "not UTF-8 at byte 0", "save"),
    "key twice": (
        "corpus.jsonl",
        ['{"_id": "d9", "_id": "d8"}'],
        "corpus.jsonl:5: line",
        "key '_id' is there twice",
        "write one",
    ),
    "no id": ("corpus.jsonl", [{"text": "x"}], "corpus.jsonl:5: _id", "missing", "an id"),
    "id is a list": (
        "queries.jsonl",
        [{"_id": ["q"], "text": "x"}],
        "queries.jsonl:6: _id",
        "a list, not a text",
        "give a text",
    ),
    "id with a tab": (
        "corpus.jsonl",
        [{"_id": "a\tb", "text": "x"}],
        "corpus.jsonl:5: _id",
        "control characters",
        "printable",
    ),
    "id twice": (
        "corpus.jsonl",
        [DOC],
        "corpus.jsonl:5: _id",
        "before in corpus.jsonl:1",
        "own id",
    ),
    "text is a number": (
        "corpus.jsonl",
        [{"_id": "d9", "text": 3}],
        "corpus.jsonl:5: text",
        "a number, not a text",
        "give a text",
    ),
    "no content": (
        "corpus.jsonl",
        [{"_id": "d9", "title": "", "text": " "}],
        "corpus.jsonl:5: text",
        "no content",
        "remove the record",
    ),
    "surrogate": (
        "corpus.jsonl",
        ['{"_id": "d9", "text": "\\ud800"}'],
        "corpus.jsonl:5: text",
        "not valid Unicode",
        "decode",
    ),
    "image above": (
        "corpus.jsonl",
        [{"_id": "d9", "image": "../a.png"}],
        "corpus.jsonl:5: image",
        "leaves the folder",
        "copy",
    ),
    "image absolute": (
        "corpus.jsonl",
        [{"_id": "d9", "image": "/etc/passwd"}],
        "corpus.jsonl:5: image",
        "is absolute",
        "below the folder",
    ),
    "image address": (
        "queries.jsonl",
        [{"_id": "q9", "image": "https://x.org/a.png"}],
        "queries.jsonl:6: image",
        "is an address; nothing is fetched",
        "download",
    ),
    "no image": (
        "corpus.jsonl",
        [{"_id": "d9", "image": "images/b.png"}],
        "corpus.jsonl:5: image",
        "no file 'images/b.png'",
        "correct the path",
    ),
    "NUL in a path": (
        "corpus.jsonl",
        [{"_id": "d9", "image": "a\x00b"}],
        "corpus.jsonl:5: image",
        "no file",
        "correct the path",
    ),
    "long path": (
        "corpus.jsonl",
        [{"_id": "d9", "image": "a" * 5000}],
        "corpus.jsonl:5: image",
        "no file",
        "correct the path",
    ),
    "wrong modality": (
        "corpus.jsonl",
        [{"_id": "d9", "text": "x", "modality": "image"}],
        "corpus.jsonl:5: modality",
        "the record's content is text",
        "correct it",
    ),
    "unknown query": (
        "qrels/test.tsv",
        ["q9\td1\t1"],
        "qrels/test.tsv:5: query-id",
        "no query 'q9'",
        "remove the line",
    ),
    "unknown document": (
        "qrels/test.tsv",
        ["q3\td9\t1"],
        "qrels/test.tsv:5: corpus-id",
        "no document 'd9'",
        "to the corpus",
    ),
    "two columns": (
        "qrels/test.tsv",
        ["q3\td1"],
        "qrels/test.tsv:5: line",
        "2 columns",
        "query-id, corpus-id, score",
    ),
    "grade is a word": (
        "qrels/dev.tsv",
        ["q2\td1\tyes"],
        "qrels/dev.tsv:5: score",
        "'yes' is not a grade",
        "integer",
    ),
    "grade is a fraction": (
        "qrels/dev.tsv",
        ["q2\td1\t0.5"],
        "qrels/dev.tsv:5: score",
        "'0.5' is not a grade",
        "integer",
    ),
    "judged twice": (
        "qrels/dev.tsv",
        ["q2\td2\t2"],
        "qrels/dev.tsv:5: corpus-id",
        "judged before",
        "once",
    ),
    "judged in two splits": (
        "qrels/test.tsv",
        ["q1\td1\t1"],
        "qrels/train.tsv:2: query-id",
        "in test and in train",
        "in one split",
    ),
    "run of unknown documents": (
        "run.trec",
        ["q3 Q0 d9 1 1 t"],
        "run.trec:1: docid",
        "no document 'd9'",
        "remove the line",
    ),
    "run without a query": (
        "run.trec",
        ["q1 Q0 d1 1 1 t", "q3 Q0 d1 1 1 t", "q3 Q0 d1 2 0 t"],
        "run.trec:3: docid",
        "also in line 2",
        "once",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_folders(folder, name):
    file, added, *told = BAD[name]
    path = folder / file
    before = path.read_bytes() if path.exists() else b""
    lines(path, *added)
    path.write_bytes(before + path.read_bytes())
    refused(folder, *told)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels"])
def test_a_missing_part(folder, name):
    (folder / name).rename(folder.parent / "elsewhere")
    refused(folder, f": {name}: missing; a BEIR folder needs ")


def test_a_bad_header_and_no_relevant_document(folder):
    lines(folder / "qrels" / "test.tsv", "docid\tqid\tscore")
    refused(folder, "qrels/test.tsv:1: header: ", "write query-id, corpus-id and score")
    for split in ("train", "dev", "test"):
        lines(folder / "qrels" / f"{split}.tsv", HEADER, "q1\td1\t0" if split == "dev" else "")
    refused(folder, "qrels: no query has a relevant document; add judgements")


def test_a_judged_query_that_a_run_left_out(folder):
    lines(folder / "qrels" / "test.tsv", HEADER, "q3\td3\t1", "q4\td1\t1")
    lines(folder / "run.trec", "q3 Q0 d3 1 1 t")
    refused(folder, "run.trec: qid: no line for query 'q4'", "rank its documents")
    with pytest.raises(FormatError, match="nowhere: file: there is none"):
        Dataset.open(folder, run=folder / "nowhere")

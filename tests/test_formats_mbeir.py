"""M-BEIR folders: what is read, and twenty bad folders."""

from __future__ import annotations

import pytest
from test_formats_shared import contents, lines, picture, png, refused

from unirank_jax.datasets.check import check
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.formats.registry import write

TRAIN, TEST = "query/train/mbeir_x_task0_train.jsonl", "query/test/mbeir_x_task0_test.jsonl"
POOL = "cand_pool/local/mbeir_x_task0_cand_pool.jsonl"


def query(number, **changes):
    record = {
        "qid": f"1:{number}",
        "query_txt": f"query {number}",
        "query_img_path": None,
        "query_modality": "text",
        "query_src_content": "{}",
        "pos_cand_list": ["1:1"],
        "neg_cand_list": [{"did": "1:2"}, "1:3"],
    }
    return record | changes


def candidate(number, **changes):
    record = {"did": f"1:{number}", "txt": None, "img_path": None, "modality": "image,text"}
    return record | {"src_content": None} | changes


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mbeir"
    picture(path / "mbeir_images" / "a.png")
    image = {"query_img_path": "mbeir_images/a.png", "query_modality": "image,text"}
    lines(path / TRAIN, query(1), query(2, **image))
    lines(path / TEST, query(3, neg_cand_list=[], pos_cand_list=["1:1", "1:3"]))
    lines(
        path / POOL,
        candidate(1, txt="both", img_path="mbeir_images/a.png"),
        candidate(2, txt="a text", modality="text"),
        candidate(3, img_path="mbeir_images/a.png", modality="image"),
    )
    return path


def test_queries_and_pool_are_read(folder, tmp_path):
    lines(
        folder / "cand_pool" / "global" / "mbeir_union_test_cand_pool.jsonl", candidate(1, txt="x")
    )
    dataset = Dataset.open(folder)
    assert dataset.splits == ("train", "test")
    assert contents(dataset)["train"][1] == (
        "1:2",
        ["query 2", png()],
        None,
        [(["both", png()], 1, "1:1"), (["a text"], 0, "1:2"), ([png()], 0, "1:3")],
    )
    assert dataset.lists("test")[0].grades == (1, 1)
    text = check(folder).text()
    assert "format: M-BEIR" in text and f"{TEST}: test" in text
    assert "pos_cand_list -> grade 1" in text and "ignored: query_src_content" in text
    write(dataset, "beir", tmp_path / "out")
    assert contents(Dataset.open(tmp_path / "out")) == contents(dataset)
    lines(folder / "run.trec", "1:3 Q0 1:2 1 2 t", "1:3 Q0 1:1 2 1 t")
    (ranked,) = Dataset.open(folder).lists("test")
    assert (ranked.dids, ranked.grades, ranked.missing) == (("1:2", "1:1"), (0, 1), (1,))


BAD = {  # name: (file, number of the line, line, field, problem, remedy)
    "not JSON": (TRAIN, 3, "{", "line", "not valid JSON", "one JSON object"),
    "a list": (POOL, 4, "[]", "line", "a list, not an object", "write {"),
    "no qid": (TRAIN, 3, query(4, qid=None), "qid", "missing", "an id"),
    "qid is a list": (TRAIN, 3, query(4, qid=[]), "qid", "a list, not a text", "give a text"),
    "qid twice": (TRAIN, 3, query(1), "qid", "used before in " + TRAIN + ":1", "own id"),
    "qid in two splits": (TRAIN, 3, query(3), "qid", "used before in " + TEST + ":1", "own id"),
    "no did": (POOL, 4, candidate(4, did="", txt="x"), "did", "empty", "an id"),
    "did twice": (POOL, 4, candidate(1, txt="x"), "did", "used before", "own id"),
    "no query content": (TRAIN, 3, query(4, query_txt=""), "query_txt", "no content", "remove"),
    "no content": (POOL, 4, candidate(4), "txt", "no content", "give 'txt' or 'img_path'"),
    "text is a number": (POOL, 4, candidate(4, txt=3), "txt", "a number, not a text", "give"),
    "image above": (POOL, 4, candidate(4, img_path="../../a.png"), "img_path", "leaves", "copy"),
    "image address": (POOL, 4, candidate(4, img_path="s3://a/b"), "img_path", "fetched", "down"),
    "no image": (POOL, 4, candidate(4, img_path="a.png"), "img_path", "no file", "correct"),
    "query image": (TRAIN, 3, query(4, query_img_path="/a"), "query_img_path", "absolute", "below"),
    "modality of a query": (
        TRAIN,
        3,
        query(4, query_modality="image"),
        "query_modality",
        "content is text",
        "correct it",
    ),
    "unknown modality": (
        POOL,
        4,
        candidate(4, txt="x", modality="a"),
        "modality",
        "'a' is not",
        "g",
    ),
    "modality is a list": (POOL, 4, candidate(4, txt="x", modality=[1]), "modality", "[1]", "give"),
    "no positives": (
        TRAIN,
        3,
        {"qid": "1:4", "query_txt": "x"},
        "pos_cand_list",
        "missing",
        "ids of the relevant",
    ),
    "positives are a text": (
        TRAIN,
        3,
        query(4, pos_cand_list="1:1"),
        "pos_cand_list",
        "a text, not a list",
        "put it in",
    ),
    "unknown positive": (
        TRAIN,
        3,
        query(4, pos_cand_list=["1:9"]),
        "pos_cand_list[0]",
        "no document '1:9'",
        "to the corpus",
    ),
    "negative is null": (
        TRAIN,
        3,
        query(4, neg_cand_list=[None]),
        "neg_cand_list[0]",
        "null, not a text",
        "give a text",
    ),
    "negative without did": (
        TRAIN,
        3,
        query(4, neg_cand_list=[{"id": 1}]),
        "neg_cand_list[0].did",
        "null, not a text",
        "give a text",
    ),
    "positive and negative": (
        TRAIN,
        3,
        query(4, neg_cand_list=["1:1"]),
        "neg_cand_list[0]",
        "'1:1' was judged before",
        "once",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_folders(folder, name):
    file, number, line, field, *told = BAD[name]
    before = (folder / file).read_bytes()
    lines(folder / file, line)
    (folder / file).write_bytes(before + (folder / file).read_bytes())
    refused(folder, f"{file}:{number}: {field}: ", *told)


def test_a_missing_part(folder):
    for file in (TRAIN, TEST):
        (folder / file).unlink()
    refused(folder, ": query: no file of queries; add query/train/")

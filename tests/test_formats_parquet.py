"""Parquet tables of queries, corpus and qrels: what is read, and twenty bad folders."""

from __future__ import annotations

import builtins
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_formats_shared import contents, lines, picture, png, refused

from unirank_jax.content import ImagePart, TextPart
from unirank_jax.datasets.check import check
from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.formats.registry import write

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TABLE = [("id", pa.string()), ("modality", pa.string()), ("text", pa.string()), ("image", IMAGE)]
QRELS = [("query-id", pa.string()), ("corpus-id", pa.string()), ("score", pa.float64())]
NAMES = {
    "query": "query/test-00000-of-00001.parquet",
    "corpus": "corpus/corpus-00000-of-00001.parquet",
    "dev": "qrels/validation-00000-of-00001.parquet",
    "test": "qrels/test-00000-of-00001.parquet",
}


def save(path: Path, rows, columns, group: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [name for name, _ in columns]
    records = [dict(zip(names, row, strict=True)) for row in rows]
    pq.write_table(pa.Table.from_pylist(records, pa.schema(columns)), path, row_group_size=group)


def picture_of(colour: str):
    return {"bytes": png(colour), "path": "x.png"}


def good(folder: Path) -> dict[str, tuple[list, list]]:
    """The rows and columns of a good folder, by table."""
    return {
        "query": ([("q1", "text", "red?", None), ("q2", "image", None, picture_of("red"))], TABLE),
        "corpus": (
            [
                ("d1", "image", None, picture_of("red")),
                ("d2", "text", "a text", None),
                ("d3", "image,text", "both", picture_of("blue")),
                ("d4", "text", "", {"bytes": None, "path": None}),
                ("d5", None, None, {"bytes": None, "path": "images/a.png"}),
            ],
            TABLE,
        ),
        "dev": ([("q1", "d1", 2.0), ("q1", "d2", 0.0), ("q1", "d3", 1.0)], QRELS),
        "test": ([("q2", "d3", 1.0), ("q2", "d5", 0.0)], QRELS),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tables"
    picture(path / "images" / "a.png", "green")
    tables = good(path)
    tables["corpus"][0][3] = ("d4", "text", "four", {"bytes": None, "path": None})
    for name, (rows, columns) in tables.items():
        save(path / NAMES[name], rows, columns)
    return path


def test_tables_are_read(folder):
    dataset = Dataset.open(folder)
    assert dataset.splits == ("valid", "test")
    (ranked,) = dataset.lists("valid")
    assert (ranked.qid, ranked.dids, ranked.grades) == ("q1", ("d1", "d2", "d3"), (2, 0, 1))
    assert dataset.item("d3").parts == (TextPart("both"), ImagePart(png("blue")))
    assert dataset.item("d1").parts == (ImagePart(png("red")),)
    assert dataset.item("d4").modality == "text"
    assert dataset.item("d5").parts == (ImagePart(str((folder / "images/a.png").resolve())),)
    assert dataset.query("q2").kind == "image"
    assert dataset.size("d3").images == ((8, 12),)
    again = pickle.loads(pickle.dumps(dataset))
    assert contents(again) == contents(dataset) and again.fingerprint == dataset.fingerprint
    text = check(folder).text()
    assert "format: Parquet tables of queries, corpus and qrels" in text
    assert (
        "id -> did, modality -> checked against the content, text -> text, image -> image" in text
    )
    assert "qrels/validation-00000-of-00001.parquet: valid" in text


def test_a_run_and_several_images_and_integer_ids(tmp_path):
    columns = [
        ("corpus-id", pa.int64()),
        ("text", pa.string()),
        ("image", IMAGE),
        ("image 1", IMAGE),
    ]
    save(tmp_path / "corpus.parquet", [(1, "a", picture_of("red"), picture_of("blue"))], columns)
    save(tmp_path / "more-corpus.parquet", [(2, "b", None, None)], columns)
    save(
        tmp_path / "queries.parquet", [(7, "x")], [("query-id", pa.int64()), ("query", pa.string())]
    )
    ids = [("query-id", pa.int64()), ("corpus-id", pa.int64()), ("score", pa.int64())]
    save(tmp_path / "qrels.parquet", [(7, 1, 1)], ids)
    lines(tmp_path / "run.trec", "7 Q0 1 1 1 t", "7 Q0 2 2 2 t")
    dataset = Dataset.open(tmp_path)
    (split,) = dataset.splits
    assert dataset.lists(split)[0].dids == ("2", "1")
    assert dataset.item("1").parts == (TextPart("a"), ImagePart(png("red")), ImagePart(png("blue")))


def test_a_list_of_images_and_what_stands_in_it(tmp_path):
    columns = [("id", pa.string()), ("images", pa.list_(IMAGE)), ("text", pa.string())]
    images = [picture_of("red"), picture_of("blue")]
    for name in ("corpus", "query"):
        save(tmp_path / f"{name}.parquet", [("1", images, "a"), ("2", [], "b")], columns)
    save(tmp_path / "qrels.parquet", [("1", "1", 1.0), ("1", "2", 0.0)], QRELS)
    dataset = Dataset.open(tmp_path)
    parts = (ImagePart(png("red")), ImagePart(png("blue")), TextPart("a"))
    assert dataset.item("1").parts == dataset.query("1").parts == parts
    assert dataset.item("2").parts == (TextPart("b"),)
    images[1] = {"bytes": None, "path": "absent.png"}
    save(tmp_path / "corpus.parquet", [("1", images, "a"), ("2", [None], "b")], columns)
    refused(tmp_path, "corpus.parquet: row 1: images[1].path: no file 'absent.png'")
    refused(tmp_path, "corpus.parquet: row 2: images: null, not an image")


def test_tables_become_a_beir_folder(folder, tmp_path):
    before = Dataset.open(folder)
    assert write(before, "beir", tmp_path / "out") == ()
    assert contents(Dataset.open(tmp_path / "out")) == contents(before)


def change(table: str, row: int, column: int, value, columns=None):
    def apply(folder: Path) -> None:
        rows, kept = good(folder)[table]
        if table == "corpus":
            rows[3] = ("d4", "text", "four", None)
        new = list(rows[row])
        new[column] = value
        rows[row] = tuple(new)
        save(folder / NAMES[table], rows, columns or kept)

    return apply


def text_file(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str):
    def apply(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-30])

    return apply


def without(name: str):
    return lambda folder: (folder / name).unlink()


def not_utf8(folder: Path) -> None:
    ids = pa.array([b"q1", b"\xff\xfe"], pa.binary()).view(pa.string())
    texts = pa.array(["a", "b"])
    pq.write_table(pa.table({"id": ids, "text": texts}), folder / NAMES["query"])


CORPUS, QUERY = NAMES["corpus"], NAMES["query"]
NUMBERS = [("id", pa.string()), ("modality", pa.string()), ("text", pa.int64()), ("image", IMAGE)]
BAD = {  # name: (change, place and field, problem, remedy)
    "no Parquet": (text_file(CORPUS, b"text"), f"{CORPUS}: file", "not a Parquet file", "again"),
    "empty file": (text_file(QUERY, b""), f"{QUERY}: file", "not a Parquet file", "again"),
    "cut file": (cut(CORPUS), f"{CORPUS}: file", "not a Parquet file", "again"),
    "no queries": (without(QUERY), ": queries", "no such table", "add queries/test.parquet"),
    "no corpus": (without(CORPUS), ": corpus", "no such table", "columns id, text"),
    "no id": (change("corpus", 1, 0, None), f"{CORPUS}: row 2: id", "missing", "an id"),
    "empty id": (change("query", 1, 0, " "), f"{QUERY}: row 2: id", "empty", "an id"),
    "id twice": (
        change("corpus", 4, 0, "d1"),
        f"{CORPUS}: row 5: id",
        "used before in corpus/corpus-00000-of-00001.parquet: row 1",
        "own id",
    ),
    "no content": (
        change("corpus", 1, 2, None),
        f"{CORPUS}: row 2: text",
        "no content",
        "or 'image'",
    ),
    "blank text": (change("query", 0, 2, "  "), f"{QUERY}: row 1: text", "no content", "remove"),
    "no bytes": (
        change("corpus", 0, 3, {"bytes": b"", "path": None}),
        f"{CORPUS}: row 1: image.bytes",
        "the image has no bytes",
        "give the bytes",
    ),
    "path above": (
        change("corpus", 0, 3, {"bytes": None, "path": "../../a.png"}),
        f"{CORPUS}: row 1: image.path",
        "leaves the folder",
        "copy",
    ),
    "path is an address": (
        change("corpus", 0, 3, {"bytes": None, "path": "http://x.org/a.png"}),
        f"{CORPUS}: row 1: image.path",
        "nothing is fetched",
        "download",
    ),
    "no such file": (
        change("corpus", 4, 3, {"bytes": None, "path": "b.png"}),
        f"{CORPUS}: row 5: image.path",
        "no file 'b.png'",
        "correct",
    ),
    "text says image": (
        change("corpus", 1, 1, "image"),
        f"{CORPUS}: row 2: modality",
        "content is text",
        "correct it",
    ),
    "unknown modality": (
        change("corpus", 1, 1, "video"),
        f"{CORPUS}: row 2: modality",
        "'video' is not a modality",
        "give 'text'",
    ),
    "text is a number": (
        lambda folder: save(
            folder / CORPUS, [("d1", None, None, None), ("d2", None, 5, None)], NUMBERS
        ),
        f"{CORPUS}: row 2: text",
        "a number, not a text",
        "give a text",
    ),
    "grade is a fraction": (
        change("dev", 1, 2, 0.5),
        f"{NAMES['dev']}: row 2: score",
        "0.5 is not an integer",
        "give 0, 1",
    ),
    "no grade": (change("dev", 0, 2, None), f"{NAMES['dev']}: row 1: score", "missing", "integer"),
    "grade of NaN": (
        change("dev", 0, 2, float("nan")),
        f"{NAMES['dev']}: row 1: score",
        "nan is not an integer",
        "give 0",
    ),
    "unknown query": (
        change("test", 0, 0, "q9"),
        f"{NAMES['test']}: row 1: query-id",
        "no query 'q9'",
        "remove",
    ),
    "unknown document": (
        change("test", 1, 1, "d9"),
        f"{NAMES['test']}: row 2: corpus-id",
        "no document 'd9'",
        "add the document",
    ),
    "not UTF-8": (not_utf8, f"{QUERY}: row 2: row", "cannot be read", "correct the row"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables(folder, name):
    apply, *told = BAD[name]
    apply(folder)
    refused(folder, *told)


def test_columns_that_say_nothing(tmp_path):
    save(tmp_path / "train.parquet", [("x", "y")], [("left", pa.string()), ("right", pa.string())])
    refused(
        tmp_path, "train.parquet: columns: columns left, right say no format", "name them query"
    )
    refused(tmp_path / "train.parquet", "train.parquet: columns: ")


def test_without_pyarrow(folder, monkeypatch):
    imported = builtins.__import__

    def without_pyarrow(name, *arguments, **named):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return imported(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(DatasetError, match=r"need pyarrow.*pip install 'unirank-jax\[data\]'"):
        Dataset.open(folder)


def test_a_damaged_page_is_told(folder):
    path = folder / CORPUS
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(bytes(data))
    refused(folder, f"{CORPUS}: row", "cannot be read", "again")

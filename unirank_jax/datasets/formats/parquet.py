"""Hugging Face's retrieval layout: Parquet tables of queries, documents and judgements.

Which file is what follows from its columns (a table with a query id and a document id holds
judgements) and from the names of its folders and itself ("quer...", "corpus"). Images are columns
of {"bytes", "path"}; splits are the names of the judgements' files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from unirank_jax.datasets.formats.base import split_named
from unirank_jax.datasets.formats.document import RecordFields
from unirank_jax.datasets.formats.fields import Fields
from unirank_jax.datasets.formats.problems import FormatError, Problems
from unirank_jax.datasets.formats.retrieval import Layout, RetrievalDataset, Run
from unirank_jax.datasets.formats.tables import ParquetTable
from unirank_jax.datasets.formats.trec import Judgement

NAME = "Parquet tables of queries, corpus and qrels"
RUN = "run.trec"
QUERY_IDS = ("query-id", "query_id", "qid")
CORPUS_IDS = ("corpus-id", "corpus_id", "docid", "did")
QUERY_FIELDS = RecordFields(
    "qid",
    ("id", "_id", *QUERY_IDS),
    ("title", "text", "query"),
    ("image", "images"),
    instruction="instruction",
)
CORPUS_FIELDS = RecordFields(
    "did", ("id", "_id", *CORPUS_IDS), ("title", "text"), ("image", "images")
)


def parquet_files(path: Path) -> list[Path]:
    """All Parquet files at a path, hidden folders left out, in the order of their names."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    found = (file.relative_to(path) for file in path.rglob("*.parquet"))
    return [path / f for f in sorted(found) if not any(p.startswith(".") for p in f.parts)]


def detect(path: Path) -> bool:
    """True for a folder with Parquet files that are named after queries or a corpus."""
    roles = (
        {_named(file.relative_to(path)) for file in parquet_files(path)} if path.is_dir() else set()
    )
    return bool(roles & {"queries", "corpus"})


def open_parquet_retrieval(path: Path, run: Run | None = None) -> RetrievalDataset:
    """Open a folder of retrieval tables; FormatError names every bad file and row."""
    tables: dict[str, list[ParquetTable]] = {"queries": [], "corpus": [], "qrels": []}
    problems = Problems()
    for file in parquet_files(path):
        name = file.relative_to(path).as_posix()
        try:
            table = ParquetTable(file, name)
        except FormatError as error:
            problems.found += error.problems
            continue
        role = _role(file.relative_to(path), table.columns)
        if role is None:
            remedy = "name its folder query, corpus or qrels, or move it elsewhere"
            problems.add(name, "file", f"columns {', '.join(table.columns)} say no role", remedy)
        else:
            tables[role].append(table)
    for role, found in tables.items():
        if not found and not problems.found:
            remedy = f"add {role}/test.parquet" + _EXPECTED[role]
            problems.add(str(path), role, "no such table", remedy)
    problems.raise_any()
    if run is None and (path / RUN).is_file():
        run = Run(path / RUN)
    qrels = tables["qrels"]

    dataset = RetrievalDataset(
        Layout(
            format=NAME,
            path=path,
            root=path,
            queries=tables["queries"],
            corpus=tables["corpus"],
            query_fields=QUERY_FIELDS,
            corpus_fields=CORPUS_FIELDS,
            judgements=lambda problems: _judgements(qrels, problems),
            judgement_files={table.name: table.path for table in qrels},
            run=run,
        )
    )
    for table in qrels:
        split = split_named(table.path.stem) or split_named(table.path.parent.name)
        dataset.understood.append(f"{table.name}: {split or 'split by a hash of the query id'}")
    return dataset


_EXPECTED = {
    "queries": " with the columns id, text and / or image",
    "corpus": " with the columns id, text and / or image",
    "qrels": " with the columns query-id, corpus-id, score",
}


def _named(path: Path) -> str | None:
    """The role that the names of folders and file say, the innermost first."""
    for name in (path.stem, *reversed(path.parts[:-1])):
        lowered = name.lower()
        if "qrel" in lowered:
            return "qrels"
        if "quer" in lowered:
            return "queries"
        if "corpus" in lowered:
            return "corpus"
    return None


def _role(path: Path, columns: Sequence[str]) -> str | None:
    if {*columns} & {*QUERY_IDS} and {*columns} & {*CORPUS_IDS}:
        return "qrels"
    return _named(path)


def _judgements(tables: Sequence[ParquetTable], problems: Problems) -> Iterator[Judgement]:
    for table in tables:
        split = split_named(table.path.stem) or split_named(table.path.parent.name)
        for _, number, record in table.rows(problems):
            fields = Fields(record, table.where(number), table.path.parent, problems)
            qid, did = fields.identifier(QUERY_IDS), fields.identifier(CORPUS_IDS)
            if record.get("score") is None:
                fields.problem("score", "missing", "give an integer (0 = not relevant)")
                continue
            grade = fields.grade(record["score"], "score")
            if qid is not None and did is not None and grade is not None:
                yield Judgement(fields.where, split, qid, did, grade)

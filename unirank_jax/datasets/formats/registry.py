"""Which format lies at a path, and the way from and to each: `detect`, `open_format`, `write`.

Detection looks at names of files and at the fields of the first good record, never at content.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.formats import beir, flag, mbeir, ours, parquet, swift
from unirank_jax.datasets.formats import sentence_transformers as columns
from unirank_jax.datasets.formats.base import FormatDataset, split_named
from unirank_jax.datasets.formats.problems import FormatError, Problems, WriteError
from unirank_jax.datasets.formats.retrieval import Run
from unirank_jax.datasets.formats.rows import RowDataset, RowFormat
from unirank_jax.datasets.formats.tables import JsonTable, ParquetTable, Table

RETRIEVAL: dict[str, tuple[Callable[[Path], bool], Callable[[Path, Run | None], FormatDataset]]] = {
    beir.NAME: (beir.detect, beir.open_beir),
    parquet.NAME: (parquet.detect, parquet.open_parquet_retrieval),
    mbeir.NAME: (mbeir.detect, mbeir.open_mbeir),
}
ROWS = (
    (swift.detect, swift.FORMAT),
    (flag.detect, flag.FORMAT),
    (columns.detect, columns.FORMAT),
)
WRITERS: dict[str, Callable[[Dataset, Path], tuple[str, ...]]] = {
    "jsonl": ours.write_jsonl,
    "beir": beir.write_beir,
    "trec": beir.write_trec,
    "sentence-transformers": columns.write_sentence_transformers,
    "ms-swift": swift.write_swift,
}
TREC_ENDINGS = (".trec", ".run", ".qrels", ".res")


def detect(path: Path) -> str | None:
    """The name of the format at a path; None for our own forms and for nothing at all."""
    row_format = _row_format(path)
    if row_format is not None:
        return row_format.name
    if path.is_dir() and not _is_ours(path):
        return next((name for name, (found, _) in RETRIEVAL.items() if found(path)), None)
    return None


def open_format(path: Path, run: Run | None = None) -> FormatDataset | None:
    """The dataset at a path, or None where none of these formats lies there.

    Raises FormatError for bad files and for a run beside data that has its own lists.
    """
    if path.is_file() and path.suffix in TREC_ENDINGS:
        raise DatasetError(
            f"{path}: a TREC file holds ids only; put it beside a corpus as run.trec, "
            "or give it with --run"
        )
    name = detect(path)
    if name is None:
        _refuse_parquet(path)
        return None
    if name in RETRIEVAL:
        return RETRIEVAL[name][1](path, run)
    if run is not None:
        raise DatasetError(
            f"{run.path}: {name} have lists of their own; a run goes with a corpus and queries"
        )
    row_format = next(one for _, one in ROWS if one.name == name)
    problems = Problems()
    tables: dict[Table, str | None] = {}
    for file, split in _row_files(path).items():
        try:
            table = JsonTable if file.suffix == ".jsonl" else ParquetTable
            tables[table(file, _shown_name(file, path))] = split
        except FormatError as error:
            problems.found += error.problems
    problems.raise_any()
    return RowDataset(path, path if path.is_dir() else path.parent, row_format, tables)


def write(dataset: Dataset, to: str, out: str | Path) -> tuple[str, ...]:
    """Write a dataset in a format of `WRITERS` and return what the format cannot say.

    Raises WriteError for an unknown format, a folder that is there already, and content that the
    format cannot hold; nothing stays at `out` then.
    """
    if to not in WRITERS:
        raise WriteError(f"no format {to!r} to write; there are: {', '.join(WRITERS)}")
    return WRITERS[to](dataset, Path(out))


def _row_files(path: Path) -> dict[Path, str | None]:
    """The files of records at a path with their splits; {} where there are none.

    A folder holds files named after splits (train.jsonl, train-00000-of-00002.parquet), also one
    folder down (data/...), or one file under another name.
    """
    if path.is_file():
        return {path: None} if path.suffix in (".jsonl", ".parquet") else {}
    for folder in (path, path / "data"):
        for ending in (".jsonl", ".parquet"):
            files = sorted(file for file in folder.glob(f"*{ending}") if file.is_file())
            named: dict[Path, str | None] = {f: split_named(f.stem) for f in files}
            if any(named.values()):
                return {file: split for file, split in named.items() if split}
            if len(files) == 1:
                return named
    return {}


def _row_format(path: Path) -> RowFormat | None:
    """The format that the fields of the first records say; None for ours and for none."""
    names = _first_fields(path)
    if "candidates" in names:
        return None
    return next((row_format for found, row_format in ROWS if found(names)), None)


def _refuse_parquet(path: Path) -> None:
    """Raises FormatError for Parquet files that say no format: they are never our own form."""
    if path.is_dir() and any(path.glob("*.jsonl")):
        return
    files = parquet.parquet_files(path)[:5] if path.exists() else []
    problems = Problems()
    for file in files:
        name = _shown_name(file, path)
        try:
            told = f"columns {', '.join(ParquetTable(file, name).columns)} say no format"
        except FormatError as error:
            problems.found += error.problems
        else:
            remedy = "name them query, positive, negative (or documents, labels), or give a folder"
            problems.add(name, "columns", told, f"{remedy} with query, corpus and qrels tables")
    problems.raise_any()


def _is_ours(path: Path) -> bool:
    return "candidates" in _first_fields(path)


def _first_fields(path: Path) -> frozenset[str]:
    """The fields of the first good record; empty where there is none."""
    for file in _row_files(path):
        try:
            if file.suffix == ".parquet":
                return frozenset(ParquetTable(file, file.name).columns)
            for _, _, record in JsonTable(file, file.name).rows(Problems()):
                return frozenset(record)
        except FormatError:
            continue
    return frozenset()


def _shown_name(file: Path, path: Path) -> str:
    return file.relative_to(path).as_posix() if path.is_dir() else file.name

"""M-BEIR: queries with lists of candidate ids (JSON lines), and pools of candidates.

Queries have qid, query_txt, query_img_path, query_modality, pos_cand_list and neg_cand_list;
candidates did, txt, img_path and modality. Paths are below the dataset's folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from unirank_jax.datasets.formats.base import SPLIT_NAMES
from unirank_jax.datasets.formats.document import RecordFields
from unirank_jax.datasets.formats.fields import Fields
from unirank_jax.datasets.formats.problems import Problems
from unirank_jax.datasets.formats.retrieval import Layout, RetrievalDataset, Run
from unirank_jax.datasets.formats.tables import JsonTable
from unirank_jax.datasets.formats.trec import Judgement

NAME = "M-BEIR"
RUN = "run.trec"
POSITIVE, NEGATIVE = "pos_cand_list", "neg_cand_list"
QUERY_FIELDS = RecordFields(
    "qid",
    ("qid",),
    ("query_txt",),
    ("query_img_path",),
    "query_modality",
    also=((POSITIVE, "grade 1"), (NEGATIVE, "grade 0")),
)
CORPUS_FIELDS = RecordFields("did", ("did",), ("txt",), ("img_path",))


def detect(path: Path) -> bool:
    """True for a folder with a candidate pool: a .jsonl file with cand_pool in its path."""
    return path.is_dir() and any(_is_pool(file, path) for file in path.rglob("*.jsonl"))


def open_mbeir(path: Path, run: Run | None = None) -> RetrievalDataset:
    """Open a folder of queries and pools; FormatError names every bad line."""
    files = sorted(path.rglob("*.jsonl"))
    pools = _single([file for file in files if _is_pool(file, path)], path)
    queries = _single([file for file in files if not _is_pool(file, path)], path)
    problems = Problems()
    if not pools:
        problems.add(str(path), "cand_pool", "no such file", "add cand_pool/NAME_cand_pool.jsonl")
    if not queries:
        problems.add(str(path), "query", "no file of queries", "add query/train/NAME_train.jsonl")
    problems.raise_any()
    if run is None and (path / RUN).is_file():
        run = Run(path / RUN)
    tables = [JsonTable(file, file.relative_to(path).as_posix()) for file in queries]
    dataset = RetrievalDataset(
        Layout(
            format=NAME,
            path=path,
            root=path,
            queries=tables,
            corpus=[JsonTable(file, file.relative_to(path).as_posix()) for file in pools],
            query_fields=QUERY_FIELDS,
            corpus_fields=CORPUS_FIELDS,
            judgements=lambda problems: _judgements(tables, path, problems),
            run=run,
        )
    )
    for table in tables:
        split = _split(table.path.relative_to(path))
        dataset.understood.append(f"{table.name}: {split or 'split by a hash of the query id'}")
    return dataset


def _is_pool(file: Path, root: Path) -> bool:
    return "cand_pool" in file.relative_to(root).as_posix()


def _single(files: list[Path], root: Path) -> list[Path]:
    """Without the files that unite others (union_train, the global pool), if there are others."""
    own = [file for file in files if "union" not in file.relative_to(root).as_posix()]
    return own or files


def _split(path: Path) -> str | None:
    """The split in a file's name (mbeir_x_task0_train.jsonl) or its folder's."""
    words = [*reversed(path.stem.lower().split("_")), *reversed(path.parts[:-1])]
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def _judgements(tables: Sequence[JsonTable], root: Path, problems: Problems) -> Iterator[Judgement]:
    """Every id of the two lists of every query, grade 1 and 0; records were checked before."""
    for table in tables:
        split = _split(table.path.relative_to(root))
        for _, number, record in table.rows(Problems()):
            fields = Fields(record, table.where(number), root, problems)
            if POSITIVE not in record:
                fields.problem(POSITIVE, "missing", "list the ids of the relevant candidates")
            qid = Fields(record, "", root, Problems()).identifier(("qid",))
            for name, grade in ((POSITIVE, 1), (NEGATIVE, 0)):
                values = fields.listed(name) if record.get(name) is not None else None
                for place, value in enumerate(values or ()):
                    field = f"{name}[{place}]"
                    if isinstance(value, dict):
                        value, field = value.get("did"), f"{field}.did"
                    did = fields.as_identifier(value, field)
                    if qid is not None and did is not None:
                        yield Judgement(f"{fields.where}: {field}", split, qid, did, grade)

"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv.

An `image` field beside `text` holds a path; MixBench's names (query_id, corpus_id,
mixed_corpus.jsonl) and qrels in TREC's form are read too. run.trec in the folder is a first stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.formats.base import split_named
from unirank_jax.datasets.formats.document import RecordFields
from unirank_jax.datasets.formats.problems import Problems
from unirank_jax.datasets.formats.retrieval import Layout, RetrievalDataset, Run
from unirank_jax.datasets.formats.tables import JsonTable
from unirank_jax.datasets.formats.trec import Judgement, check_ids, read_qrels, run_lines
from unirank_jax.datasets.formats.writing import (
    Losses,
    all_items,
    examples,
    json_line,
    new_folder,
    note_list_losses,
    text_and_image,
)

NAME = "BEIR folder"
CORPUS = ("corpus.jsonl", "mixed_corpus.jsonl")
QUERIES = "queries.jsonl"
RUN = "run.trec"
QRELS_ENDINGS = (".tsv", ".trec", ".qrels", ".txt")
FILE_OF_SPLIT = {"train": "train", "valid": "dev", "test": "test"}
QUERY_FIELDS = RecordFields(
    "qid", ("_id", "query_id", "id"), ("title", "text"), instruction="instruction"
)
CORPUS_FIELDS = RecordFields("did", ("_id", "corpus_id", "id"), ("title", "text"))


def detect(path: Path) -> bool:
    """True for a folder with two of: a corpus, queries, qrels."""
    corpus = any((path / name).is_file() for name in CORPUS)
    return corpus + (path / QUERIES).is_file() + bool(_qrels(path)) >= 2


def open_beir(path: Path, run: Run | None = None) -> RetrievalDataset:
    """Open a BEIR folder; FormatError names every bad line."""
    corpus = [path / name for name in CORPUS if (path / name).is_file()][:1]
    qrels = _qrels(path)
    problems = Problems()
    for found, name in (
        (corpus, CORPUS[0]),
        ((path / QUERIES).is_file(), QUERIES),
        (qrels, "qrels"),
    ):
        if not found:
            example = "qrels/test.tsv" if name == "qrels" else name
            problems.add(str(path), name, "missing", f"a BEIR folder needs {example}")
    problems.raise_any()
    if run is None and (path / RUN).is_file():
        run = Run(path / RUN)
    names = {file.relative_to(path).as_posix(): file for file in qrels}

    def judgements(problems: Problems) -> Iterator[Judgement]:
        for name, file in names.items():
            yield from read_qrels(file, name, split_named(file.stem), problems)

    dataset = RetrievalDataset(
        Layout(
            format=NAME,
            path=path,
            root=path,
            queries=[JsonTable(path / QUERIES, QUERIES)],
            corpus=[JsonTable(file, file.name) for file in corpus],
            query_fields=QUERY_FIELDS,
            corpus_fields=CORPUS_FIELDS,
            judgements=judgements,
            judgement_files=names,
            run=run,
        )
    )
    for name, file in names.items():
        split = split_named(file.stem)
        dataset.understood.append(f"{name}: {split or 'split by a hash of the query id'}")
    return dataset


def _qrels(path: Path) -> list[Path]:
    """The files of judgements: qrels/*, or qrels.* beside the corpus."""
    folder = sorted(file for file in path.glob("qrels/*") if file.suffix in QRELS_ENDINGS)
    beside = sorted(file for file in path.glob("qrels.*") if file.suffix in QRELS_ENDINGS)
    return [file for file in (folder or beside) if file.is_file()]


def write_beir(dataset: Dataset, out: Path) -> tuple[str, ...]:
    """Write a dataset as a BEIR folder and return what the format cannot say.

    Lists with unjudged candidates also need run.trec, which holds all lists in their order.
    Raises WriteError for content with several images and for ids with white space.
    """
    losses = Losses()
    with new_folder(out) as folder:
        _write_corpus(dataset, folder, losses)
        needs_run = any(
            grade < 0 or origin == "retrieved" or ranked.missing
            for split in dataset.splits
            for ranked in dataset.lists(split)
            for grade, origin in zip(ranked.grades, ranked.neg_types, strict=True)
        )
        (folder / "qrels").mkdir()
        with ExitStack() as files:

            def opened(name: str) -> TextIO:
                return files.enter_context(open(folder / name, "w", encoding="utf-8"))

            queries = opened(QUERIES)
            run = opened(RUN) if needs_run else None
            qrels = {split: opened(f"qrels/{FILE_OF_SPLIT[split]}.tsv") for split in dataset.splits}
            for file in qrels.values():
                file.write("query-id\tcorpus-id\tscore\n")
            for split, example in examples(dataset):
                query, where = example.query, f"query {example.query.qid}"
                check_ids([query.qid], where)
                note_list_losses(example, losses, keeps_instruction=True)
                content = text_and_image(query.parts, folder, where, losses)
                named = {"instruction": query.instruction} if query.instruction else {}
                queries.write(json_line({"_id": query.qid, **content, **named}))
                dids = [item.did for item in example.candidates]
                for did, grade, origin in zip(dids, example.grades, example.neg_types, strict=True):
                    if grade < 0:
                        losses.add("unjudged candidates get grade 0", where)
                    elif origin != "retrieved":
                        qrels[split].write(f"{query.qid}\t{did}\t{grade}\n")
                for did, grade in _missing(dataset, query.qid, example.missing, losses).items():
                    qrels[split].write(f"{query.qid}\t{did}\t{grade}\n")
                if run:
                    places = [float(len(dids) - place) for place in range(len(dids))]
                    run.writelines(run_lines(query.qid, dids, places, "order"))
    return losses.warnings()


def _write_corpus(dataset: Dataset, folder: Path, losses: Losses) -> None:
    with open(folder / CORPUS[0], "w", encoding="utf-8") as corpus:
        for item in all_items(dataset):
            where = f"item {item.did}"
            check_ids([item.did], where)
            content = text_and_image(item.parts, folder, where, losses)
            corpus.write(json_line({"_id": item.did, **content}))


def write_trec(dataset: Dataset, out: Path) -> tuple[str, ...]:
    """Write qrels/{train,dev,test}.trec and run.trec; ids only, no content.

    The run lists every query's candidates in their stored order, as a dataset has no scores;
    `trec.write_run` writes scores. Raises WriteError for ids with white space.
    """
    losses = Losses()
    losses.add("texts and images are not kept: TREC files hold ids", str(dataset.path))
    losses.add("the run's scores are places in the stored order", str(dataset.path))
    with new_folder(out) as folder:
        (folder / "qrels").mkdir()
        with open(folder / RUN, "w", encoding="utf-8") as run:
            for split in dataset.splits:
                name = f"qrels/{FILE_OF_SPLIT[split]}.trec"
                with open(folder / name, "w", encoding="utf-8") as qrels:
                    for ranked in dataset.lists(split):
                        check_ids([ranked.qid], "query ids")
                        check_ids(ranked.dids, f"query {ranked.qid}: item ids")
                        missing = _missing(dataset, ranked.qid, ranked.missing, losses)
                        rows = zip(ranked.dids, ranked.grades, ranked.neg_types, strict=True)
                        for did, grade, origin in rows:
                            if grade >= 0 and origin != "retrieved":
                                qrels.write(f"{ranked.qid} 0 {did} {grade}\n")
                        for did, grade in missing.items():
                            qrels.write(f"{ranked.qid} 0 {did} {grade}\n")
                        places = [float(len(ranked.dids) - n) for n in range(len(ranked.dids))]
                        run.writelines(run_lines(ranked.qid, ranked.dids, places, "order"))
    return losses.warnings()


def _missing(
    dataset: Dataset, qid: str, grades: Sequence[int], losses: Losses
) -> Mapping[str, int]:
    """The relevant documents that a list lacks; their ids are known where a corpus was read."""
    if isinstance(dataset, RetrievalDataset):
        return dataset.missing_items(qid)
    if grades:
        losses.add("the relevant documents missing from a list are not kept", f"query {qid}")
    return {}

"""Rankings and judgements that come from files, and those that go to files, in TREC's formats.

A run is compared like a model, by its scores for the candidates of the lists; what it does not
hold ranks last. Other judgements (qrels) grade the same lists anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.baselines import Scorer, Scores
from train.judging import origins
from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.formats.problems import Problems, WriteError
from unirank_jax.datasets.formats.trec import check_ids, read_qrels, read_run, write_run
from unirank_jax.datasets.overlay import Overlay
from unirank_jax.datasets.records import Example, RankList

Ranking = Mapping[str, Mapping[str, float]]  # qid -> did -> score
DEEPEST = 10**9  # every line of a run counts


def fixed(ranking: Ranking) -> Scorer:
    """A scorer of rankings that exist; candidates that they do not hold rank last, as one group."""

    def score(examples: Sequence[Example]) -> Scores:
        return [
            _scores(ranking.get(example.query.qid, {}), [item.did for item in example.candidates])
            for example in examples
        ]

    return score


def _scores(known: Mapping[str, float], dids: Sequence[str]) -> NDArray[Any]:
    lowest = min(known.values(), default=0.0)
    last = lowest - (1.0 + abs(lowest))  # below it by more than nine digits round away
    return np.array([known.get(did, last) for did in dids], np.float64)


def open_run(path: Path) -> Ranking:
    """The rankings of a TREC run.

    Raises:
        FormatError: "file:line: field: problem; remedy" of every line that cannot be used.
    """
    problems = Problems()
    found = read_run(path, path.name, problems, depth=DEEPEST)
    problems.raise_any()
    return {qid: {one.did: -one.minus_score for one in ranks} for qid, ranks in found.items()}


def coverage(name: str, ranking: Ranking, examples: Sequence[Example]) -> str:
    """What a run says about these lists, in a sentence.

    Raises:
        DatasetError: it holds none of the queries.
    """
    asked = [example for example in examples if example.query.qid in ranking]
    if not asked:
        raise DatasetError(
            f"--run {name}: it holds none of the {len(examples)} queries; give a run of these lists"
        )
    listed = sum(len(example.candidates) for example in examples)
    held = sum(item.did in ranking[e.query.qid] for e in asked for item in e.candidates)
    return (
        f"Run {name} holds {len(asked)} of the {len(examples)} queries and {held} of their "
        f"{listed} candidates; what it does not hold ranks last."
    )


def rejudged(dataset: Dataset, split: str, path: Path) -> tuple[Overlay, str]:
    """The same lists with the grades of a qrels file, and a sentence about what was left out.

    As in trec_eval, a candidate that the file does not judge has grade 0, and queries that it does
    not judge, or for which nothing is relevant, are left out. Relevant documents that are on no
    list of their query are missing from it.

    Raises:
        FormatError: every line that cannot be used.
        DatasetError: nothing is left.
    """
    judgements = _open_qrels(path)
    lists, total = [], 0
    for ranked in dataset.lists(split):
        total += 1
        known = judgements.get(ranked.qid)
        if known is None:
            continue
        rel_min = dataset.query(ranked.qid).rel_min
        if max(known.values()) < rel_min:
            continue
        grades = tuple(known.get(did, 0) for did in ranked.dids)
        listed = set(ranked.dids)
        missing = tuple(g for did, g in known.items() if g > 0 and did not in listed)
        lists.append(RankList(ranked.qid, ranked.dids, grades, origins(grades, rel_min), missing))
    if not lists:
        raise DatasetError(
            f"--qrels {path}: no relevant document for any of the {total} queries of {split}; "
            "give judgements of these queries"
        )
    told = f"Grades are those of {path.name}"
    if len(lists) < total:
        left = total - len(lists)
        told += f"; {left} of {total} queries, for which it has no relevant document, are left out"
    return Overlay(dataset, {split: lists}), told + "."


def _open_qrels(path: Path) -> dict[str, dict[str, int]]:
    problems = Problems()
    found: dict[str, dict[str, int]] = {}
    for one in read_qrels(path, path.name, None, problems):
        grades = found.setdefault(one.qid, {})
        if one.did in grades:
            told = f"{one.did!r} was judged before for query {one.qid!r}"
            problems.add(one.where, "did", told, "judge every document once")
        grades[one.did] = one.grade
    problems.raise_any()
    return found


def write_runs(records: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """`{scorer}.trec` for every scorer and `qrels.trec` from the records of a report.

    A candidate that failed is left out of its run. Unjudged candidates stay in the runs and have
    -1 in the qrels (trec_eval -J drops them, as our metrics do). What a first stage missed is in
    the qrels under names that no run holds.

    Raises:
        WriteError: ids with white space, or scorers whose names give the same file.
    """
    check_ids([record["qid"] for record in records], "query ids")
    check_ids(dict.fromkeys(did for record in records for did in record["dids"]), "item ids")
    files: dict[str, str] = {}
    for name in records[0]["scores"]:
        file = re.sub(r"[^\w.+-]+", "-", name).strip("-") or "run"
        first = files.setdefault(file, name)
        if first != name:
            raise WriteError(f"--write-runs: {first!r} and {name!r} are both {file}; rename one")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file, name in files.items():
        rankings = {record["qid"]: _scored(record, name) for record in records}
        written.append(folder / f"{file}.trec")
        write_run(written[-1], rankings, file)
    written.append(folder / "qrels.trec")
    written[-1].write_text("".join(_qrels_lines(records)), encoding="utf-8")
    return written


def _scored(record: Mapping[str, Any], name: str) -> dict[str, float]:
    pairs = zip(record["dids"], record["scores"][name], strict=True)
    return {did: score for did, score in pairs if score is not None}


def _qrels_lines(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for record in records:
        for did, grade in zip(record["dids"], record["grades"], strict=True):
            yield f"{record['qid']} 0 {did} {grade}\n"
        for number, grade in enumerate(record["missing"], start=1):
            yield f"{record['qid']} 0 (missing-{number}) {grade}\n"

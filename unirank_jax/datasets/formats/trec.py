"""TREC run and qrels files, and BEIR's tables of judgements: ids, grades and scores, no content.

A run has the lines "qid Q0 docid rank score tag", qrels "qid 0 docid grade" (TREC) or, separated
by tabs, "query-id corpus-id score" (BEIR, with a header).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from unirank_jax.datasets.formats.problems import Problems, WriteError, shown

DEPTH = 100
HEADERS = ("query-id", "query_id", "qid", "corpus-id", "corpus_id", "docid", "did", "score")


class Judgement(NamedTuple):
    """One line of qrels; `where` is its file and line."""

    where: str
    split: str | None
    qid: str
    did: str
    grade: int


class Retrieved(NamedTuple):
    """One document of a run; sorts by falling score, equal scores by their order in the file."""

    minus_score: float
    line: int
    did: str


def read_qrels(path: Path, name: str, split: str | None, problems: Problems) -> Iterator[Judgement]:
    """The judgements of a file in either form; what is wrong goes to `problems`."""
    for number, line in _lines(path, name, problems):
        where = f"{name}:{number}"
        columns = [part.strip() for part in line.split("\t")] if "\t" in line else line.split()
        if len(columns) == 4:
            qid, _, did, grade = columns
        elif len(columns) == 3:
            qid, did, grade = columns
            if number == 1 and grade in HEADERS:
                if qid not in HEADERS[:3] or did not in HEADERS[3:7]:
                    remedy = "write query-id, corpus-id and score, in this order"
                    problems.add(where, "header", f"{shown(line)} is not the header", remedy)
                continue
        else:
            problems.add(
                where,
                "line",
                f"{len(columns)} columns",
                "write query-id, corpus-id, score with tabs between (or qid 0 docid grade)",
            )
            continue
        value = _grade(grade)
        if not qid or not did:
            problems.add(where, "did" if qid else "qid", "empty", "give an id")
        elif value is None:
            remedy = "give an integer from -1 (unjudged) to 999"
            problems.add(where, "score", f"{shown(grade)} is not a grade", remedy)
        else:
            yield Judgement(where, split, sys.intern(qid), sys.intern(did), value)


def read_run(
    path: Path, name: str, problems: Problems, depth: int = DEPTH
) -> dict[str, list[Retrieved]]:
    """The best `depth` documents of every query, best first; the file may have any order.

    The rank column is read over: ranks follow from the scores, and equal scores keep the order of
    the file. What is wrong goes to `problems`.
    """
    found: dict[str, list[Retrieved]] = {}
    for number, line in _lines(path, name, problems):
        where, columns = f"{name}:{number}", line.split()
        if len(columns) != 6:
            remedy = "write qid Q0 docid rank score tag"
            problems.add(where, "line", f"{len(columns)} columns", remedy)
            continue
        qid, _, did, rank, text, _ = columns
        score = _number(text)
        if not rank.lstrip("-").isdecimal():
            problems.add(where, "rank", f"{shown(rank)} is not an integer", "give 1, 2, ...")
        elif score is None:
            problems.add(where, "score", f"{shown(text)} is not a number", "give a finite number")
        else:
            ranking = found.setdefault(sys.intern(qid), [])
            ranking.append(Retrieved(-score, number, sys.intern(did)))
            if len(ranking) >= 4 * depth:
                _best(ranking, depth, qid, name, problems)
    for qid, ranking in found.items():
        _best(ranking, depth, qid, name, problems)
    if not found and not problems.found:
        problems.add(name, "file", "no line in it", "write qid Q0 docid rank score tag")
    return found


def run_lines(qid: str, dids: Sequence[str], scores: Sequence[float], tag: str) -> Iterator[str]:
    """The lines of one query, by falling score (equal scores in the given order), ranks from 1.

    Scores are written with nine digits, which keeps every float32 apart from its neighbours.
    """
    order = sorted(range(len(dids)), key=lambda place: -scores[place])
    for rank, place in enumerate(order, start=1):
        yield f"{qid} Q0 {dids[place]} {rank} {scores[place]:.9g} {tag}\n"


def check_ids(ids: Iterable[str], what: str) -> None:
    """Raises WriteError for ids that a file with columns cannot hold, all named at once."""
    bad = [one for one in ids if not one or any(character.isspace() for character in one)]
    if bad:
        names = ", ".join(shown(one) for one in bad[:5])
        raise WriteError(
            f"{what}: {len(bad)} ids with white space ({names}); "
            "rename them, or convert to a format without columns (jsonl)"
        )


def write_run(
    path: str | Path,
    rankings: Mapping[str, Mapping[str, float]],
    tag: str = "unirank",
) -> None:
    """Write {qid: {did: score}} as a run file.

    Raises WriteError for a score that is not finite and for ids with white space; nothing is
    written then.
    """
    check_ids([qid for qid in rankings], "query ids")
    check_ids(dict.fromkeys(did for ranking in rankings.values() for did in ranking), "item ids")
    for qid, ranking in rankings.items():
        for did, score in ranking.items():
            if not math.isfinite(score):
                raise WriteError(f"query {qid}: item {did}: the score is {score}; leave it out")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "w", encoding="utf-8") as file:
        for qid, ranking in rankings.items():
            file.writelines(run_lines(qid, list(ranking), list(ranking.values()), tag))
    temporary.replace(path)


def _lines(path: Path, name: str, problems: Problems) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends; blank ones are skipped."""
    try:
        with open(path, "rb") as file:
            for number, data in enumerate(file, start=1):
                try:
                    line = data.decode("utf-8-sig").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    told = f"not UTF-8 at byte {error.start}"
                    problems.add(f"{name}:{number}", "line", told, "save the file as UTF-8")
                    continue
                if line.strip():
                    yield number, line
    except OSError as error:
        problems.add(name, "file", f"cannot be read ({error.strerror})", "make it readable")


def _best(ranking: list[Retrieved], depth: int, qid: str, name: str, problems: Problems) -> None:
    """Sorts a ranking and cuts it; a document that is there twice is a problem."""
    seen: dict[str, Retrieved] = {}
    for one in sorted(ranking, key=lambda one: one.line):
        first = seen.setdefault(one.did, one)
        if first is not one:
            told = f"{one.did!r} of query {qid!r} is also in line {first.line}"
            problems.add(f"{name}:{one.line}", "docid", told, "list every document once")
    ranking[:] = sorted(seen.values())[:depth]


def _grade(text: str) -> int | None:
    number = _number(text)
    if number is None or not number.is_integer() or not -1 <= number < 1000:
        return None
    return int(number)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None

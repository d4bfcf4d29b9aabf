"""Other lists over the items and queries of a dataset: mined ones, those of a first stage.

A file of lists holds one JSON object per line, {"qid", "dids", "grades", "neg_types"} and, where a
first stage missed relevant candidates, "missing" with their grades; it may be compressed (.gz).
Content stays where it is. `read_lists` checks every line against the dataset.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.formats.fields import Fields
from unirank_jax.datasets.formats.problems import FormatError, Problems, kind_of, shown
from unirank_jax.datasets.formats.tables import json_object
from unirank_jax.datasets.formats.writing import json_line, write_lines
from unirank_jax.datasets.records import SPLITS, ContentSize, Item, Query, RankList

FIELDS = ("qid", "dids", "grades", "neg_types", "missing")


class Overlay(Dataset):
    """A dataset whose lists of some splits are replaced; items and queries are read as before.

    Args:
        base: what holds the content.
        lists: split -> its lists. A split that is not named keeps the lists of `base`.
    """

    def __init__(self, base: Dataset, lists: Mapping[str, Sequence[RankList]]) -> None:
        unknown = sorted(lists.keys() - set(SPLITS))
        if unknown:
            raise DatasetError(f"no split {unknown[0]!r}; there are: {', '.join(SPLITS)}")
        self.base, self.path = base, base.path
        self._own = {split: tuple(some) for split, some in lists.items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprint of the base and the lists that replace its own."""
        digest = hashlib.sha256(self.base.fingerprint.encode())
        for split, lists in sorted(self._own.items()):
            digest.update(f"\0{split}\n".encode())
            for ranked in lists:
                digest.update(line_of(ranked).encode())
        return digest.hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(
            split
            for split in SPLITS
            if (self._own[split] if split in self._own else split in self.base.splits)
        )

    def lists(self, split: str) -> Sequence[RankList]:
        return self._own[split] if split in self._own else self.base.lists(split)

    def query(self, qid: str) -> Query:
        return self.base.query(qid)

    def item(self, did: str) -> Item:
        return self.base.item(did)

    def items_of(self, split: str) -> Sequence[Item]:
        return self.base.items_of(split)

    def pool(self, split: str) -> Collection[str]:
        return self.base.pool(split)

    def size(self, did: str) -> ContentSize:
        return self.base.size(did)


def overlaid(base: Dataset, split: str, path: str | Path, *, own: bool = False) -> Overlay:
    """`base` with the lists of one split from a file.

    own: the candidates that the query's list in `base` has, and the file's has not, follow those
        of the file.

    Raises:
        DatasetError: no such split, or any line that does not fit; all of them are told.
    """
    lists = read_lists(Path(path), base, split)
    if own:
        before = {ranked.qid: ranked for ranked in base.lists(split)}
        lists = tuple(joined(ranked, before[ranked.qid]) for ranked in lists)
    return Overlay(base, {split: lists})


def joined(first: RankList, second: RankList) -> RankList:
    """The candidates of `first`, then those of `second` that it does not have."""
    there = set(first.dids)
    places = [n for n, did in enumerate(second.dids) if did not in there]
    return RankList(
        qid=first.qid,
        dids=(*first.dids, *(second.dids[n] for n in places)),
        grades=(*first.grades, *(second.grades[n] for n in places)),
        neg_types=(*first.neg_types, *(second.neg_types[n] for n in places)),
    )


def read_lists(path: Path, dataset: Dataset, split: str) -> tuple[RankList, ...]:
    """The lists of a file, which are of one split of the dataset.

    Raises:
        FormatError: "file:line: field: problem; remedy" of every line that cannot be used: an
            unknown query or item or one of another split, columns of different lengths, a query or
            item that is there twice, a list without a relevant candidate on it or missing from it.
    """
    if split not in dataset.splits:
        raise DatasetError(
            f"{dataset.path}: no lists in split {split!r}; "
            f"choose one of: {', '.join(dataset.splits)}"
        )
    problems = Problems()
    asked = {ranked.qid: ranked.qid for ranked in dataset.lists(split)}  # one str for each id
    pool = {did: did for did in dataset.pool(split)}
    places: dict[str, str] = {}
    lists: list[RankList] = []
    for number, record in records(path, problems):
        reader = _Reader(record, f"{path.name}:{number}", path.parent, problems)
        ranked = reader.ranked(dataset, split, asked, pool)
        if ranked is None:
            continue
        first = places.setdefault(ranked.qid, reader.where)
        if first != reader.where:
            told = f"{ranked.qid!r} has a list in {first} already"
            reader.problem("qid", told, "give every query one list")
        lists.append(ranked)
    if not lists and not problems.found:
        problems.add(path.name, "file", "no list in it", "write one JSON object per line")
    problems.raise_any()
    return tuple(lists)


def write_lists(path: Path, lists: Iterable[RankList]) -> None:
    """Write lists whole or not at all; compressed where the name ends in .gz."""
    write_lines(path, map(line_of, lists))


def line_of(ranked: RankList) -> str:
    """One line of a file of lists."""
    values = (ranked.qid, ranked.dids, ranked.grades, ranked.neg_types, ranked.missing)
    return json_line(
        {name: value for name, value in zip(FIELDS, values, strict=True) if value != ()}
    )


def records(path: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered JSON objects of a file, which may be compressed; what is bad goes to `problems`.

    Raises FormatError where there is no file.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            for number, data in enumerate(file, start=1):
                if data.strip():
                    record = json_object(data, f"{path.name}:{number}", problems)
                    if record is not None:
                        yield number, record
    except FileNotFoundError:
        raise FormatError([f"{path}: file: there is none; correct the path"]) from None
    except (OSError, EOFError, zlib.error) as error:
        where = f"{path.name}:{number + 1}"
        reason = shown(getattr(error, "strerror", None) or str(error))
        problems.add(where, "file", f"cannot be read ({reason})", "write the file again")


class _Reader(Fields):
    """One line as a list; the methods return None after they told a problem."""

    def ranked(
        self, dataset: Dataset, split: str, asked: Mapping[str, str], pool: Mapping[str, str]
    ) -> RankList | None:
        before = len(self.problems.found)
        for name in self.record.keys() - set(FIELDS):
            near = get_close_matches(name, FIELDS, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(FIELDS)}"
            self.problem(str(name), "unknown field", remedy)
        qid = self.identifier(["qid"])
        if qid is not None and qid not in asked:
            self._unknown("qid", f"query {qid!r}", _has(dataset.query, qid), split)
        dids = self._column("dids", self.as_identifier)
        grades = self._column("grades", self.grade)
        origins = self._column("neg_types", self._origin)
        missing = self._column("missing", self.grade) if "missing" in self.record else []
        if dids is not None:
            self._candidates(dataset, split, pool, dids)
        for name, column in (("grades", grades), ("neg_types", origins)):
            if dids is not None and column is not None and len(column) != len(dids):
                told = f"{len(column)} for {len(dids)} dids"
                self.problem(name, told, "give one for every candidate")
        if len(self.problems.found) > before:
            return None
        assert qid and dids and grades and origins and missing is not None
        least = dataset.query(qid).rel_min
        if max((*grades, *missing)) < least:
            told = f"no candidate of grade {least} or more, on the list or missing from it"
            self.problem("grades", told, "correct the grades or leave the list out")
            return None
        names = tuple(pool[did] for did in dids)
        return RankList(asked[qid], names, tuple(grades), tuple(origins), tuple(missing))

    def _column(self, name: str, read: Any) -> list[Any] | None:
        """A field that holds a list with something in it (`missing` may be empty)."""
        if name not in self.record:
            self.problem(name, "missing", "give qid, dids, grades and neg_types")
            return None
        values = self.listed(name)
        if values is None:
            return None
        if not values and name != "missing":
            self.problem(name, "an empty list", "leave lists without candidates out")
            return None
        found = [read(value, f"{name}[{place}]") for place, value in enumerate(values)]
        return None if any(one is None for one in found) else found

    def _origin(self, value: Any, field: str) -> str | None:
        if isinstance(value, str):
            return value
        self.problem(field, f"{kind_of(value)}, not a text", 'write "" where it is not known')
        return None

    def _candidates(
        self, dataset: Dataset, split: str, pool: Mapping[str, str], dids: Sequence[str]
    ) -> None:
        seen: dict[str, int] = {}
        for place, did in enumerate(dids):
            field = f"dids[{place}]"
            first = seen.setdefault(did, place)
            if first != place:
                told = f"{did!r} is also dids[{first}]"
                self.problem(field, told, "list every candidate once")
            elif did not in pool:
                self._unknown(field, f"item {did!r}", _has(dataset.item, did), split)

    def _unknown(self, field: str, what: str, elsewhere: bool, split: str) -> None:
        if elsewhere:
            told, remedy = f"{what} is of another split than {split}", "keep splits apart"
            self.problem(field, told, remedy)
        else:
            self.problem(field, f"no {what} in the data", "give the dataset that the lists are of")


def _has(read: Any, identifier: str) -> bool:
    try:
        read(identifier)
    except KeyError:
        return False
    return True

"""Layouts in which every record holds a query with its candidates, or a pair of them.

Each record is one list. Records with the same id and query, and pairs of the same query, make one
list, in which equal contents stand once. A list's id is the record's or "file:line".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unirank_jax.content import Part
from unirank_jax.datasets.formats.base import FormatDataset, Lazy, Row, fields_line
from unirank_jax.datasets.formats.fields import Fields, make_item, make_query
from unirank_jax.datasets.formats.problems import Problems
from unirank_jax.datasets.formats.tables import Table
from unirank_jax.datasets.records import SPLITS, Example, Item, Query, RankList, split_of

ID_FIELDS = ("qid", "query_id", "query-id", "id", "_id")


@dataclass(frozen=True)
class ParsedRow:
    """One record understood; `pair` means that it is one query with one graded candidate."""

    query: tuple[Part, ...]
    candidates: tuple[tuple[Part, ...], ...]
    grades: tuple[int, ...]
    instruction: str | None = None
    pair: bool = False


@dataclass(frozen=True)
class RowFormat:
    """A format of records: `parse` tells problems and returns None for a bad record."""

    name: str
    parse: Callable[[Fields], ParsedRow | None]
    meaning: Callable[[str], str | None]


class RowDataset(FormatDataset):
    """Reader of such records. Opening it checks every record.

    Raises FormatError with all problems found. Queries that only have pairs of grade 0 are left
    out, and `notes` says how many.
    """

    def __init__(
        self, path: Path, root: Path, row_format: RowFormat, tables: Mapping[Table, str | None]
    ):
        super().__init__(path, row_format.name, list(tables))
        self._root, self._row_format = root, row_format
        self._rows: dict[str, list[Row]] = {}
        self._qids: dict[str, list[str]] = {split: [] for split in SPLITS}
        self._counts: dict[str, int] = {}
        problems = Problems()
        positive = self._scan(list(tables.values()), problems)
        if not problems.found and not self._rows:
            problems.add(path.name, "file", "no record in it", "write one record per line")
        problems.raise_any()
        self._drop(positive)
        if not self._rows:
            problems.add(path.name, "label", "no pair is relevant", "give relevant pairs label 1")
        problems.raise_any()
        for table, split in tables.items():
            self.understood.append(f"{table.name}: {split or 'split by a hash of the query'}")

    def _scan(self, splits: Sequence[str | None], problems: Problems) -> set[str]:
        """Fills the places of all lists; returns the ids of the lists with a positive."""
        keys: dict[tuple[str, str], str] = {}  # (split, hash of a query) -> list of its pairs
        contents: dict[str, tuple[str, str]] = {}  # qid -> (hash of the query, its place)
        positive: set[str] = set()
        for number, table in enumerate(self._tables):
            seen = Counter[str]()
            for offset, line, record in table.rows(problems):
                seen.update(name for name, value in record.items() if value is not None)
                fields = Fields(record, table.where(line), self._root, problems)
                parsed = self._parse(fields)
                named = fields.identifier(ID_FIELDS, required=False)
                if parsed is None or (named is None and fields.first(ID_FIELDS)):
                    continue
                content = fields.dup_id(parsed.query)
                split = splits[number] or split_of(content)
                qid = named or f"{table.path.stem}:{line}"
                if parsed.pair and named is None:
                    qid = keys.setdefault((split, content), qid)
                first, where = contents.setdefault(qid, (content, fields.where))
                if first != content:
                    told = f"{qid!r} has another query in {where}"
                    fields.problem(ID_FIELDS[0], told, "use one id for one query")
                    continue
                if qid not in self._rows:
                    self._qids[split].append(qid)
                elif self._rows[qid] and splits[self._rows[qid][0].table] != splits[number]:
                    told = f"{qid!r} is also in {where}, of another split"
                    fields.problem(ID_FIELDS[0], told, "keep a query in one split")
                    continue
                self._rows.setdefault(qid, []).append(Row(number, offset, line))
                self._counts[qid] = self._counts.get(qid, 0) + len(parsed.grades)
                if max(parsed.grades) >= 1:
                    positive.add(qid)
                elif not parsed.pair:
                    remedy = "add a relevant candidate or leave the record out"
                    fields.problem("record", "no relevant candidate", remedy)
                for parts in (parsed.query, *parsed.candidates):
                    self._note_files(parts)
            meanings = {name: self._row_format.meaning(name) for name in seen}
            meaning = {name: told for name, told in meanings.items() if told}
            meaning |= {name: "qid" for name in ID_FIELDS if name in seen}
            self.understood.append(fields_line(table.name, meaning, seen))
        return positive

    def _drop(self, positive: set[str]) -> None:
        """Leaves out lists without a positive, and counts candidates that stand once."""
        dropped = [qid for qid in self._rows if qid not in positive]
        for qid in dropped:
            del self._rows[qid], self._counts[qid]
        if dropped:
            self.notes.append(f"{len(dropped)} queries have no relevant candidate: left out")
        for split, qids in self._qids.items():
            self._qids[split] = [qid for qid in qids if qid in self._rows]
        merged = [qid for qid, rows in self._rows.items() if len(rows) > 1]
        for qid in merged:
            self._counts[qid] = len(self._list(qid).grades)
        if merged:
            self.notes.append(f"{len(merged)} lists are made of several records of the same query")

    def _parse(self, fields: Fields) -> ParsedRow | None:
        before = len(fields.problems.found)
        parsed = self._row_format.parse(fields)
        return parsed if len(fields.problems.found) == before else None

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if self._qids[split])

    def lists(self, split: str) -> Sequence[RankList]:
        return Lazy(self._of_split(self._qids, split), self._rank_list)

    def _rank_list(self, qid: str) -> RankList:
        example = self._list(qid)
        dids = tuple(item.did for item in example.candidates)
        return RankList(qid, dids, example.grades, example.neg_types)

    def example(self, split: str, index: int) -> Example:
        return self._list(self._of_split(self._qids, split)[index])

    def query(self, qid: str) -> Query:
        return self._list(qid).query

    def item(self, did: str) -> Item:
        qid, _, number = did.rpartition("#")
        if not number.isdecimal() or int(number) >= self._counts[qid]:
            raise KeyError(did)
        return self._list(qid).candidates[int(number)]

    def items_of(self, split: str) -> Sequence[Item]:
        qids = self._of_split(self._qids, split)
        return Lazy([f"{qid}#{n}" for qid in qids for n in range(self._counts[qid])], self.item)

    def all_items(self) -> Iterator[Item]:
        return (item for qid in self._rows for item in self._list(qid).candidates)

    def place_of_query(self, qid: str) -> str:
        return self._where(self._rows[qid][0])

    def place_of_item(self, did: str) -> str:
        return self.place_of_query(did.rpartition("#")[0])

    def _contents(self) -> Iterator[tuple[Part, ...]]:
        for qid in self._rows:
            example = self._list(qid)
            yield example.query.parts
            yield from (item.parts for item in example.candidates)

    def _list(self, qid: str) -> Example:
        rows = self._rows[qid]
        return self._kept(qid, lambda: self._read(qid, rows))

    def _read(self, qid: str, rows: Sequence[Row]) -> Example:
        """One list from its records; equal contents of several records stand once."""
        found: dict[Any, tuple[tuple[Part, ...], str, int]] = {}
        for row in rows:
            table, problems = self._tables[row.table], Problems()
            record = table.read(row.offset, row.number)
            fields = Fields(record, table.where(row.number), self._root, problems)
            parsed = self._parse(fields)
            if parsed is None:
                raise table.changed(row.number, *problems.found)
            if row is rows[0]:
                content = fields.dup_id(parsed.query)
                query = make_query(qid, parsed.query, content, content, parsed.instruction)
            for number, parts in enumerate(parsed.candidates):
                dup_id, grade = fields.dup_id(parts), parsed.grades[number]
                key = (row, number) if len(rows) == 1 else dup_id
                _, _, other = found.get(key, (parts, dup_id, -1))
                found[key] = (parts, dup_id, max(grade, other))
        items = tuple(
            make_item(f"{qid}#{number}", parts, dup_id, query.split_id)
            for number, (parts, dup_id, _) in enumerate(found.values())
        )
        grades = tuple(grade for _, _, grade in found.values())
        origins = ("unjudged", "negative", "positive")
        return Example(query, items, grades, tuple(origins[min(grade, 1) + 1] for grade in grades))

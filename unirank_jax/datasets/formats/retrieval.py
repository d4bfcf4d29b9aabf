"""Retrieval layouts: queries, a corpus and judgements by id; BEIR, Parquet tables and M-BEIR.

The candidates of a query are its judged documents or, where a run is given, the best documents of
the run. Then documents that nobody judged have grade 0 (origin "retrieved"), as in trec_eval, and
`missing` holds the grades of relevant documents that the run did not find.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unirank_jax.content import Part
from unirank_jax.datasets.formats.base import FormatDataset, Lazy, Row, fields_line
from unirank_jax.datasets.formats.document import RecordFields
from unirank_jax.datasets.formats.fields import Fields, make_item, make_query
from unirank_jax.datasets.formats.problems import FormatError, Problems
from unirank_jax.datasets.formats.tables import Table
from unirank_jax.datasets.formats.trec import DEPTH, Judgement, Retrieved, read_run
from unirank_jax.datasets.records import SPLITS, Item, Query, RankList, split_of


@dataclass(frozen=True)
class Run:
    """A first stage: the file of its rankings, and how many documents of each are candidates."""

    path: Path
    depth: int = DEPTH


@dataclass(frozen=True)
class Layout:
    """Which files hold what. `judgements` tells problems of its own to what it is given."""

    format: str
    path: Path
    root: Path
    queries: Sequence[Table]
    corpus: Sequence[Table]
    query_fields: RecordFields
    corpus_fields: RecordFields
    judgements: Callable[[Problems], Iterable[Judgement]]
    judgement_files: Mapping[str, Path] = field(default_factory=dict)
    run: Run | None = None


class RetrievalDataset(FormatDataset):
    """Reader of a retrieval layout. Opening it checks every record and every judgement.

    Raises FormatError with all problems found. A query without judgements is in no list; one
    without a relevant document is left out, and `notes` says how many.
    """

    def __init__(self, layout: Layout):
        super().__init__(layout.path, layout.format, [*layout.queries, *layout.corpus])
        self._root, self._run = layout.root, layout.run
        self._query_fields, self._corpus_fields = layout.query_fields, layout.corpus_fields
        problems = Problems()
        count = len(layout.queries)
        self._queries = self._scan(range(count), self._query_fields, problems)
        self._items = self._scan(range(count, len(self._tables)), self._corpus_fields, problems)
        judged = self._judge(layout.judgements(problems), problems)
        rankings: dict[str, list[Retrieved]] | None = None
        if layout.run:
            rankings = self._read_run(layout.run, problems)
        self._files |= layout.judgement_files
        self._lists: dict[str, list[RankList]] = {split: [] for split in SPLITS}
        self._missing: dict[str, dict[str, int]] = {}
        self._make_lists(judged, rankings, problems)
        if not problems.found and not any(self._lists.values()):
            problems.add(
                self.path.name, "qrels", "no query has a relevant document", "add judgements"
            )
        problems.raise_any()
        self._split_items: dict[str, dict[str, None]] = {
            split: dict.fromkeys(did for ranked in lists for did in ranked.dids)
            for split, lists in self._lists.items()
        }

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if self._lists[split])

    def lists(self, split: str) -> Sequence[RankList]:
        return self._of_split(self._lists, split)

    def query(self, qid: str) -> Query:
        fields, parts = self._read(self._queries[qid], self._query_fields)
        instruction = self._query_fields.instruction_of(fields)
        return make_query(qid, parts, fields.dup_id(parts), qid, instruction)

    def item(self, did: str) -> Item:
        fields, parts = self._read(self._items[did], self._corpus_fields)
        return make_item(did, parts, fields.dup_id(parts), did)

    def items_of(self, split: str) -> Sequence[Item]:
        """The candidates of the split's lists: all splits share one corpus."""
        return Lazy(list(self._of_split(self._split_items, split)), self.item)

    def pool(self, split: str) -> Collection[str]:
        self._of_split(self._lists, split)
        return self._items.keys()

    def all_items(self) -> Iterator[Item]:
        return (self.item(did) for did in self._items)

    def missing_items(self, qid: str) -> Mapping[str, int]:
        """Relevant documents of a query that its run did not find, with their grades."""
        return self._missing.get(qid, {})

    def place_of_query(self, qid: str) -> str:
        return self._where(self._queries[qid])

    def place_of_item(self, did: str) -> str:
        return self._where(self._items[did])

    def _contents(self) -> Iterator[tuple[Part, ...]]:
        yield from (self._read(row, self._query_fields)[1] for row in self._queries.values())
        yield from (self._read(row, self._corpus_fields)[1] for row in self._items.values())

    def _settings(self) -> str:
        return f"depth {self._run.depth}" if self._run else ""

    def _scan(
        self, tables: Iterable[int], record_fields: RecordFields, problems: Problems
    ) -> dict[str, Row]:
        """The place of every id; every record is checked."""
        places: dict[str, Row] = {}
        for number in tables:
            table, seen = self._tables[number], Counter[str]()
            for offset, line, record in table.rows(problems):
                seen.update(record.keys())
                fields = Fields(record, table.where(line), self._root, problems)
                identifier = fields.identifier(record_fields.ids)
                parts = record_fields.parts_of(fields)
                record_fields.instruction_of(fields)
                self._note_files(parts)
                if identifier is None:
                    continue
                row = Row(number, offset, line)
                first = places.setdefault(identifier, row)
                if first is not row:
                    told = f"{identifier!r} was used before in {self._where(first)}"
                    fields.problem(record_fields.ids[0], told, "give every record its own id")
            self.understood.append(fields_line(table.name, record_fields.meaning(), seen))
        return places

    def _judge(
        self, judgements: Iterable[Judgement], problems: Problems
    ) -> dict[str, tuple[str, dict[str, int]]]:
        """qid -> (split, {did: grade}); splits that no file names follow from the query's id."""
        judged: dict[str, tuple[str, dict[str, int]]] = {}
        for where, named, qid, did, grade in judgements:
            if qid not in self._queries:
                problems.add(where, "query-id", f"no query {qid!r}", "add it or remove the line")
                continue
            if did not in self._items:
                remedy = "add the document to the corpus or remove the line"
                problems.add(where, "corpus-id", f"no document {did!r}", remedy)
                continue
            split = named or split_of(qid)
            first, grades = judged.setdefault(qid, (split, {}))
            if first != split:
                told = f"{qid!r} is judged in {first} and in {split}"
                problems.add(where, "query-id", told, "judge a query in one split")
            elif did in grades:
                told = f"{did!r} was judged before for query {qid!r}"
                problems.add(where, "corpus-id", told, "judge every document once")
            else:
                grades[did] = grade
        return judged

    def _read_run(self, run: Run, problems: Problems) -> dict[str, list[Retrieved]]:
        name = run.path.name
        if not run.path.is_file():
            raise FormatError([f"{run.path}: file: there is none; correct the path of the run"])
        self._files[name] = run.path
        rankings = read_run(run.path, name, problems, run.depth)
        for qid, ranking in rankings.items():
            for one in ranking:
                where = f"{name}:{one.line}"
                if qid not in self._queries:
                    problems.add(where, "qid", f"no query {qid!r}", "remove its lines")
                    break
                if one.did not in self._items:
                    remedy = "add the document to the corpus or remove the line"
                    problems.add(where, "docid", f"no document {one.did!r}", remedy)
        self.understood.append(
            f"{name}: candidates are the best {run.depth} of each query; "
            "documents that nobody judged have grade 0"
        )
        return rankings

    def _make_lists(
        self,
        judged: Mapping[str, tuple[str, dict[str, int]]],
        rankings: Mapping[str, list[Retrieved]] | None,
        problems: Problems,
    ) -> None:
        covered = {judged[qid][0] for qid in rankings or () if qid in judged}
        missed, without = Counter[str](), Counter[str]()
        for qid, (split, grades) in judged.items():
            if max(grades.values()) < 1:
                without[split] += 1
                continue
            dids = tuple(grades)
            missing: tuple[int, ...] = ()
            if rankings is not None and split in covered:
                if qid not in rankings:
                    told = f"no line for query {qid!r}, which {split} judges"
                    remedy = "rank its documents or remove its judgements"
                    problems.add(self._run_name(), "qid", told, remedy)
                    continue
                dids = tuple(one.did for one in rankings[qid])
                listed = set(dids)
                gone = {did: g for did, g in grades.items() if g > 0 and did not in listed}
                if gone:
                    self._missing[qid] = gone
                missing = tuple(gone.values())
                missed[split] += len(missing)
            listed_grades = tuple(grades.get(did, 0) for did in dids)
            origins = tuple(_origin(grades.get(did)) for did in dids)
            self._lists[split].append(RankList(qid, dids, listed_grades, origins, missing))
        for split, number in sorted(without.items()):
            self.notes.append(f"{split}: {number} queries have no relevant document: left out")
        for split, number in sorted(missed.items()):
            if number:
                told = "relevant documents are not in the run: metrics count them as missed"
                self.notes.append(f"{split}: {number} {told}")
        if rankings is not None:
            for split in sorted({split for split, _ in judged.values()} - covered):
                told = "the run has none of its queries: the judged documents are the candidates"
                self.notes.append(f"{split}: {told}")
        unjudged = len(self._queries) - len(judged)
        if unjudged:
            self.notes.append(f"{unjudged} queries are not judged and in no list")

    def _run_name(self) -> str:
        return self._run.path.name if self._run else ""

    def _read(self, row: Row, record_fields: RecordFields) -> tuple[Fields, tuple[Part, ...]]:
        def make() -> tuple[Fields, tuple[Part, ...]]:
            table, problems = self._tables[row.table], Problems()
            record: dict[str, Any] = table.read(row.offset, row.number)
            fields = Fields(record, table.where(row.number), self._root, problems)
            parts = record_fields.parts_of(fields)
            if problems.found or not parts:
                raise table.changed(row.number, *problems.found)
            return fields, parts

        return self._kept(row, make)


def _origin(grade: int | None) -> str:
    if grade is None:
        return "retrieved"
    return "unjudged" if grade < 0 else "positive" if grade else "negative"

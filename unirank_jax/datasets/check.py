"""What a dataset holds and what is wrong with it: the report behind `unirank data check`.

Every image is decoded once. Problems make the data unusable; warnings name what a person
should look at (the same content in two splits, lists that teach nothing).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from unirank_jax.content import ContentError, ImagePart, Part, modality
from unirank_jax.datasets.dataset import META_NAME, Dataset, DatasetError
from unirank_jax.datasets.formats.base import FormatDataset
from unirank_jax.datasets.formats.problems import FormatError, Problems
from unirank_jax.datasets.formats.registry import TREC_ENDINGS, detect
from unirank_jax.datasets.formats.retrieval import RetrievalDataset
from unirank_jax.datasets.formats.trec import read_qrels, read_run
from unirank_jax.datasets.jsonl import MAX_PROBLEMS_SHOWN, JsonlError
from unirank_jax.datasets.records import Example, dup_id_of
from unirank_jax.images import decode


@dataclass
class SplitReport:
    """Counts of one split: lists, candidates and queries by modality, grades, positives."""

    lists: int = 0
    queries: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    candidates: Counter[str] = field(default_factory=Counter)
    positives: Counter[str] = field(default_factory=Counter)
    grades: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    missing: int = 0

    def add(self, example: Example) -> None:
        """Count one list."""
        self.lists += 1
        self.queries[modality(example.query.parts)] += 1
        self.kinds[f"{example.query.domain}: {example.query.kind}"] += 1
        self.lengths[len(example.candidates)] += 1
        self.missing += len(example.missing)
        for item, grade in zip(example.candidates, example.grades, strict=True):
            self.candidates[item.modality] += 1
            self.grades[grade] += 1
            if grade >= example.query.rel_min:
                self.positives[item.modality] += 1


@dataclass(frozen=True)
class Report:
    """The result of a check; `ok` means that the data can be used."""

    path: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    splits: dict[str, SplitReport]
    understood: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True where there is no problem; warnings do not count."""
        return not self.problems

    def text(self) -> str:
        """The report for a person: problems first, then what was understood."""
        lines = [f"{self.path}: {'usable' if self.ok else 'not usable'}"]
        for title, messages in (("problem", self.problems), ("warning", self.warnings)):
            lines += [f"{title}: {message}" for message in messages[:MAX_PROBLEMS_SHOWN]]
            if len(messages) > MAX_PROBLEMS_SHOWN:
                lines.append(f"... and {len(messages) - MAX_PROBLEMS_SHOWN} more {title}s")
        lines += self.understood
        for split, counts in self.splits.items():
            lines += [
                f"{split}: {counts.lists} lists of {_span(counts.lengths)} candidates",
                f"  queries     {_counts(counts.queries)}",
                f"  kinds       {_counts(counts.kinds)}",
                f"  candidates  {_counts(counts.candidates)}",
                f"  relevant    {_counts(counts.positives)}",
                f"  grades      {_counts(counts.grades)}",
            ]
            if counts.missing:
                lines.append(f"  missing     {counts.missing} relevant candidates on no list")
        return "\n".join(lines)


def check(path: str | Path, *, run: str | Path | None = None, depth: int = 100) -> Report:
    """Read everything at `path` (data in any known form, or a TREC file) and say what it holds.

    `run` and `depth` are those of `Dataset.open`. Never raises for bad data: what is wrong stands
    in the report, with file, line, field and remedy.
    """
    if Path(path).is_file() and Path(path).suffix in TREC_ENDINGS:
        return _check_trec(Path(path))
    understood: list[str] = []
    try:
        understood.append(f"format: {_format_name(Path(path))}")
        dataset = Dataset.open(path, run=run, depth=depth)
    except JsonlError as error:
        return Report(str(path), error.problems, (), {}, tuple(understood))
    except DatasetError as error:
        return Report(str(path), (str(error),), (), {})
    problems: list[str] = []
    warnings: list[str] = []
    shared: Counter[str] = Counter()  # contents of a corpus that two splits share
    if isinstance(dataset, FormatDataset):
        understood += [f"  {line}" for line in dataset.understood]
        warnings += dataset.notes
    splits: dict[str, SplitReport] = {}
    contents: dict[str, str] = {}  # did -> hash of its content, images by their bytes
    first_split: dict[str, str] = {}  # hash of a content or split_id -> split that has it
    told: set[tuple[str, str]] = set()

    def note(key: str, split: str, message: str) -> None:
        other = first_split.setdefault(key, split)
        if other != split and (key, split) not in told:
            told.add((key, split))
            if isinstance(dataset, RetrievalDataset):
                shared[f"candidates of {other} are also candidates of {split}"] += 1
                return
            warnings.append(f"{message} is in {other} and in {split}; give both one split_id")

    for split in dataset.splits:
        counts = splits[split] = SplitReport()
        for index in range(len(dataset.lists(split))):
            example = dataset.example(split, index)
            counts.add(example)
            where = f"{split}: list {example.query.qid!r}"
            places = _Places(dataset, example, where)
            if min(example.grades) >= example.query.rel_min:
                warnings.append(f"{where}: every candidate is relevant; add negatives")
            query = _content_hash(example.query.parts, places.query(), problems)
            note(
                f"split_id {example.query.split_id}", split, f"split_id {example.query.split_id!r}"
            )
            for number, item in enumerate(example.candidates):
                place = places.candidate(number)
                if item.did not in contents:
                    contents[item.did] = _content_hash(item.parts, place, problems)
                content = contents[item.did]
                note(content, split, f"the content of {item.did!r}")
                if content == query and example.grades[number] < example.query.rel_min:
                    warnings.append(f"{place}: is the query itself, graded as not relevant")
    warnings += [f"{count} {told}: they share one corpus" for told, count in shared.items()]
    return Report(str(path), tuple(problems), tuple(warnings), splits, tuple(understood))


@dataclass(frozen=True)
class _Places:
    """Where the contents of a list are, for messages: with file and line where that is known."""

    dataset: Dataset
    example: Example
    where: str

    def query(self) -> str:
        if isinstance(self.dataset, FormatDataset):
            return f"{self.dataset.place_of_query(self.example.query.qid)}: query"
        return f"{self.where}: query"

    def candidate(self, number: int) -> str:
        if isinstance(self.dataset, FormatDataset):
            did = self.example.candidates[number].did
            return f"{self.dataset.place_of_item(did)}: candidate {did!r}"
        return f"{self.where}: candidates[{number}]"


def _format_name(path: Path) -> str:
    if (path / META_NAME).is_file():
        return "ArrayRecord"
    return detect(path) or "JSON lines"


def _check_trec(path: Path) -> Report:
    """A run or qrels file alone: ids, no content."""
    problems = Problems()
    splits: dict[str, SplitReport] = {}
    try:
        first = path.read_bytes()[:4096].split(b"\n")[0].split()
        if len(first) >= 5:
            run = read_run(path, path.name, problems, depth=10**9)
            lines = sum(len(ranking) for ranking in run.values())
            told = f"TREC run: {len(run)} queries, {lines} documents"
        else:
            judged = list(read_qrels(path, path.name, None, problems))
            grades = Counter(one.grade for one in judged)
            queries = len({one.qid for one in judged})
            told = f"TREC qrels: {queries} queries, {len(judged)} judgements ({_counts(grades)})"
    except FormatError as error:
        return Report(str(path), error.problems, (), splits)
    except OSError as error:
        return Report(str(path), (f"{path}: file: cannot be read ({error.strerror})",), (), splits)
    return Report(str(path), tuple(problems.found), (), splits, (f"format: {told}",))


def _content_hash(parts: tuple[Part, ...], place: str, problems: list[str]) -> str:
    contents: list[str | bytes] = []
    for part in parts:
        if not isinstance(part, ImagePart):
            contents.append(part.text)
            continue
        try:
            image = decode(part.source, place + part.place)
        except ContentError as error:
            problems.append(str(error))
            contents.append(f"broken {part.source!r}")
        else:
            contents.append(f"{image.size}".encode() + image.tobytes())
    return dup_id_of(*contents)


def _counts(counter: Counter[str] | Counter[int]) -> str:
    pairs: Iterable[tuple[str | int, int]] = sorted(counter.items())
    return ", ".join(f"{name}: {count}" for name, count in pairs) or "none"


def _span(lengths: Counter[int]) -> str:
    low, high = min(lengths), max(lengths)
    return str(low) if low == high else f"{low} to {high}"

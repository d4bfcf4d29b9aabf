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
from unirank_jax.datasets.dataset import Dataset, DatasetError
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

    def add(self, example: Example) -> None:
        """Count one list."""
        self.lists += 1
        self.queries[modality(example.query.parts)] += 1
        self.kinds[f"{example.query.domain}: {example.query.kind}"] += 1
        self.lengths[len(example.candidates)] += 1
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
        for split, counts in self.splits.items():
            lines += [
                f"{split}: {counts.lists} lists of {_span(counts.lengths)} candidates",
                f"  queries     {_counts(counts.queries)}",
                f"  kinds       {_counts(counts.kinds)}",
                f"  candidates  {_counts(counts.candidates)}",
                f"  relevant    {_counts(counts.positives)}",
                f"  grades      {_counts(counts.grades)}",
            ]
        return "\n".join(lines)


def check(path: str | Path) -> Report:
    """Read everything at `path` (a folder or a .jsonl file) and say what it holds.

    Never raises for bad data: what is wrong stands in the report, with file, line, field and
    remedy where the data is JSONL.
    """
    try:
        dataset = Dataset.open(path)
    except JsonlError as error:
        return Report(str(path), error.problems, (), {})
    except DatasetError as error:
        return Report(str(path), (str(error),), (), {})
    problems: list[str] = []
    warnings: list[str] = []
    splits: dict[str, SplitReport] = {}
    contents: dict[str, str] = {}  # did -> hash of its content, images by their bytes
    first_split: dict[str, str] = {}  # hash of a content or split_id -> split that has it
    told: set[tuple[str, str]] = set()

    def note(key: str, split: str, message: str) -> None:
        other = first_split.setdefault(key, split)
        if other != split and (key, split) not in told:
            told.add((key, split))
            warnings.append(f"{message} is in {other} and in {split}; give both one split_id")

    for split in dataset.splits:
        counts = splits[split] = SplitReport()
        for index in range(len(dataset.lists(split))):
            example = dataset.example(split, index)
            counts.add(example)
            where = f"{split}: list {example.query.qid!r}"
            if min(example.grades) >= example.query.rel_min:
                warnings.append(f"{where}: every candidate is relevant; add negatives")
            query = _content_hash(example.query.parts, f"{where}: query", problems)
            note(
                f"split_id {example.query.split_id}", split, f"split_id {example.query.split_id!r}"
            )
            for number, item in enumerate(example.candidates):
                place = f"{where}: candidates[{number}]"
                if item.did not in contents:
                    contents[item.did] = _content_hash(item.parts, place, problems)
                content = contents[item.did]
                note(content, split, f"the content of {item.did!r}")
                if content == query and example.grades[number] < example.query.rel_min:
                    warnings.append(f"{place}: is the query itself, graded as not relevant")
    return Report(str(path), tuple(problems), tuple(warnings), splits)


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

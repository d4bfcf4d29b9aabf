"""The user's own data: JSON lines beside image files, one ranked list per line.

Every line is checked when the dataset is opened; what is wrong is told as file, line, field,
problem and remedy, many at once. Lines and images are read again when they are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from unirank_jax.content import ImagePart
from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.jsonl_line import ParsedLine, parse_line
from unirank_jax.datasets.records import (
    SPLITS,
    Example,
    Item,
    Query,
    RankList,
    split_of,
)

MAX_PROBLEMS_SHOWN = 20
RECENT_LINES = 64


class JsonlError(DatasetError):
    """Lines that cannot be used; `problems` holds them all, the message the first ones."""

    def __init__(self, problems: Sequence[str]):
        self.problems = tuple(problems)
        shown = list(problems[:MAX_PROBLEMS_SHOWN])
        if len(problems) > len(shown):
            shown.append(f"... and {len(problems) - len(shown)} more problems")
        super().__init__("\n".join(shown))


@dataclass(frozen=True)
class _Place:
    """Where a line lies: file, byte offset, length and number (from 1)."""

    path: Path
    offset: int
    length: int
    number: int


def jsonl_files(path: Path) -> dict[Path, str | None]:
    """The files of a JSONL dataset with their split; None means split by hash of `split_id`.

    A folder holds train.jsonl, valid.jsonl and test.jsonl (at least one), or a single file
    under any other name. Empty where there is no such file.
    """
    if path.is_file():
        return {path: None} if path.suffix == ".jsonl" else {}
    named = {path / f"{split}.jsonl": split for split in SPLITS}
    present: dict[Path, str | None] = {p: split for p, split in named.items() if p.is_file()}
    if present or not path.is_dir():
        return present
    others = sorted(path.glob("*.jsonl"))
    if len(others) > 1:
        raise DatasetError(
            f"{path}: {len(others)} .jsonl files and none is named train.jsonl, valid.jsonl or "
            "test.jsonl; rename them, or give the path of one file"
        )
    return {file: None for file in others}


class JsonlDataset(Dataset):
    """Reader of JSONL data. Opening it checks every line and that every image file exists.

    Raises JsonlError with all problems found. `split_id` is the qid where none is given; an
    item's `dup_id` is made of its texts and image paths (files are not read for it).
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._recent: dict[_Place, ParsedLine] = {}
        self._places: dict[str, list[_Place]] = {split: [] for split in SPLITS}
        self._queries: dict[str, _Place] = {}
        self._items: dict[str, tuple[_Place, int]] = {}
        self._split_items: dict[str, dict[str, None]] = {split: {} for split in SPLITS}
        problems: list[str] = []
        contents: dict[str, tuple[str, str]] = {}
        for place, line, found in read_lines(self.path):
            problems += found
            if line is None:
                continue
            where = f"{place.path.name}:{place.number}"
            qid = line.query.qid
            if qid in self._queries:
                first = self._queries[qid]
                problems.append(
                    f"{where}: qid: {qid!r} was used before in {first.path.name}:{first.number}; "
                    "give every list its own qid"
                )
                continue
            self._queries[qid] = place
            split = self._files[place.path] or split_of(line.query.split_id)
            self._places[split].append(place)
            for number, item in enumerate(line.candidates):
                first_where, content = contents.setdefault(item.did, (where, item.dup_id))
                if content != item.dup_id:
                    problems.append(
                        f"{where}: candidates[{number}].did: {item.did!r} has other content in "
                        f"{first_where}; use one did for one content"
                    )
                self._items.setdefault(item.did, (place, number))
                self._split_items[split].setdefault(item.did)
        if not problems and not self._queries:
            problems.append(f"{self.path}: no list in it; write one JSON object per line")
        if problems:
            raise JsonlError(problems)

    @cached_property
    def _files(self) -> dict[Path, str | None]:
        return jsonl_files(self.path)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the lines and the bytes of all images; computed on first use."""
        digest = hashlib.sha256()
        for path, split in sorted(self._files.items()):
            digest.update(f"{split}\0".encode() + path.read_bytes())
        contents = [self.query(qid).parts for qid in sorted(self._queries)]
        contents += [self.item(did).parts for did in sorted(self._items)]
        for part in chain.from_iterable(contents):
            if isinstance(part, ImagePart):
                digest.update(hashlib.sha256(Path(str(part.source)).read_bytes()).digest())
        return digest.hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if self._places[split])

    def lists(self, split: str) -> Sequence[RankList]:
        return _Lazy(self._of_split(self._places, split), lambda place: self._line(place).ranked)

    def example(self, split: str, index: int) -> Example:
        line = self._line(self._of_split(self._places, split)[index])
        ranked = line.ranked
        return Example(line.query, line.candidates, ranked.grades, ranked.neg_types)

    def query(self, qid: str) -> Query:
        return self._line(self._queries[qid]).query

    def item(self, did: str) -> Item:
        place, number = self._items[did]
        return self._line(place).candidates[number]

    def items_of(self, split: str) -> Sequence[Item]:
        return _Lazy(list(self.pool(split)), self.item)

    def pool(self, split: str) -> Collection[str]:
        return self._of_split(self._split_items, split)

    def _of_split(self, table: dict[str, Any], split: str) -> Any:
        if split not in table:
            raise DatasetError(f"no split {split!r}; there are: {', '.join(SPLITS)}")
        return table[split]

    def _line(self, place: _Place) -> ParsedLine:
        """The parsed line; the last ones are kept, as neighbouring calls ask for the same."""
        line = self._recent.get(place)
        if line is None:
            if len(self._recent) >= RECENT_LINES:
                self._recent.clear()
            line = self._recent[place] = self._read(place)
        return line

    def _read(self, place: _Place) -> ParsedLine:
        with open(place.path, "rb") as file:
            file.seek(place.offset)
            data = file.read(place.length)
        line, problems = parse_line(data, f"{place.path.name}:{place.number}", place.path.parent)
        if line is None:
            raise JsonlError(
                [*problems, f"{place.path} changed while it was in use; open it again"]
            )
        return line


class _Lazy(Sequence[Any]):
    """A sequence made on access from a list of keys."""

    def __init__(self, keys: Sequence[Any], make: Any):
        self._keys, self._make = keys, make

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._make(key) for key in self._keys[index]]
        return self._make(self._keys[index])


def read_lines(path: Path) -> Iterator[tuple[_Place, ParsedLine | None, list[str]]]:
    """All lines of a JSONL dataset with what is wrong with each; blank lines are skipped."""
    for file_path in jsonl_files(path):
        offset = 0
        with open(file_path, "rb") as file:
            for number, data in enumerate(file, start=1):
                place = _Place(file_path, offset, len(data), number)
                offset += len(data)
                if data.strip():
                    where = f"{file_path.name}:{number}"
                    yield place, *parse_line(data, where, file_path.parent)

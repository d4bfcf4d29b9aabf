"""What datasets in other people's formats share: places instead of contents, and a description.

Opening reads every record once and keeps ids and places; records and images are read again when
they are asked for.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unirank_jax.content import ImagePart, Part
from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.formats.problems import FormatError
from unirank_jax.datasets.formats.tables import Table
from unirank_jax.datasets.records import SPLITS, Item

SPLIT_NAMES = {
    "train": "train",
    "dev": "valid",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
}
RECENT = 64


class Row(NamedTuple):
    """Where a record lies: number of the file, offset in it, line or row from 1."""

    table: int
    offset: int
    number: int


class FormatDataset(Dataset):
    """A dataset in somebody else's format; `format`, `understood` and `notes` describe it.

    `understood` says which file and field became what; `notes` name what a person should look at.
    """

    format: str
    understood: list[str]
    notes: list[str]

    def __init__(self, path: Path, format_name: str, tables: Sequence[Table]):
        self.path, self.format = path, format_name
        self.understood, self.notes = [], []
        self._tables = list(tables)
        self._files: dict[str, Path] = {table.name: table.path for table in tables}
        self._image_files = False
        self._recent: dict[Any, Any] = {}

    @abstractmethod
    def _contents(self) -> Iterator[tuple[Part, ...]]:
        """The parts of every query and item that is used, in the order of the files."""

    @abstractmethod
    def all_items(self) -> Iterator[Item]:
        """Every item, those included that are in no list, in stored order."""

    @abstractmethod
    def place_of_query(self, qid: str) -> str:
        """File and line of a query, for messages."""

    @abstractmethod
    def place_of_item(self, did: str) -> str:
        """File and line of an item, for messages."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the bytes of all files, image files included; computed on first use."""
        if "_fingerprint" not in self.__dict__:
            self._fingerprint = self._hash()
        return self._fingerprint

    def _hash(self) -> str:
        digest = hashlib.sha256(f"{self.format}\0{self._settings()}".encode())
        for name, path in sorted(self._files.items()):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + _file_hash(path))
        if self._image_files:
            for parts in self._contents():
                for part in parts:
                    if isinstance(part, ImagePart) and not isinstance(part.source, bytes):
                        digest.update(_file_hash(Path(str(part.source))))
        return digest.hexdigest()

    def _settings(self) -> str:
        return ""

    def _of_split(self, table: Mapping[str, Any], split: str) -> Any:
        if split not in table:
            raise DatasetError(f"no split {split!r}; there are: {', '.join(SPLITS)}")
        return table[split]

    def _where(self, row: Row) -> str:
        return self._tables[row.table].where(row.number)

    def _kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """A parsed record; the last ones are kept, as neighbouring calls ask for the same."""
        found = self._recent.get(key)
        if found is None:
            if len(self._recent) >= RECENT:
                self._recent.clear()
            found = self._recent[key] = make()
        return found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_recent": {}}

    def _note_files(self, parts: Sequence[Part]) -> None:
        if not self._image_files:
            self._image_files = any(
                isinstance(part, ImagePart) and not isinstance(part.source, bytes) for part in parts
            )


class Lazy(Sequence[Any]):
    """A sequence made on access from keys."""

    def __init__(self, keys: Sequence[Any], make: Callable[[Any], Any]):
        self._keys, self._make = keys, make

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._make(key) for key in self._keys[index]]
        return self._make(self._keys[index])


def split_named(name: str) -> str | None:
    """The split that a file or folder name says: dev.tsv, val, test-00000-of-00001.parquet."""
    return SPLIT_NAMES.get(name.partition(".")[0].partition("-0")[0].lower())


def fields_line(name: str, meaning: Mapping[str, str], seen: Counter[str]) -> str:
    """What became of the fields of a file: "corpus.jsonl: _id -> did, ...; ignored: metadata"."""
    used = [f"{field} -> {meaning[field]}" for field in seen if field in meaning]
    ignored = sorted(field for field in seen if field not in meaning)
    more = f"; ignored: {', '.join(ignored)}" if ignored else ""
    return f"{name}: {', '.join(used) or 'nothing'}{more}"


def _file_hash(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while data := file.read(2**20):
                digest.update(data)
    except OSError as error:
        raise FormatError(
            [f"{path}: file: cannot be read ({error.strerror}); open the data again"]
        ) from None
    return digest.digest()

"""Reads the stored form of a dataset: a folder of ArrayRecord files, an index and meta.json.

Reading is random access by row; ids, splits and sizes come from the index and touch no
content. `writer.write_dataset` makes such a folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from unirank_jax.content import ImagePart, Part, TextPart
from unirank_jax.datasets.dataset import META_NAME, Dataset, DatasetError
from unirank_jax.datasets.records import SPLITS, ContentSize, Item, Query, RankList

FORMAT = 1
INDEX_NAME = "index.npz"
READER_OPTIONS = "readahead_buffer_size:0"
ITEM_FIELDS = ("did", "modality", "unit_id", "family", "kind", "split_id", "dup_id")
QUERY_FIELDS = (
    "qid",
    "instruction",
    "domain",
    "kind",
    "unit_id",
    "split_id",
    "dup_id",
    "rel_min",
)
Record = TypeVar("Record")


class ArrayRecordDataset(Dataset):
    """Reader of a folder that `write_dataset` wrote; random access, files opened on first use."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.meta: dict[str, Any] = json.loads((self.path / META_NAME).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{self.path / META_NAME}: {error}; build the dataset again"
            ) from None
        if self.meta.get("format") != FORMAT:
            raise DatasetError(
                f"{self.path}: dataset format {self.meta.get('format')!r}, this version reads "
                f"{FORMAT}; build the dataset again"
            )

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return type(self), (self.path,)

    @property
    def fingerprint(self) -> str:
        return self.meta["content_hash"]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if self.meta["counts"][split]["lists"])

    def lists(self, split: str) -> Sequence[RankList]:
        if split not in SPLITS:
            raise DatasetError(f"no split {split!r}; there are: {', '.join(SPLITS)}")
        return _Rows(self._lists[split], self._rank_list, None)

    def query(self, qid: str) -> Query:
        record = self._queries[self._query_rows[qid]]
        parts = self._parts(record["parts"])
        return Query(parts=parts, **{field: record[field] for field in QUERY_FIELDS})

    def item(self, did: str) -> Item:
        return self._item(self._item_rows[did])

    def items_of(self, split: str) -> Sequence[Item]:
        return _Rows(self._items, lambda record: self._make_item(record), self._rows_of(split))

    def pool(self, split: str) -> Collection[str]:
        return tuple(did.decode() for did in self._index["item_ids"][self._rows_of(split)].tolist())

    def _rows_of(self, split: str) -> np.ndarray:
        if split not in SPLITS:
            raise DatasetError(f"no split {split!r}; there are: {', '.join(SPLITS)}")
        return np.flatnonzero(self._index["item_splits"] == SPLITS.index(split))

    def size(self, did: str) -> ContentSize:
        row = self._item_rows[did]
        start, stop = self._index["image_starts"][row : row + 2]
        sizes = self._index["image_sizes"][start:stop]
        return ContentSize(
            int(self._index["text_characters"][row]),
            tuple((int(height), int(width)) for height, width in sizes),
        )

    @cached_property
    def _index(self) -> dict[str, np.ndarray]:
        with np.load(self.path / INDEX_NAME, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    @cached_property
    def _item_rows(self) -> dict[str, int]:
        return {did.decode(): row for row, did in enumerate(self._index["item_ids"].tolist())}

    @cached_property
    def _query_rows(self) -> dict[str, int]:
        return {qid.decode(): row for row, qid in enumerate(self._index["query_ids"].tolist())}

    @cached_property
    def _items(self) -> _RecordFile:
        return _RecordFile(self.path / "items.array_record")

    @cached_property
    def _queries(self) -> _RecordFile:
        return _RecordFile(self.path / "queries.array_record")

    @cached_property
    def _lists(self) -> dict[str, _RecordFile]:
        return {split: _RecordFile(self.path / f"lists-{split}.array_record") for split in SPLITS}

    def _item(self, row: int) -> Item:
        return self._make_item(self._items[row])

    def _make_item(self, record: dict[str, Any]) -> Item:
        source, licence = self.meta["sources"][record["source"]]
        return Item(
            parts=self._parts(record["parts"]),
            source=source,
            licence=licence,
            **{field: record[field] for field in ITEM_FIELDS},
        )

    def _parts(self, stored: list[Any]) -> tuple[Part, ...]:
        parts: list[Part] = []
        for part in stored:
            if isinstance(part, list):
                row, number = part
                part = self._items[row]["parts"][number]
            parts.append(TextPart(part) if isinstance(part, str) else ImagePart(part))
        return tuple(parts)

    def _rank_list(self, record: dict[str, Any]) -> RankList:
        item_ids = self._index["item_ids"]
        return RankList(
            qid=self._index["query_ids"][record["query"]].decode(),
            dids=tuple(item_ids[row].decode() for row in record["items"]),
            grades=tuple(record["grades"]),
            neg_types=tuple(self.meta["neg_types"][row] for row in record["neg_types"]),
        )


class _RecordFile:
    """Random access to the msgpack records of one ArrayRecord file."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise DatasetError(f"{path}: missing; build the dataset again")
        self._reader = ArrayRecordReader(str(path), READER_OPTIONS)
        self._count = self._reader.num_records()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> dict[str, Any]:
        (data,) = self._reader.read([int(row)])
        return msgpack.unpackb(data, raw=False)


class _Rows(Sequence[Record]):
    """Records of a file as a lazy sequence; `rows` selects some of them."""

    def __init__(
        self,
        file: _RecordFile,
        make: Callable[[dict[str, Any]], Record],
        rows: np.ndarray | None,
    ):
        self._file, self._make, self._rows = file, make, rows

    def __len__(self) -> int:
        return len(self._file) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        return self._make(self._file[position if self._rows is None else self._rows[position]])

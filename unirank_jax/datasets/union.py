"""Several datasets as one: their lists one after the other, their items side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.records import SPLITS, ContentSize, Item, Query, RankList

T = TypeVar("T")


class Union(Dataset):
    """The lists of all parts, in order. An id belongs to one part.

    Raises:
        DatasetError: by what reads an id that two parts have.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        if len(parts) < 2:
            raise DatasetError(f"{len(parts)} datasets to join; give two or more")
        self.parts = tuple(parts)
        self.path = Path(",".join(part.path.name for part in parts))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over those of the parts, in order."""
        return hashlib.sha256("\n".join(p.fingerprint for p in self.parts).encode()).hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(s for s in SPLITS if any(s in part.splits for part in self.parts))

    def lists(self, split: str) -> Sequence[RankList]:
        if split not in self.splits:
            raise DatasetError(
                f"{self.path}: no lists in split {split!r}; choose one of: {', '.join(self.splits)}"
            )
        return Chain([part.lists(split) for part in self.parts if split in part.splits])

    def items_of(self, split: str) -> Sequence[Item]:
        return Chain([part.items_of(split) for part in self.parts])

    def pool(self, split: str) -> Collection[str]:
        return tuple(did for part in self.parts for did in part.pool(split))

    def query(self, qid: str) -> Query:
        return self._only("query", qid)

    def item(self, did: str) -> Item:
        return self._only("item", did)

    def size(self, did: str) -> ContentSize:
        return self._only("size", did)

    def _only(self, read: str, name: str) -> Any:
        """What the only part that knows the id says; KeyError where none does."""
        found = []
        for part in self.parts:
            try:
                found.append((getattr(part, read)(name), part))
            except KeyError:
                continue
        if not found:
            raise KeyError(name)
        if len(found) > 1:
            first, second = (str(part.path) for _, part in found[:2])
            raise DatasetError(f"the id {name!r} is in {first} and in {second}; rename one")
        return found[0][0]


class Chain(Sequence[T]):
    """Sequences one after the other, read where they lie."""

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self.parts = parts
        self.ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        for part, end in zip(self.parts, self.ends, strict=True):
            if place < end:
                return part[place - end + len(part)]
        raise AssertionError("an end holds every place")

"""Keys and values of candidates, computed once: a corpus that every query is scored against.

For prompts with the document first. An item's entry holds what the decoder keeps of it in every
layer, in memory or on disk, as it is or as int8 with one scale per token and head. No JAX here.

A folder holds `store.json` and shards: `shard-N.bin` with the entries one after the other and
`shard-N.json` with where each is. A shard's JSON is written last, so a shard that has one is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from unirank_jax.prompt import Encoded

FORMAT = 1
SHARD = 128  # items of a shard
ABOUT = "store.json"


class StoreError(ValueError):
    """A store that cannot be used: another model's, damaged, or an item that it does not hold."""


@dataclass(frozen=True)
class Shape:
    """What an entry is made of.

    Attributes:
        layers, heads, size: of keys and values in the decoder.
        dtype: of the network's activations, which entries have unless they are int8.
        int8: entries are quantised, symmetrically, with a float32 scale per layer, token and head.
    """

    layers: int
    heads: int
    size: int
    dtype: str
    int8: bool

    def bytes_of(self, tokens: int, width: int) -> int:
        """Bytes of an entry; `width`: bytes of one value of `dtype`."""
        vectors = 2 * self.layers * tokens * self.heads
        return vectors * (self.size + 4 if self.int8 else self.size * width)


@dataclass(frozen=True, eq=False)
class Entry:
    """What is kept of one item: values (2, L, T, K, H), keys first; scales (2, L, T, K) of int8."""

    values: NDArray[Any]
    scales: NDArray[np.float32] | None

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)


@dataclass(frozen=True)
class Note:
    """What is known of an item beside its entry. `kept` is False where it has none; `following`:
    the position that follows it."""

    tokens: int
    following: int
    truncated: bool
    error: str | None
    digest: str
    kept: bool


@dataclass(frozen=True, eq=False)
class Stored:
    """One item of a store; it stands among the candidates of a query like any content."""

    store: Store
    index: int

    def __len__(self) -> int:
        """Tokens of its side of the prompt."""
        return self.store.notes[self.index].tokens

    @property
    def note(self) -> Note:
        return self.store.notes[self.index]

    @property
    def entry(self) -> Entry:
        found = self.store.entries[self.index]
        assert found is not None, "intake asks for what is kept only"
        return found


class Store(Sequence[Stored]):
    """Items of a corpus with what the model keeps of them. Made by `Reranker.index`.

    Attributes:
        model: a fingerprint of weights and prompt, which scoring compares with its own.
        items: the contents as they were given; None in a store that was opened from a folder.
    """

    def __init__(self, model: str, shape: Shape, items: Sequence[Any] | None) -> None:
        self.model, self.shape, self.items = model, shape, items
        self.notes: list[Note] = []
        self.entries: list[Entry | None] = []

    def __len__(self) -> int:
        return len(self.notes)

    @overload
    def __getitem__(self, index: int) -> Stored: ...
    @overload
    def __getitem__(self, index: slice) -> list[Stored]: ...
    def __getitem__(self, index: int | slice) -> Stored | list[Stored]:
        places = range(len(self))[index]
        return Stored(self, places) if isinstance(places, int) else [self[i] for i in places]

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return sum(entry.nbytes for entry in self.entries if entry is not None)

    @property
    def kept(self) -> int:
        """Items that have an entry."""
        return sum(entry is not None for entry in self.entries)

    @property
    def errors(self) -> dict[int, str]:
        """Items that could not be encoded, and why."""
        return {i: note.error for i, note in enumerate(self.notes) if note.error is not None}

    def add(self, notes: Sequence[Note], entries: Sequence[Entry | None]) -> None:
        """The next items."""
        self.notes += notes
        self.entries += entries

    @staticmethod
    def open(folder: str | os.PathLike[str], dtype: np.dtype[Any]) -> Store:
        """A store that `write_shard` made; entries are read from disk when they are used.

        dtype: the numpy dtype of the name in the folder's shape.

        Raises:
            StoreError: no store, another format, or shards that are missing or cut.
        """
        path = Path(folder)
        about = read_about(path)
        if about is None:
            raise StoreError(f"{path}: no {ABOUT}; make it with Reranker.index(.., folder=..)")
        store = Store(about["model"], Shape(**about["shape"]), None)
        for number in range(-(-about["count"] // SHARD)):
            notes = read_notes(path, number)
            if notes is None:
                raise StoreError(
                    f"{path}: shard {number} is missing; index the same items into it again"
                )
            store.add(notes, list(_read_entries(path, number, notes, store.shape, dtype)))
        return store


def quantised(values: NDArray[Any]) -> Entry:
    """An entry as int8: values (2, L, T, K, H) are rounded to 255 steps of each head's largest."""
    wide = values.astype(np.float32)
    scales = np.maximum(np.abs(wide).max(-1), np.finfo(np.float32).tiny) / np.float32(127)
    return Entry(np.rint(wide / scales[..., None]).astype(np.int8), scales)


def digest(item: Encoded) -> str:
    """What an entry depends on beside the model: tokens and pictures."""
    found = hashlib.sha256(item.tokens.tobytes())
    for image in item.images:
        found.update(image.digest)
    return found.hexdigest()[:32]


# Files --------------------------------------------------------------------------------------------


def describe(folder: Path, model: str, shape: Shape, count: int) -> None:
    """Begin a store in a folder, or go on with the same one.

    Raises:
        StoreError: the folder holds a store of another model, kind or number of items.
    """
    about = {"format": FORMAT, "model": model, "shape": asdict(shape), "count": count}
    there = read_about(folder)
    if there is None:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / ABOUT, json.dumps(about, indent=1).encode() + b"\n")
        return
    changed = [name for name in about if there.get(name) != about[name]]
    if changed:
        raise StoreError(
            f"{folder}: it holds another store ({', '.join(changed)} differ); choose another folder"
        )


def read_about(folder: Path) -> dict[str, Any] | None:
    """store.json; None where there is none.

    Raises:
        StoreError: another format.
    """
    path = folder / ABOUT
    if not path.is_file():
        return None
    try:
        about = json.loads(path.read_text("utf-8"))
        told = about["format"]
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{path}: not the description of a store; index again") from None
    if told != FORMAT:
        raise StoreError(f"{path}: format {told!r}, this package reads {FORMAT}; index again")
    return about


def read_notes(folder: Path, number: int) -> list[Note] | None:
    """What a shard holds; None where it is not whole."""
    path = folder / f"shard-{number:05d}.json"
    if not path.is_file():
        return None
    try:
        return [Note(**one) for one in json.loads(path.read_text("utf-8"))]
    except (ValueError, TypeError):
        raise StoreError(f"{path}: not the notes of a shard; remove it and index again") from None


def write_shard(
    folder: Path, number: int, notes: Sequence[Note], entries: Sequence[Entry | None]
) -> None:
    """A shard, whole or not at all."""
    path = folder / f"shard-{number:05d}.bin"
    arrays = (a for e in entries if e is not None for a in (e.values, e.scales) if a is not None)
    _write(path, (np.ascontiguousarray(array).view(np.uint8).data for array in arrays))
    text = json.dumps([asdict(note) for note in notes])
    _write(path.with_suffix(".json"), text.encode())


def _read_entries(
    folder: Path, number: int, notes: Sequence[Note], shape: Shape, dtype: np.dtype[Any]
) -> Iterator[Entry | None]:
    path = folder / f"shard-{number:05d}.bin"
    needed = sum(shape.bytes_of(note.tokens, dtype.itemsize) for note in notes if note.kept)
    size = path.stat().st_size if path.is_file() else -1
    if size != needed:
        raise StoreError(f"{path}: {size} bytes instead of {needed}; remove it and index again")
    data = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    at = 0

    def take(kind: np.dtype[Any], sizes: tuple[int, ...]) -> NDArray[Any]:
        nonlocal at
        start, at = at, at + kind.itemsize * int(np.prod(sizes))
        return data[start:at].view(kind).reshape(sizes)

    for note in notes:
        if not note.kept:
            yield None
            continue
        sizes = (2, shape.layers, note.tokens, shape.heads, shape.size)
        values = take(np.dtype(np.int8) if shape.int8 else dtype, sizes)
        scales = take(np.dtype(np.float32), sizes[:-1]) if shape.int8 else None
        yield Entry(values, scales)


def _write(path: Path, data: bytes | Iterable[Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        chunks: Iterable[Any] = [data] if isinstance(data, bytes) else data
        for chunk in chunks:
            file.write(chunk)
    os.replace(temporary, path)

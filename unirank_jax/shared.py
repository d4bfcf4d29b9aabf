"""Prefixes that are at hand when the rows after them are scored: just computed, or from a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unirank_jax.store import Entry, Shape, Stored
from unirank_jax.text import Cache


class Shared(NamedTuple):
    """A computed prefix, and the position that follows each of its sequences."""

    cache: Cache
    starts: list[int]

    @property
    def size(self) -> tuple[int, int]:
        """Sequences and tokens of each, padding included."""
        _, count, length, _, _ = self.cache.stages[0][0].shape
        return count, length

    def first(self, length: int) -> Shared:
        """The first sequence alone, with room for as many tokens, which hold all of it."""
        stages = tuple((k[:, :1, :length], v[:, :1, :length]) for k, v in self.cache.stages)
        one = Shared(Cache(stages, self.cache.lengths[:1]), self.starts[:1])
        return Shared(one.padded(1, length), one.starts)

    def padded(self, count: int, length: int) -> Cache:
        """The cache with room for as many sequences of as many tokens, no fewer than it has."""
        if self.size == (count, length):
            return self.cache
        more = (count - self.size[0], length - self.size[1])
        pad = ((0, 0), (0, more[0]), (0, more[1]), (0, 0), (0, 0))
        stages = tuple((jnp.pad(k, pad), jnp.pad(v, pad)) for k, v in self.cache.stages)
        return Cache(stages, jnp.pad(self.cache.lengths, (0, more[0])))


class Kept(NamedTuple):
    """Items of stores, read when they are used."""

    items: Sequence[Stored]
    depths: Sequence[int]  # layers of each stage that has some

    @property
    def size(self) -> tuple[int, int]:
        """Sequences and tokens of the longest."""
        return len(self.items), max(map(len, self.items))

    @property
    def starts(self) -> list[int]:
        """The position that follows each item."""
        return [item.note.following for item in self.items]

    def padded(self, count: int, length: int) -> Cache:
        """Their keys and values with room for as many sequences of as many tokens."""
        entries = [item.entry for item in self.items]
        shape = self.items[0].store.shape
        joined, scales = _joined(entries, shape, count, length)
        lengths = np.zeros(count, np.int32)
        lengths[: len(entries)] = [entry.values.shape[2] for entry in entries]
        values: Any = joined if scales is None else _widened(joined, scales, shape.dtype)
        ends = list(accumulate(self.depths))
        stages = tuple(
            (values[0, end - depth : end], values[1, end - depth : end])
            for depth, end in zip(self.depths, ends, strict=True)
        )
        return Cache(stages, jnp.asarray(lengths))


def entries_of(cache: Cache, lengths: Sequence[int]) -> Iterator[np.ndarray]:
    """Keys and values (2, L, T, K, H) of each sequence of a cache, without its padding."""
    keys = np.concatenate([np.asarray(k) for k, _ in cache.stages])  # (L, Q, Tq, K, H)
    values = np.concatenate([np.asarray(v) for _, v in cache.stages])
    for at, length in enumerate(lengths):
        yield np.stack([keys[:, at, :length], values[:, at, :length]])


def _joined(
    entries: Sequence[Entry], shape: Shape, count: int, length: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """(2, L, count, length, K, H) and, of int8, the scales (2, L, count, length, K)."""
    sizes = (2, shape.layers, count, length, shape.heads, shape.size)
    values = np.empty(sizes, entries[0].values.dtype)
    scales = np.empty(sizes[:-1], np.float32) if shape.int8 else None
    for at, entry in enumerate(entries):
        tokens = entry.values.shape[2]
        values[:, :, at, :tokens], values[:, :, at, tokens:] = entry.values, 0
        if scales is not None:
            scales[:, :, at, :tokens], scales[:, :, at, tokens:] = entry.scales, 0
    values[:, :, len(entries) :] = 0
    if scales is not None:
        scales[:, :, len(entries) :] = 0
    return values, scales


@partial(jax.jit, static_argnums=2)
def _widened(values: jax.Array, scales: jax.Array, dtype: str) -> jax.Array:
    return (values.astype(jnp.float32) * scales[..., None]).astype(dtype)

"""Visual features that were computed once: a cache in host memory with a budget of bytes.

The key is the digest of the resized patches and their grid (images.Patches), so it covers the
content, the decoder's choices and the pixel budget; a cache belongs to one set of weights. The
least recently used pictures go first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unirank_jax.vision import Features


@dataclass
class CacheStatistics:
    """What happened since the cache was made."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    bytes: int = 0


@dataclass(frozen=True, eq=False)
class Promise:
    """Features on their way from a device, and where each picture's are in them."""

    features: Any  # merged (F, D), DeepStack (n, F, D)
    places: dict[bytes, tuple[int, int]]


class FeatureCache:
    """digest -> Features of one picture: merged (m, D), DeepStack (n, m, D), numpy.

    `budget_bytes` = 0 keeps nothing.
    """

    def __init__(self, budget_bytes: int) -> None:
        if budget_bytes < 0:
            raise ValueError(f"cache_bytes is {budget_bytes}; give 0 (no cache) or more")
        self.budget_bytes = budget_bytes
        self.statistics = CacheStatistics()
        self._found: OrderedDict[bytes, Features] = OrderedDict()
        self._promised: dict[bytes, Promise] = {}

    def tokens(self, digest: bytes) -> int:
        """Visual tokens of a picture that is at hand or on its way; 0 where it is neither."""
        if digest in self._found:
            return len(self._found[digest].merged)
        promise = self._promised.get(digest)
        return 0 if promise is None else promise.places[digest][1]

    def get(self, digest: bytes) -> Features:
        """The features of a picture for which `tokens` is not 0; waits where they are on their way.

        Raises:
            KeyError: there are none.
        """
        if digest in self._promised:
            self._keep(self._promised[digest])
        self._found.move_to_end(digest)
        self.statistics.hits += 1
        return self._found[digest]

    def promise(self, features: Any, places: dict[bytes, tuple[int, int]]) -> Promise:
        """Features that a device is computing: digest -> (first row, tokens) in them."""
        self.statistics.misses += len(places)
        promise = Promise(features, places)
        if self.budget_bytes:
            self._promised |= dict.fromkeys(places, promise)
        return promise

    def settle(self, promise: Promise) -> None:
        """Wait for a promise, keep what it brings, and drop what then exceeds the budget."""
        if any(self._promised.get(digest) is promise for digest in promise.places):
            self._keep(promise)
        while self.statistics.bytes > self.budget_bytes:
            _, dropped = self._found.popitem(last=False)
            self.statistics.bytes -= _size(dropped)
            self.statistics.evictions += 1

    def _keep(self, promise: Promise) -> None:
        merged, deepstack = (np.asarray(array) for array in promise.features)
        for digest, (first, count) in promise.places.items():
            self._promised.pop(digest, None)
            rows = slice(first, first + count)
            one = Features(merged[rows].copy(), deepstack[:, rows].copy())
            if digest not in self._found:
                self.statistics.bytes += _size(one)
            self._found[digest] = one


def table(found: Sequence[Features], like: Features, rows: int) -> Features:
    """Features of several pictures one after the other, padded to `rows` rows.

    `like`: shapes (.., D), (n, .., D) and dtypes, for the case that there is none.
    """
    merged = np.zeros((rows, like.merged.shape[-1]), like.merged.dtype)
    deepstack = np.zeros((len(like.deepstack), *merged.shape), like.deepstack.dtype)
    start = 0
    for one in found:
        end = start + len(one.merged)
        merged[start:end], deepstack[:, start:end] = one.merged, one.deepstack
        start = end
    return Features(merged, deepstack)


def _size(one: Features) -> int:
    return one.merged.nbytes + one.deepstack.nbytes

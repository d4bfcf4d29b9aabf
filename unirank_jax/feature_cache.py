"""Visual features that were computed once: in host memory with a budget of bytes, and on disk.

The key is the digest of the resized patches and their grid (images.Patches), so it covers the
content, the decoder's choices and the pixel budget; a cache belongs to one set of weights. The
least recently used pictures go first; a folder, if there is one, keeps all.
"""

from __future__ import annotations

import logging
import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from unirank_jax.vision import Features

logger = logging.getLogger(__name__)


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

    Args:
        budget_bytes: of host memory; 0 keeps nothing there.
        folder: of one set of weights and one dtype, where every picture's features are written;
            None: nowhere.
    """

    def __init__(self, budget_bytes: int, folder: Path | None = None) -> None:
        if budget_bytes < 0:
            raise ValueError(f"cache_bytes is {budget_bytes}; give 0 (no cache) or more")
        self.budget_bytes, self.folder = budget_bytes, folder
        self.statistics = CacheStatistics()
        self._found: OrderedDict[bytes, Features] = OrderedDict()
        self._promised: dict[bytes, Promise] = {}

    def tokens(self, digest: bytes) -> int:
        """Visual tokens of a picture that is at hand or on its way; 0 where it is neither."""
        promise = self._promised.get(digest)
        if promise is not None:
            return promise.places[digest][1]
        if digest not in self._found and (stored := self._read(digest)) is not None:
            self._put(digest, stored)
        return len(self._found[digest].merged) if digest in self._found else 0

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

    def touch(self, digest: bytes) -> None:
        """Count a use of a picture for which `tokens` is not 0, without waiting for it."""
        self.statistics.hits += 1
        if digest in self._found:
            self._found.move_to_end(digest)

    def promise(self, features: Any, places: dict[bytes, tuple[int, int]]) -> Promise:
        """Features that a device is computing: digest -> (first row, tokens) in them."""
        self.statistics.misses += len(places)
        promise = Promise(features, places)
        if self.budget_bytes or self.folder:
            self._promised |= dict.fromkeys(places, promise)
        return promise

    def settle(self, promises: Iterable[Promise]) -> None:
        """Wait for promises, keep what they bring, and drop what then exceeds the budget."""
        for promise in promises:
            if any(self._promised.get(digest) is promise for digest in promise.places):
                self._keep(promise)
        while self.statistics.bytes > self.budget_bytes:
            _, dropped = self._found.popitem(last=False)
            self.statistics.bytes -= _size(dropped)
            self.statistics.evictions += 1

    def forget(self) -> None:
        """Drop what is in memory; what a folder holds stays."""
        self._found.clear()
        self._promised.clear()
        self.statistics.bytes = 0

    def _keep(self, promise: Promise) -> None:
        merged, deepstack = (np.asarray(array) for array in promise.features)
        for digest, (first, count) in promise.places.items():
            self._promised.pop(digest, None)
            rows = slice(first, first + count)
            one = Features(merged[rows].copy(), deepstack[:, rows].copy())
            self._put(digest, one)
            self._write(digest, one)

    def _put(self, digest: bytes, one: Features) -> None:
        if digest not in self._found:
            self.statistics.bytes += _size(one)
        self._found[digest] = one

    def _path(self, digest: bytes) -> Path:
        assert self.folder is not None
        name = digest.hex()
        return self.folder / name[:2] / f"{name}.npz"

    def _read(self, digest: bytes) -> Features | None:
        """Features on disk; None where there are none that can be read."""
        if self.folder is None or not (path := self._path(digest)).is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                kind = jnp.dtype(str(stored["dtype"]))
                return Features(stored["merged"].view(kind), stored["deepstack"].view(kind))
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            logger.warning("%s cannot be read (%s); it is computed again", path, error)
            return None

    def _write(self, digest: bytes, one: Features) -> None:
        if self.folder is None:
            return
        path = self._path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        kind = one.merged.dtype.name
        with open(temporary, "wb") as file:
            np.savez(
                file,
                merged=one.merged.view(np.uint8),  # numpy knows no bfloat16 of its own
                deepstack=one.deepstack.view(np.uint8),
                dtype=np.array(kind),
            )
        os.replace(temporary, path)


def table(found: Sequence[Features], like: Features, rows: int) -> Features:
    """Features of several pictures one after the other, padded to `rows` rows.

    `like`: shapes (.., D), (n, .., D) and dtypes, for the case that there is none.
    """
    merged = np.empty((rows, like.merged.shape[-1]), like.merged.dtype)
    deepstack = np.empty((len(like.deepstack), *merged.shape), like.deepstack.dtype)
    start = 0
    for one in found:
        end = start + len(one.merged)
        merged[start:end], deepstack[:, start:end] = one.merged, one.deepstack
        start = end
    merged[start:], deepstack[:, start:] = 0, 0
    return Features(merged, deepstack)


def _size(one: Features) -> int:
    return one.merged.nbytes + one.deepstack.nbytes

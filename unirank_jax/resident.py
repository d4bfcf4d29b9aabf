"""Visual features on the device, so that what is asked for again does not travel from the host.

One table of rows with a budget of bytes. A program gets the rows of its pictures, gathered by a
small program of their own, so the table's size is no part of what is compiled. The least recently
used pictures make room for new ones; feature_cache.py holds them in host memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from unirank_jax.buckets import rung
from unirank_jax.feature_cache import table
from unirank_jax.vision import Features


class Resident:
    """digest -> rows of the table.

    Args:
        budget_bytes: of the device's memory, taken when the first picture comes.
        like: shapes (.., D), (n, .., D) and dtypes of features.
        device: where they are.
    """

    def __init__(self, budget_bytes: int, like: Features, device: jax.Device) -> None:
        self.like, self.device = like, device
        row = like.merged.shape[-1] * like.merged.dtype.itemsize * (1 + len(like.deepstack))
        self.capacity = budget_bytes // row
        self._rows: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._free: list[int] = list(range(self.capacity))
        self._table: Features | None = None

    def take(
        self,
        pictures: Sequence[tuple[bytes, int]],
        find: Callable[[bytes], Features],
        rows: int,
    ) -> Features | None:
        """Features of pictures (digest, tokens) one after another, padded to `rows` rows of no
        meaning; None where they are more than the table holds.

        find: the features of a picture that is not on the device yet.
        """
        if not pictures or sum(count for _, count in pictures) > self.capacity:
            return None
        missing = []
        for digest, _ in pictures:  # none of them may make room for another
            if digest in self._rows:
                self._rows.move_to_end(digest)
            else:
                missing.append(digest)
        if missing:
            found = [find(digest) for digest in missing]
            sizes = [len(one.merged) for one in found]
            ends = np.cumsum(sizes).tolist()
            places = {
                digest: (end - size, size)
                for digest, end, size in zip(missing, ends, sizes, strict=True)
            }
            self.put(table(found, self.like, rung(ends[-1], 64, 2)), places)
        index = np.zeros(rows, np.int32)
        used = np.concatenate([self._rows[digest] for digest, _ in pictures])
        index[: len(used)] = used
        return _gather(self._table, index)

    def put(self, features: Any, places: Mapping[bytes, tuple[int, int]]) -> None:
        """Keep pictures of features (F, D), (n, F, D): digest -> (first row, tokens) in them."""
        for digest, (_, count) in places.items():
            if digest not in self._rows and count <= self.capacity:
                self._rows[digest] = self._room(count)
        target = np.full(features.merged.shape[0], self.capacity, np.int32)  # there: left out
        for digest, (first, count) in places.items():
            if digest in self._rows:  # it may have made room for a later one
                target[first : first + count] = self._rows[digest]
        if self._table is None:
            depth, dtype = len(self.like.deepstack), self.like.merged.dtype
            size = (self.capacity, self.like.merged.shape[-1])
            self._table = Features(
                jnp.zeros(size, dtype, device=self.device),
                jnp.zeros((depth, *size), dtype, device=self.device),
            )
        self._table = _scatter(self._table, features, target)

    def _room(self, count: int) -> np.ndarray:
        while len(self._free) < count:
            _, rows = self._rows.popitem(last=False)
            self._free.extend(rows.tolist())
        rows = np.array(self._free[-count:], np.int32)
        del self._free[-count:]
        return rows


def resident(budget_bytes: int, like: Features, mesh: Mesh | None) -> Resident | None:
    """On one accelerator, where there is a budget; a CPU's memory is the host's."""
    device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
    alone = mesh is None or mesh.size == 1
    if not budget_bytes or not alone or device.platform == "cpu":
        return None
    return Resident(budget_bytes, like, device)


@jax.jit
def _gather(features: Features, index: Any) -> Features:
    return Features(features.merged[index], features.deepstack[:, index])


@partial(jax.jit, donate_argnums=0)
def _scatter(whole: Features, new: Features, target: Any) -> Features:
    return Features(
        whole.merged.at[target].set(new.merged, mode="drop"),
        whole.deepstack.at[:, target].set(new.deepstack, mode="drop"),
    )

"""What the dispatcher of attention and its backends say to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Backend = Literal["auto", "xla", "splash", "cudnn"]


class PrefixKV(NamedTuple):
    """Keys and values of the prefixes of one layer, and which one each row continues.

    Without `prefix_of` there is one prefix for all rows, or each row has its own: row b continues
    prefix b.
    """

    k: Array  # (Q, Tq, K, H)
    v: Array  # (Q, Tq, K, H)
    lengths: Array  # (Q,) int32
    prefix_of: Array | None  # (B,) int32; None where Q = 1 or Q = B


class Request(NamedTuple):
    """What a backend needs to know to accept or refuse: static, without the numbers."""

    platform: str  # "cpu", "gpu", "tpu"
    generation: float  # compute capability of an NVIDIA GPU, 0 for all other devices
    partitioned: bool  # the compiler spreads the program over devices, no shard_map around it
    divides: bool  # a partitioned one's mesh is known, and its tensor axis divides the heads
    dtypes: frozenset[str]  # of queries, keys and values, those of the prefixes too
    head_dim: int
    queries: int  # T


def joined(
    k: Array, v: Array, key_lengths: Array | None, prefixes: Sequence[PrefixKV]
) -> tuple[Array, Array, Array]:
    """Keys and values of every row behind those of its prefixes, and which may be read.

    k and v (B, S, K, H) -> keys and values (B, P + S, K, H), readable (B, P + S) bool.
    """
    rows, span = k.shape[:2]
    parts = []
    for prefix in prefixes:
        valid = jnp.arange(prefix.k.shape[1]) < prefix.lengths[:, None]  # (Q, Tq)
        parts.append([_by_row(x, prefix.prefix_of, rows) for x in (prefix.k, prefix.v, valid)])
    lengths = jnp.full(rows, span) if key_lengths is None else key_lengths
    parts.append([k, v, jnp.arange(span) < lengths[:, None]])
    keys, values, readable = (jnp.concatenate(some, axis=1) for some in zip(*parts, strict=True))
    return keys, values, readable


def _by_row(x: Array, prefix_of: Array | None, rows: int) -> Array:
    """(Q, ...) of prefixes -> (B, ...) of the rows that continue them."""
    if prefix_of is not None:
        return x[prefix_of]
    return x if x.shape[0] == rows else jnp.broadcast_to(x, (rows, *x.shape[1:]))

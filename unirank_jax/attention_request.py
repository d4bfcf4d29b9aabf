"""What the dispatcher of attention and its backends say to each other."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax

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
    dtypes: frozenset[str]  # of queries, keys and values, those of the prefixes too
    head_dim: int
    queries: int  # T
    keys: int  # S, without the prefixes
    prefixes: int
    devices: int = 1  # that share the program

"""The one place where attention is computed.

`attend` takes the structure of the mask (causal, key lengths, a shared prefix), never a dense mask,
so that a backend can either honour it or refuse it. Scores and softmax are float32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
MASKED = -1e30  # finite, so that a row of padding gives a mean instead of NaN


class PrefixKV(NamedTuple):
    """Keys and values of the shared prefixes of one layer, and which prefix each row continues."""

    k: Array  # (Q, Tq, K, H)
    v: Array  # (Q, Tq, K, H)
    lengths: Array  # (Q,) int32
    prefix_of: Array  # (B,) int32


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    key_lengths: Array | None = None,
    prefix: PrefixKV | None = None,
) -> Array:
    """Grouped-query attention: q (B, T, N, H), k and v (B, T, K, H) -> (B, T, N, H).

    causal: token t reads keys <= t of its own row. key_lengths (B,): keys past it are padding.
    prefix: every token also reads the valid keys of its row's prefix.
    """
    rows, length, heads, size = q.shape
    groups = k.shape[2]
    mask = jnp.ones((1, 1, 1, length, length), bool)
    if causal:
        mask = jnp.tril(mask)
    if key_lengths is not None:
        mask = mask & (jnp.arange(length) < key_lengths[:, None])[:, None, None, None]
    if prefix is not None:
        k = jnp.concatenate([prefix.k[prefix.prefix_of], k], axis=1)
        v = jnp.concatenate([prefix.v[prefix.prefix_of], v], axis=1)
        span = prefix.k.shape[1]
        seen = jnp.arange(span) < prefix.lengths[prefix.prefix_of][:, None]  # (B, Tq)
        seen = jnp.broadcast_to(seen[:, None, None, None], (rows, 1, 1, length, span))
        mask = jnp.concatenate([seen, jnp.broadcast_to(mask, (rows, 1, 1, length, length))], -1)
    q = q.reshape(rows, length, groups, heads // groups, size)
    scores = jnp.einsum("btkgh,bskh->bkgts", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask, scores * size**-0.5, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgts,bskh->btkgh", weights, v)
    return out.reshape(rows, length, heads, size)

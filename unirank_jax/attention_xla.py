"""Attention in plain XLA, on every platform: scores in memory, the reference of the others."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unirank_jax.attention_request import PrefixKV

Array = jax.Array
MASKED = -1e30  # finite, so that a row of padding gives a mean instead of NaN


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    key_lengths: Array | None = None,
    prefixes: Sequence[PrefixKV] = (),
) -> Array:
    """As `attention.attend`; it honours every request."""
    rows, length, heads, size = q.shape
    groups, span = k.shape[2], k.shape[1]
    q = q.reshape(rows, length, groups, heads // groups, size)
    mask = jnp.ones((1, 1, 1, length, span), bool)
    if causal:
        mask = jnp.tril(mask)
    if key_lengths is not None:
        mask = mask & (jnp.arange(span) < key_lengths[:, None])[:, None, None, None]
    parts = [_masked(q, k, mask)]
    values = [v]
    for prefix in prefixes:
        parts.append(_prefix_scores(q, prefix))
        values.append(prefix.v if prefix.prefix_of is None else prefix.v[prefix.prefix_of])
    weights = jax.nn.softmax(jnp.concatenate(parts, axis=-1), axis=-1).astype(v.dtype)
    out = jnp.zeros((), v.dtype)
    start = 0
    for part, value in zip(parts, values, strict=True):
        some = weights[..., start : start + part.shape[-1]]
        out = out + _mix(some, value)
        start += part.shape[-1]
    return out.reshape(rows, length, heads, size)


def _prefix_scores(q: Array, prefix: PrefixKV) -> Array:
    """(B, K, G, T, Tq) float32; the only prefix of all rows is read in place, without copies."""
    seen = jnp.arange(prefix.k.shape[1]) < prefix.lengths[:, None]  # (Q, Tq)
    if prefix.prefix_of is None and prefix.k.shape[0] == 1:
        scores = jnp.einsum("btkgh,skh->bkgts", q, prefix.k[0], preferred_element_type=jnp.float32)
        return jnp.where(seen[0], scores * q.shape[-1] ** -0.5, MASKED)
    own, seen = (x if prefix.prefix_of is None else x[prefix.prefix_of] for x in (prefix.k, seen))
    return _masked(q, own, seen[:, None, None, None])


def _masked(q: Array, k: Array, mask: Array) -> Array:
    scores = jnp.einsum("btkgh,bskh->bkgts", q, k, preferred_element_type=jnp.float32)
    return jnp.where(mask, scores * q.shape[-1] ** -0.5, MASKED)


def _mix(weights: Array, values: Array) -> Array:
    """weights (B, K, G, T, S), values (B or 1, S, K, H) -> (B, T, K, G, H)."""
    if values.shape[0] == 1 and weights.shape[0] > 1:
        return jnp.einsum("bkgts,skh->btkgh", weights, values[0])
    return jnp.einsum("bkgts,bskh->btkgh", weights, values)

"""Attention in plain XLA, on every platform: scores in memory, the reference of the others.

Keys of the row itself and of its prefixes are not joined: each part has its own scores, and one
maximum and one sum are taken over all of them (but for long rows, where they cost little beside
the scores: `attend_in_pieces`). The backward pass is written out, since that of a
softmax goes over the scores, which are most of the memory, twice as often. On a CPU scores are made
in parts that its cache holds: written to memory and read back, they would cost more than the
products.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

from unirank_jax.attention_request import PrefixKV, joined

Array = jax.Array
IN_CACHE = 1 << 22  # bytes of scores at a time
LONG = 2  # times as many bytes make a row long
LEAST = 16  # queries at a time of a long row
MASKED = -1e30  # finite, so that a row of padding gives a mean instead of NaN
# Subscripts: rows b, heads of the keys k, queries of each g, tokens t, keys s, features h. The only
# prefix of several rows has no b, and is read in place.
OWN, SHARED = "bskh", "skh"


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
    mask = jnp.ones((1, 1, 1, length, span), bool)
    if causal:
        mask = jnp.tril(mask)
    if key_lengths is not None:
        mask = mask & (jnp.arange(span) < key_lengths[:, None])[:, None, None, None]
    keys, values, masks = [k], [v], [mask]
    for prefix in prefixes:
        seen = jnp.arange(prefix.k.shape[1]) < prefix.lengths[:, None]  # (Q, Tq)
        own = [prefix.k, prefix.v, seen[:, None, None, None]]
        if prefix.prefix_of is not None:
            own = [x[prefix.prefix_of] for x in own]
        elif prefix.k.shape[0] == 1 < rows:
            own[:2] = prefix.k[0], prefix.v[0]
        for some, part in zip((keys, values, masks), own, strict=True):
            some.append(part)
    q = q.reshape(rows, length, groups, heads // groups, size)
    out = _mixed(q.transpose(0, 2, 3, 1, 4), keys, values, masks)  # (B, K, G, T, H)
    return out.transpose(0, 3, 1, 2, 4).reshape(rows, length, heads, size)


def attend_in_parts(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    key_lengths: Array | None = None,
    prefixes: Sequence[PrefixKV] = (),
) -> Array:
    """As `attend`, for a CPU: as many rows at a time as have IN_CACHE bytes of scores, long ones in
    pieces. Gradients keep what `attend` keeps."""
    rows, length, heads, _ = q.shape
    keys = k.shape[1] + sum(prefix.k.shape[1] for prefix in prefixes)
    scores = 4 * heads * length * keys  # bytes of a row
    if scores > LONG * IN_CACHE:
        return attend_in_pieces(q, k, v, causal=causal, key_lengths=key_lengths, prefixes=prefixes)
    fitting = rows if rows * scores <= IN_CACHE else max(IN_CACHE // scores, 1)
    some = next((n for n in range(fitting, 0, -1) if rows % n == 0), rows)
    if some == rows:
        return attend(q, k, v, causal=causal, key_lengths=key_lengths, prefixes=prefixes)

    def parted(tree: Any) -> Any:  # (B, ...) -> (B / some, some, ...)
        return jax.tree.map(lambda x: x.reshape(rows // some, some, *x.shape[1:]), tree)

    # Of a prefix goes with the rows what has an entry for each; the rest stays whole.
    each = [prefix.prefix_of is None and prefix.k.shape[0] == rows for prefix in prefixes]
    moving = [
        prefix if own else prefix.prefix_of for own, prefix in zip(each, prefixes, strict=True)
    ]

    def of_part(part: tuple[Any, ...]) -> Array:
        q, k, v, key_lengths, moved = part
        own = [
            one if with_rows else prefix._replace(prefix_of=one)
            for with_rows, prefix, one in zip(each, prefixes, moved, strict=True)
        ]
        return attend(q, k, v, causal=causal, key_lengths=key_lengths, prefixes=own)

    out = jax.lax.map(of_part, parted((q, k, v, key_lengths, moving)))
    return out.reshape(q.shape)


def attend_in_pieces(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    key_lengths: Array | None = None,
    prefixes: Sequence[PrefixKV] = (),
) -> Array:
    """As `attend`, for long rows: the heads of one key head at a time, and of them so many queries
    that scores have IN_CACHE bytes. Gradients keep what `attend` keeps."""
    rows, length, heads, size = q.shape
    groups, span = k.shape[2], k.shape[1]
    k, v, readable = joined(k, v, key_lengths, prefixes)  # (B, P + S, ...)
    own = jnp.arange(k.shape[1]) - (k.shape[1] - span)  # a key's place in its row; < 0: a prefix
    piece = min(_fitting(4 * heads // groups * k.shape[1]), length)
    count = -(-length // piece)
    q = jnp.pad(q, [(0, 0), (0, count * piece - length), (0, 0), (0, 0)])
    q = q.reshape(rows, count, piece, groups, heads // groups, size).transpose(0, 3, 1, 4, 2, 5)

    def of_head(head: tuple[Array, ...]) -> Array:
        queries, keys, values, seen = head  # (n, G, piece, H), (S, H), (S, H), (S,)

        def of_piece(part: tuple[Array, Array]) -> Array:
            some, first = part
            mask = jnp.broadcast_to(seen, (piece, seen.shape[0]))
            if causal:
                mask = mask & (own <= first + jnp.arange(piece)[:, None])
            parts = [keys[None, :, None]], [values[None, :, None]], [mask[None, None, None]]
            return _mixed(some[None, None], *parts)[0, 0]

        return jax.lax.map(of_piece, (queries, piece * jnp.arange(count)))

    def each(x: Array) -> Array:  # (B, K, ...) -> (B * K, ...)
        return x.reshape(-1, *x.shape[2:])

    seen = jnp.repeat(readable, groups, axis=0)
    pairs = (each(x.swapaxes(1, 2)) for x in (k, v))
    out = jax.lax.map(of_head, (each(q), *pairs, seen))  # (B * K, n, G, piece, H)
    out = out.reshape(rows, groups, count, heads // groups, piece, size)
    return out.transpose(0, 2, 4, 1, 3, 5).reshape(rows, -1, heads, size)[:, :length]


def _fitting(size: int) -> int:
    """How many queries of so many bytes of scores each: a power of two."""
    return max(LEAST, 1 << max(IN_CACHE // size, 1).bit_length() - 1)


@jax.custom_vjp
def _mixed(q: Array, keys: list[Array], values: list[Array], masks: list[Array]) -> Array:
    """softmax(q k / sqrt(H)) v over all parts: q (B, K, G, T, H), a part (B or none, S, K, H)."""
    return _forward(q, keys, values, masks)[0]


def _forward(
    q: Array, keys: list[Array], values: list[Array], masks: list[Array]
) -> tuple[Array, Any]:
    scores = [
        jnp.where(mask, _product("bkgth,{}->bkgts", q, k) * _scale(q), MASKED)
        for k, mask in zip(keys, masks, strict=True)
    ]
    top = reduce(jnp.maximum, [part.max(-1, keepdims=True) for part in scores])
    powers = [jnp.exp(part - top).astype(q.dtype) for part in scores]
    total = reduce(jnp.add, [part.sum(-1, keepdims=True, dtype=jnp.float32) for part in powers])
    mixed = [_product("bkgts,{}->bkgth", e, v) for e, v in zip(powers, values, strict=True)]
    out = (reduce(jnp.add, mixed) / total).astype(q.dtype)
    return out, (q, keys, values, powers, total, out)


def _backward(kept: Any, slope: Array) -> tuple[Array, list[Array], list[Array], None]:
    """With p = powers / total: dv = p' g, ds = p (g v' - g . out) / sqrt(H), dq = ds k, dk = ds' q
    (FlashAttention, arXiv 2205.14135, appendix B.2). 1 / total goes to g, which is small."""
    q, keys, values, powers, total, out = kept
    slope = slope.astype(jnp.float32) / total
    mean = (slope * out).sum(-1, keepdims=True)
    slope = slope.astype(q.dtype)
    turns = [  # ds of each part
        (e * (_product("bkgth,{}->bkgts", slope, v) - mean) * _scale(q)).astype(q.dtype)
        for e, v in zip(powers, values, strict=True)
    ]
    pulls = [_product("bkgts,{}->bkgth", ds, k) for ds, k in zip(turns, keys, strict=True)]
    to_keys = [_onto(ds, q, k) for ds, k in zip(turns, keys, strict=True)]
    to_values = [_onto(e, slope, v) for e, v in zip(powers, values, strict=True)]
    return reduce(jnp.add, pulls).astype(q.dtype), to_keys, to_values, None


_mixed.defvjp(_forward, _backward)


def _scale(q: Array) -> float:
    return q.shape[-1] ** -0.5


def _product(form: str, x: Array, part: Array) -> Array:
    """x with the keys or values of a part, in float32."""
    form = form.format(OWN if part.ndim == 4 else SHARED)
    return jnp.einsum(form, x, part, preferred_element_type=jnp.float32)


def _onto(weights: Array, x: Array, like: Array) -> Array:
    """The slope of a part's keys or values: `weights` (B, K, G, T, S) on `x` (B, K, G, T, H)."""
    form = f"bkgts,bkgth->{OWN if like.ndim == 4 else SHARED}"
    whole = jnp.einsum(form, weights, x, preferred_element_type=jnp.float32)
    return whole.astype(like.dtype)

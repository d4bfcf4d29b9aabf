"""Attention by the splash kernel of JAX on TPU: no scores in memory, forward and backward.

The keys of a row are laid out as its prefixes, then its own keys, then padding. Causality is the
kernel's static mask, a rectangle whose diagonal starts after the prefixes, so blocks above it are
skipped. What depends on the numbers (valid lengths) is a segment id: 1 where a key may be read.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from unirank_jax.attention_request import PrefixKV, Request, joined

Array = jax.Array
LANES = 128
BLOCKS = (512, 256, LANES)  # lengths are padded to a multiple of one
SLACK = 1.125  # a larger block may cost so much more than padding to the lanes
LARGEST_HEAD = 512  # compiles with the largest blocks in float32; any smaller size does, too


def refusal(request: Request) -> str | None:
    """What the kernel cannot honour of the request and the remedy; None where it can."""
    if request.platform != "tpu":
        return f"the platform {request.platform}; run on TPU, or choose auto or xla"
    if len(request.dtypes) > 1 or not request.dtypes <= {"float32", "bfloat16"}:
        found = ", ".join(sorted(request.dtypes))
        return f"the dtypes {found}; use float32 or bfloat16 throughout, or choose auto or xla"
    if request.head_dim > LARGEST_HEAD:
        return f"head dim {request.head_dim}; use at most {LARGEST_HEAD}, or choose auto or xla"
    return None


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    key_lengths: Array | None = None,
    prefixes: Sequence[PrefixKV] = (),
    interpret: bool = False,
) -> Array:
    """As `attention.attend`; interpret: run the kernel's program without a TPU. Unreadable: 0."""
    rows, length, heads, size = q.shape
    span, groups = k.shape[1], k.shape[2]
    k, v, readable = joined(k, v, key_lengths, prefixes)  # (B, P + S, ...)
    offset = k.shape[1] - span

    scaled = (q.astype(jnp.float32) * size**-0.5).astype(q.dtype)  # the kernel does not scale
    blocks = (block(length), block(k.shape[1]))
    scaled = _pad(scaled, blocks[0])
    k, v, segments = (_pad(x, blocks[1]) for x in (k, v, readable.astype(jnp.int32)))
    shape = (scaled.shape[1], k.shape[1])
    mask = splash.CausalMask(shape, offset=offset) if causal else splash.FullMask(shape)
    many = splash.MultiHeadMask([mask] * (heads // groups))
    kernel = splash.make_splash_mqa_single_device(
        many, block_sizes=_sizes(*blocks), interpret=interpret
    )
    scaled = scaled.reshape(rows, shape[0], groups, heads // groups, size)
    ids = splash.SegmentIds(jnp.ones((rows, shape[0]), jnp.int32), segments)
    per_group = jax.vmap(kernel, in_axes=(0, 0, 0, None))
    out = jax.vmap(per_group)(
        scaled.transpose(0, 2, 3, 1, 4), k.swapaxes(1, 2), v.swapaxes(1, 2), ids
    )  # (B, K, G, T, H)
    out = out.transpose(0, 3, 1, 2, 4).reshape(rows, shape[0], heads, size)[:, :length]
    some = readable.any(1)[:, None]  # with nothing to read the kernel's gradient is not a mean's
    if causal:
        first = jnp.cumsum(readable[:, offset:], 1)[:, :length] > 0
        some = readable[:, :offset].any(1)[:, None] | first
    return jnp.where(some[..., None, None], out, 0)


def block(length: int) -> int:
    """The largest block whose padding of this length is hardly more than that of the lanes: a step
    of the kernel costs much the same whatever its size."""
    least = _up(length, LANES)
    return next(size for size in BLOCKS if _up(length, size) <= SLACK * least)


def _up(length: int, size: int) -> int:
    return -(-length // size) * size


def _pad(x: Array, size: int) -> Array:
    """x (B, T, ...) with zeros up to a multiple of the block along T."""
    widths = [(0, 0)] * x.ndim
    widths[1] = (0, -x.shape[1] % size)
    return jnp.pad(x, widths)


def _sizes(bq: int, bk: int) -> splash.BlockSizes:
    """The backward pass in two kernels."""
    return splash.BlockSizes(
        block_q=bq,
        block_kv=bk,
        block_kv_compute=bk,
        block_q_dkv=bq,
        block_kv_dkv=bk,
        block_kv_dkv_compute=bk,
        block_q_dq=bq,
        block_kv_dq=bk,
    )

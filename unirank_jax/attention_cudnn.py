"""Attention by cuDNN's fused kernel on NVIDIA GPUs, through `jax.nn.dot_product_attention`.

The kernel knows two masks: keys up to a length, and a diagonal that starts in the first corner. So
a row that continues prefixes becomes one run: the valid keys of its prefixes, then its own, without
gaps; its queries stand where their own keys do, and what would be the prefixes' queries is zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from unirank_jax.attention_request import PrefixKV, Request, joined

Array = jax.Array
LARGEST_HEAD = 128  # what every supported GPU generation takes
OLDEST = 8.0  # compute capability that has the kernel


def refusal(request: Request) -> str | None:
    """What cuDNN cannot honour of the request and the remedy; None where it can."""
    if request.platform != "gpu":
        return f"the platform {request.platform}; run on an NVIDIA GPU, or choose auto or xla"
    if request.generation < OLDEST:
        return (
            f"a GPU of compute capability {request.generation}; run on an NVIDIA GPU of "
            f"{OLDEST} or later, or choose auto or xla"
        )
    if len(request.dtypes) > 1 or not request.dtypes <= {"bfloat16", "float16"}:
        found = ", ".join(sorted(request.dtypes))
        return f"the dtypes {found}; compute in bfloat16 or float16, or choose auto or xla"
    if request.head_dim % 8 or request.head_dim > LARGEST_HEAD:
        limit = f"a multiple of 8 up to {LARGEST_HEAD}"
        return f"head dim {request.head_dim}; use {limit}, or choose auto or xla"
    return None


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    key_lengths: Array | None = None,
    prefixes: Sequence[PrefixKV] = (),
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Array:
    """As `attention.attend`. A row with nothing to read reads its first key, so it is finite.

    implementation: "xla" computes the same call of the same arrays without cuDNN, for tests.
    """
    length, span = q.shape[1], k.shape[1]
    readable = None
    if prefixes:
        k, v, readable = joined(k, v, key_lengths, prefixes)  # (B, P + S, ...)
        order = jnp.argsort(~readable, axis=1)[..., None, None]  # stable: what is read comes first
        k, v = (jnp.take_along_axis(x, order, axis=1) for x in (k, v))
    lengths = key_lengths
    if readable is not None and (key_lengths is not None or not causal):
        lengths = readable.sum(1)  # else the diagonal hides what is padding
    if lengths is not None:
        lengths = jnp.maximum(lengths, 1).astype(jnp.int32)
    places = None
    if causal and readable is not None:
        before = readable[:, :-span].sum(1)[:, None]  # (B, 1) keys of the prefixes
        source = jnp.arange(k.shape[1] - span + length) - before
        wide = jnp.take_along_axis(q, jnp.maximum(source, 0)[..., None, None], axis=1, mode="clip")
        q = jnp.where((source >= 0)[..., None, None], wide, 0)  # (B, P + T, N, H)
        places = (before + jnp.arange(length))[..., None, None]
    if k.shape[1] % 2 and lengths is None and not causal:
        lengths = jnp.full(k.shape[0], k.shape[1], jnp.int32)  # the key that is added is none
    out = jax.nn.dot_product_attention(
        _even(q),
        _even(k),
        _even(v),
        scale=q.shape[-1] ** -0.5,
        is_causal=causal,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    return out[:, :length] if places is None else jnp.take_along_axis(out, places, axis=1)


def _even(x: Array) -> Array:
    """(B, T, ...), one longer where T is odd: the kernel's backward pass wants even lengths."""
    return jnp.pad(x, [(0, 0), (0, 1), (0, 0), (0, 0)]) if x.shape[1] % 2 else x

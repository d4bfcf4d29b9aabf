"""Attention by cuDNN's fused kernel on NVIDIA GPUs, through `jax.nn.dot_product_attention`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unirank_jax.attention_request import PrefixKV, Request

Array = jax.Array
LARGEST_HEAD = 128  # what every supported GPU generation takes


def refusal(request: Request) -> str | None:
    """What cuDNN cannot honour of the request and the remedy; None where it can."""
    if request.platform != "gpu":
        return f"the platform {request.platform}; run on an NVIDIA GPU, or choose auto or xla"
    if request.prefixes:
        return f"{request.prefixes} shared prefixes; give whole rows, or choose auto or xla"
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
) -> Array:
    """As `attention.attend`, without prefixes. A row without keys reads its first, so is finite."""
    if prefixes:
        raise ValueError("cuDNN attention takes no shared prefixes; choose auto or xla")
    lengths = None if key_lengths is None else jnp.maximum(key_lengths, 1).astype(jnp.int32)
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=q.shape[-1] ** -0.5,
        is_causal=causal,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )

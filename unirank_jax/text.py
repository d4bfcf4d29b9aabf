"""The decoder of Qwen3-VL: interleaved M-RoPE, query/key norms, grouped heads, DeepStack input.

Layers are scanned in two stages: those that add a DeepStack feature after themselves, then the
rest. With `collect` the keys and values of every layer come back, to be shared as a prefix.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unirank_jax.attention import PrefixKV, attend
from unirank_jax.batch import Rows
from unirank_jax.config import ModelConfig, TextConfig
from unirank_jax.layers import Compute, Dense, RMSNorm, inverse_frequencies, rotate, stack
from unirank_jax.vision import Features

Array = jax.Array


class Embedding(nnx.Module):
    """A (V, D) table: token embedding, or the untied head."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs) -> None:
        shape = (config.vocabulary, config.width)
        table = jax.random.normal(rngs.params(), shape, jnp.float32) * 0.02
        self.table = nnx.Param(table, axes=("vocab", "embed"))


class Cache(NamedTuple):
    """Keys and values of all layers of some sequences, per stage: (L, Q, Tq, K, H)."""

    stages: tuple[tuple[Array, Array], ...]
    lengths: Array  # (Q,)


def rope_axes(config: TextConfig) -> np.ndarray:
    """Which position axis (0 time, 1 height, 2 width) turns each rotary pair: (H / 2,) int.

    Qwen3-VL interleaves: pairs 1, 4, 7.. are height and 2, 5, 8.. width while their section lasts.
    """
    axes = np.zeros(config.head_dim // 2, np.int32)
    for axis in (1, 2):
        axes[axis : 3 * config.rope_sections[axis] : 3] = axis
    return axes


class TextLayer(nnx.Module):
    """Pre-norm decoder layer: attention with normed queries and keys, then a gated MLP."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs) -> None:
        width, size, mlp, eps = config.width, config.head_dim, config.mlp_width, config.norm_eps
        own, shared = config.heads * size, config.kv_heads * size
        gain = (2 * config.depth) ** -0.5
        self.norm1 = RMSNorm(width, None, eps)
        self.q = Dense(rngs, (width, own), ("embed", "heads"), bias=False)
        self.k = Dense(rngs, (width, shared), ("embed", "kv_heads"), bias=False)
        self.v = Dense(rngs, (width, shared), ("embed", "kv_heads"), bias=False)
        self.o = Dense(rngs, (own, width), ("heads", "embed"), bias=False, gain=gain)
        self.q_norm = RMSNorm(size, None, eps)
        self.k_norm = RMSNorm(size, None, eps)
        self.norm2 = RMSNorm(width, None, eps)
        self.gate = Dense(rngs, (width, mlp), ("embed", "mlp"), bias=False)
        self.up = Dense(rngs, (width, mlp), ("embed", "mlp"), bias=False)
        self.down = Dense(rngs, (mlp, width), ("mlp", "embed"), bias=False, gain=gain)
        self.heads, self.kv_heads = config.heads, config.kv_heads

    def __call__(
        self, x: Array, angles: Array, prefix: PrefixKV | None
    ) -> tuple[Array, tuple[Array, Array]]:
        rows, length, _ = x.shape
        y = self.norm1(x)
        q = self.q_norm(self.q(y).reshape(rows, length, self.heads, -1))
        k = self.k_norm(self.k(y).reshape(rows, length, self.kv_heads, -1))
        v = self.v(y).reshape(rows, length, self.kv_heads, -1)
        q, k = rotate(q, angles), rotate(k, angles)
        mixed = attend(q, k, v, causal=True, prefix=prefix)
        x = x + self.o(mixed.reshape(rows, length, -1))
        y = self.norm2(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y)), (k, v)


class Text(nnx.Module):
    """Embedding, layers and final norm; the head is the model's."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.config, self.depths = config.text, config.text_stage_depths
        self.embed = Embedding(config.text, rngs)
        for s, depth in enumerate(self.depths):
            stage = stack(lambda r: TextLayer(config.text, r), rngs, depth)
            setattr(self, f"stage_{s}", stage)
        self.norm = RMSNorm(config.text.width, None, config.text.norm_eps)

    def __call__(
        self,
        rows: Rows,
        features: Features | None,
        compute: Compute,
        prefix: Cache | None = None,
        prefix_index: Array | None = None,
        collect: bool = False,
    ) -> tuple[Array, Cache | None]:
        """One shard's rows (B, T) -> hidden (B, T, D) before the final norm, and their cache."""
        dtype = jnp.dtype(compute.dtype)
        x = self.embed.table[...][rows.tokens].astype(dtype)  # (B, T, D)
        visual = (rows.image_index >= 0)[..., None]  # (B, T, 1)
        source = jnp.maximum(rows.image_index, 0)
        if features is not None:
            x = jnp.where(visual, features.merged[source].astype(dtype), x)
        positions = jnp.take(rows.positions, rope_axes(self.config), axis=1)  # (B, H / 2, T)
        rates = inverse_frequencies(self.config.rope_theta, self.config.head_dim)
        angles = positions.swapaxes(1, 2).astype(jnp.float32) * rates  # (B, T, H / 2)

        def step(x: Array, layer_input: tuple) -> tuple[Array, tuple[Array, Array] | None]:
            layer, slab, kv = layer_input
            shared = None
            if kv is not None:
                assert prefix is not None and prefix_index is not None
                shared = PrefixKV(kv[0], kv[1], prefix.lengths, prefix_index)
            x, own = layer(x, angles, shared)
            if slab is not None:  # DeepStack: visual tokens only
                x = x + jnp.where(visual, slab[source], 0).astype(x.dtype)
            return x, own if collect else None

        caches = []
        for s in range(len(self.depths)):
            has_slab = s == 0 and features is not None and features.deepstack.shape[0] > 0
            slab = features.deepstack if has_slab and features is not None else None
            kv = None if prefix is None else prefix.stages[s]
            x, own = compute.scan(step, x, (getattr(self, f"stage_{s}"), slab, kv))
            caches.append(own)
        return x, Cache(tuple(caches), rows.lengths) if collect else None

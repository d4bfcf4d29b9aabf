"""The decoder of Qwen3-VL: interleaved M-RoPE, query/key norms, grouped heads, DeepStack input.

Layers are scanned in stages: those that add a DeepStack feature after themselves, then the rest.
The last layer stands alone: where one token of a row is read, only that one passes through it.
With `collect` the keys and values of every layer come back, to be shared as a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unirank_jax.attention import PrefixKV, attend
from unirank_jax.batch import Blocks, Rows
from unirank_jax.cells import Cells
from unirank_jax.config import ModelConfig, TextConfig
from unirank_jax.layers import Compute, Dense, RMSNorm, inverse_frequencies, rotate, stack
from unirank_jax.vision import Features

Array = jax.Array
Read = Literal["all", "last", "none"]  # whose final hidden state is wanted: of a row's tokens


class Embedding(nnx.Module):
    """A (V, D) table: token embedding, or the untied head."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs) -> None:
        shape = (config.vocabulary, config.width)
        table = jax.random.normal(rngs.params(), shape, jnp.float32) * 0.02
        self.table = nnx.Param(table, axes=("vocab", "embed"))


class Cache(NamedTuple):
    """Keys and values of all layers of some sequences, per stage that has layers."""

    stages: tuple[tuple[Array, Array], ...]  # (L, Q, Tq, K, H) each
    lengths: Array  # (Q,)


class Prefix(NamedTuple):
    """Sequences that rows continue, and which one each row does."""

    cache: Cache
    rows: Array | None  # (B,) int32; None where there is one for all rows, or one for each


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
        self,
        x: Array,
        angles: Array,
        cells: Cells,
        prefixes: Sequence[PrefixKV],
        read: Read,
        compute: Compute,
    ) -> tuple[Array, tuple[Array, Array]]:
        """x (N, D) -> (N, D), or (B, D) where only the last tokens are read; keys and values
        (N, K, H) each."""
        y = self.norm1(x)
        k = rotate(self.k_norm(_split(self.k(y), self.kv_heads)), angles)  # (N, K, H)
        v = _split(self.v(y), self.kv_heads)
        if read == "none":
            return x, (k, v)
        if read == "last":
            x, y, angles = cells.last(x), cells.last(y), cells.last(angles)  # (B, ...)
        q = rotate(self.q_norm(_split(self.q(y), self.heads)), angles)
        mixed = self._attend(q, k, v, cells, prefixes, read == "last", compute)
        x = x + self.o(mixed.reshape(x.shape[0], -1))
        y = self.norm2(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y)), (k, v)

    def _attend(
        self,
        q: Array,
        k: Array,
        v: Array,
        cells: Cells,
        prefixes: Sequence[PrefixKV],
        alone: bool,  # q is of the last tokens, (B, N, H)
        compute: Compute,
    ) -> Array:
        """Each block of rows in its own width; (N, heads, H), or (B, heads, H) of last tokens."""
        queries = cells.part(q[:, None]) if alone else cells.split(q)
        lengths = cells.part(cells.lengths)
        before = [cells.part_prefix(prefix) for prefix in prefixes]
        mixed = [
            attend(
                *block,
                causal=not alone,
                key_lengths=lengths[at] if alone else None,
                prefixes=[parts[at] for parts in before],
                backend=compute.attention,
                mesh=compute.mesh,
            )
            for at, block in enumerate(zip(queries, cells.split(k), cells.split(v), strict=True))
        ]
        return cells.parted(mixed)[:, 0] if alone else cells.join(mixed)


def _split(x: Array, heads: int) -> Array:
    return x.reshape(x.shape[0], heads, -1)


class Text(nnx.Module):
    """Embedding, layers and final norm; the head is the model's."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.config, self.depths = config.text, config.text_stage_depths
        self.embed = Embedding(config.text, rngs)
        for s, depth in enumerate(self.depths):
            if depth:
                setattr(self, f"stage_{s}", stack(lambda r: TextLayer(config.text, r), rngs, depth))
        self.norm = RMSNorm(config.text.width, None, config.text.norm_eps)

    def __call__(
        self,
        rows: Rows,
        features: Features | None,
        compute: Compute,
        prefixes: Sequence[Prefix] = (),
        take: Array | None = None,
        blocks: Blocks | None = None,
        collect: bool = False,
        read: Read = "all",
    ) -> tuple[Array | None, Cache | None]:
        """One shard's rows (B, T): hidden states before the final norm, and the rows' cache.

        Args:
            features: what `rows.image_index` points into; None without images.
            prefixes: what the rows continue, outermost first.
            take: (N,) places of the tokens, to skip the padding (see cells.py); None or N = 0:
                all cells are computed.
            blocks: of the rows, in which attention pads them; None: one.
            collect: return the cache.
            read: hidden states of "all" tokens (B, T, D), of the "last" of each row (B, D), "none".
        """
        dtype = jnp.dtype(compute.dtype)
        nothing = jnp.zeros(0, jnp.int32)
        take = nothing if take is None else take
        cells = Cells(rows.lengths, rows.tokens.shape[-1], take, blocks)
        x = self.embed.table[...][cells.flat(rows.tokens)].astype(dtype)  # (N, D)
        image_index = cells.flat(rows.image_index)
        visual, source = (image_index >= 0)[:, None], jnp.maximum(image_index, 0)
        if features is not None:
            x = jnp.where(visual, features.merged[source].astype(dtype), x)
        positions = jnp.take(rows.positions, rope_axes(self.config), axis=1)  # (B, H / 2, T)
        rates = inverse_frequencies(self.config.rope_theta, self.config.head_dim)
        angles = cells.flat(positions.swapaxes(1, 2)).astype(jnp.float32) * rates  # (N, H / 2)

        def run(x: Array, inputs: tuple, read: Read) -> tuple[Array, tuple[Array, Array] | None]:
            layer, slab, pairs = inputs
            shared = [
                PrefixKV(k, v, prefix.cache.lengths, prefix.rows)
                for (k, v), prefix in zip(pairs, prefixes, strict=True)
            ]
            x, own = layer(x, angles, cells, shared, read, compute)
            if slab is not None and read == "all":  # DeepStack: visual tokens only
                x = x + jnp.where(visual, slab[source], 0).astype(x.dtype)
            return x, (cells.rows(own[0]), cells.rows(own[1])) if collect else None

        caches: list[Any] = []  # (k, v) of each stage, or None
        first = 0
        for s, depth in enumerate(self.depths):
            if not depth:
                continue
            slab = None
            if features is not None and first < features.deepstack.shape[0]:
                slab = features.deepstack[first : first + depth]
            pairs = tuple(prefix.cache.stages[len(caches)] for prefix in prefixes)
            inputs = (getattr(self, f"stage_{s}"), slab, pairs)
            if s < len(self.depths) - 1:
                x, own = compute.scan(lambda x, some: run(x, some, "all"), x, inputs)
            else:  # one layer
                last = jax.tree.map(lambda stacked: stacked[0], inputs)
                x, own = compute.wrap(lambda x, some: run(x, some, read))(x, last)
                own = None if own is None else (own[0][None], own[1][None])
            caches.append(own)
            first += depth
        hidden = {"all": cells.rows, "last": lambda x: x, "none": lambda x: None}[read](x)
        return hidden, Cache(tuple(caches), rows.lengths) if collect else None

"""Qwen3-VL with a label-token head: a batch in, one float32 logit per candidate out.

`score` is the whole forward pass: tower once, query prefixes once, candidates against the keys and
values of their prefix, then z_yes - z_no in float32 at the last token of each candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from unirank_jax.batch import Batch, Blocks, Images, Rows
from unirank_jax.config import ModelConfig
from unirank_jax.layers import Compute
from unirank_jax.sharding import BATCH_AXES, shard_count
from unirank_jax.text import Cache, Embedding, Prefix, Text
from unirank_jax.vision import Features, Vision

Array = jax.Array


class Model(nnx.Module):
    """The network. `head` exists only when the embedding is not tied."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.vision = Vision(config.vision, rngs)
        self.text = Text(config, rngs)
        self.head = None if config.text.tied else Embedding(config.text, rngs)

    @staticmethod
    def abstract(config: ModelConfig) -> Model:
        """The model with shapes instead of arrays."""
        return nnx.eval_shape(lambda: Model(config, nnx.Rngs(0)))

    @property
    def head_table(self) -> Array:
        """(V, D): the rows that map a final hidden state to vocabulary logits."""
        return (self.text.embed if self.head is None else self.head).table[...]


def encode_images(model: Model, images: Images, compute: Compute) -> Features | None:
    """Features of one shard's images (I, P, ...); None for a text-only bucket."""
    return model.vision(images, compute) if images.patches.shape[0] else None


def label_states(
    model: Model, shard: Batch, compute: Compute, read: Literal["last", "all"] = "last"
) -> Array:
    """Final-norm hidden state at the last token of every row of one shard: (B, D); with "all" at
    every token: (B, T, D)."""
    features = encode_images(model, shard.images, compute)
    prefixes = []
    if shard.outer.tokens.shape[-1]:
        prefixes.append(Prefix(prefix_cache(model, shard.outer, None, compute), None))
    if shard.prefix.tokens.shape[-1]:
        cache = prefix_cache(model, shard.prefix, features, compute, prefixes, shard.prefix_take)
        each = bool(prefixes) and shard.prefix_index.shape[0] == shard.prefix.lengths.shape[0]
        prefixes.append(Prefix(cache, None if each else shard.prefix_index))
    return candidate_states(
        model, shard.rows, shard.take, shard.blocks, features, prefixes, compute, read
    )


def prefix_cache(
    model: Model,
    rows: Rows,
    features: Features | None,
    compute: Compute,
    prefixes: Sequence[Prefix] = (),
    take: Array | None = None,
) -> Cache:
    """Keys and values of sequences that others will continue; `take` as in `Batch`."""
    _, cache = model.text(rows, features, compute, prefixes, take, collect=True, read="none")
    assert cache is not None
    return cache


def candidate_states(
    model: Model,
    rows: Rows,
    take: Array,
    blocks: Blocks,
    features: Features | None,
    prefixes: Sequence[Prefix],
    compute: Compute,
    read: Literal["last", "all"] = "last",
) -> Array:
    """Final-norm hidden state at the last token of every row: (B, D); with "all" at every one."""
    hidden, _ = model.text(rows, features, compute, prefixes, take, blocks, read=read)
    assert hidden is not None
    return model.text.norm(hidden)


def label_logits(model: Model, states: Array, label_ids: tuple[int, int]) -> Array:
    """z_yes - z_no for states (..., D): float32 (...). Gradients reach both rows of the head."""
    yes, no = (model.head_table[i].astype(jnp.float32) for i in label_ids)
    return jnp.einsum("...d,d->...", states.astype(jnp.float32), yes - no)


def embeddings(cache: Cache, tokens: Array) -> Array:
    """Unit vectors for comparing contents alone: the mean of the last layer's values.

    cache: of rows (B, T); tokens (B, T) bool: those of the content -> (B, K * H) float32. Values,
    because a label token reads just such means there: what a dual encoder learns hands over.
    """
    values = cache.stages[-1][1][-1].astype(jnp.float32)  # (B, T, K, H)
    weights = tokens / jnp.maximum(tokens.sum(-1, keepdims=True), 1)
    mean = jnp.einsum("btkh,bt->bkh", values, weights).reshape(values.shape[0], -1)
    return mean * jax.lax.rsqrt(jnp.square(mean).sum(-1, keepdims=True) + 1e-6)


def vocabulary_logits(model: Model, states: Array) -> Array:
    """Logits over the whole vocabulary for states (..., D): float32 (..., V)."""
    table = model.head_table.astype(states.dtype)
    return jnp.einsum("...d,vd->...v", states, table, preferred_element_type=jnp.float32)


def over_shards(function: Callable[[Any], Any], batch: Any, mesh: Mesh | None = None) -> Any:
    """Apply a function of one shard to every shard of a batch, results with a leading S.

    With a mesh of as many shards, what is spread over devices inside the function (a kernel) stays
    with its shard. A single shard skips the vmap: with its extra axis the CPU compiler turns the
    weight gradients into batched products, several times slower.
    """
    shards = jax.tree.leaves(batch)[0].shape[0]
    if shards == 1:
        return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x[0], batch)))
    if mesh is not None and shard_count(mesh) == shards:
        return jax.vmap(function, spmd_axis_name=BATCH_AXES)(batch)
    return jax.vmap(function)(batch)


def states(
    model: Model, batch: Batch, compute: Compute, read: Literal["last", "all"] = "last"
) -> Array:
    """Label states of a whole batch, shards side by side: (S, B, D); with "all" (S, B, T, D)."""
    return over_shards(lambda shard: label_states(model, shard, compute, read), batch, compute.mesh)


def score(model: Model, batch: Batch, label_ids: tuple[int, int], compute: Compute) -> Array:
    """Logits z_yes - z_no of every row: (S, B) float32; padding rows hold meaningless values."""
    return label_logits(model, states(model, batch, compute), label_ids)

"""Objectives of the visual pretraining from scratch: contrast and captioning, as pure functions.

Contrast: a query finds the image and the text of its own object among those of the batch. Captioning:
the text is predicted from the image before it, which teaches the decoder to read images in context.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unirank_jax.attention import MASKED
from unirank_jax.batch import Array, Images, Rows
from unirank_jax.layers import Compute
from unirank_jax.model import (
    Model,
    embeddings,
    encode_images,
    over_shards,
    vocabulary_logits,
)


class PretrainBatch(NamedTuple):
    """N objects per shard, each with a query, an image followed by a caption, and a text."""

    images: Images  # (S, I, P)
    static: Rows  # (S, Q, Ts): prompts up to the query
    static_index: Array  # (S, N) int32
    query: Rows  # (S, N, Tq); read at its last token
    caption: Rows  # (S, N, Tc): the image, then a text of the object
    caption_read: Array  # (S, N) int32: the token that ends the image
    spoken: Array  # (S, N, Tc) bool: tokens that the captioning loss predicts
    text: Rows  # (S, N, Tt): another text of the object
    text_read: Array  # (S, N) int32: the last token of the text; -1 = there is none
    image_query: Array  # (S, N) bool: the query is the object's image
    group: Array  # (S, N) int32: objects of one group are neither right nor wrong for each other


class Embedded(NamedTuple):
    """Unit vectors of one shard."""

    query: jax.Array  # (N, E)
    image: jax.Array  # (N, E)
    text: jax.Array  # (N, E)


def forward(
    model: Model, shard: PretrainBatch, compute: Compute
) -> tuple[Embedded, tuple[jax.Array, jax.Array]]:
    """Embeddings of one shard and the (sum, count) of the captioning loss in nats per token."""
    features = encode_images(model, shard.images, compute)
    _, static = model.text(shard.static, None, compute, collect=True)
    _, query = model.text(shard.query, features, compute, static, shard.static_index, collect=True)
    hidden, caption = model.text(shard.caption, features, compute, collect=True)
    _, text = model.text(shard.text, None, compute, collect=True)
    assert query is not None and caption is not None and text is not None
    vectors = Embedded(
        embeddings(query, shard.query.lengths - 1),
        embeddings(caption, shard.caption_read),
        embeddings(text, shard.text_read),
    )
    logits = vocabulary_logits(model, model.text.norm(hidden[:, :-1]))
    goal = shard.caption.tokens[:, 1:, None]
    surprise = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, goal, -1)[..., 0]
    spoken = shard.spoken[:, 1:]
    return vectors, (jnp.where(spoken, surprise, 0.0).sum(), spoken.sum())


def contrast(
    vectors: Embedded, shard: PretrainBatch, temperature: float
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """InfoNCE both ways over the shard; several positives are contrasted one by one.

    A positive competes with the negatives only, never with another positive of its query; an
    object of the same group is left out. Returns (sum, count) of the loss and of the share of
    positives that come first among their competitors.
    """
    count = vectors.query.shape[0]
    candidates = jnp.concatenate([vectors.image, vectors.text])  # (2N, E)
    similarity = vectors.query @ candidates.T / temperature  # (N, 2N)
    present = jnp.concatenate([jnp.ones(count, bool), shard.text_read >= 0])
    own = jnp.tile(jnp.eye(count, dtype=bool), (1, 2))
    same_group = shard.group[:, None] == jnp.tile(shard.group, 2)[None]
    positive = own & present
    positive = positive.at[:, :count].set(positive[:, :count] & ~shard.image_query[:, None])
    negative = ~same_group & present
    out: dict[str, tuple[jax.Array, jax.Array]] = {}
    total, number = jnp.zeros(()), jnp.zeros(())
    for axis in (1, 0):
        against = jnp.where(negative, similarity, MASKED)
        rest = jax.nn.logsumexp(against, axis, keepdims=True)
        loss = jnp.logaddexp(rest, similarity) - similarity
        total += jnp.where(positive, loss, 0.0).sum()
        number += positive.sum()
        if axis == 1:
            first = positive & (similarity > against.max(1, keepdims=True))
            for name, part in (("image", slice(0, count)), ("text", slice(count, None))):
                out[f"first_{name}"] = (first[:, part].sum(), positive[:, part].sum())
    out["contrast"] = (total, number)
    return out


def losses(
    model: Model, batch: PretrainBatch, temperature: float, compute: Compute
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Terms of a whole batch as (sum, count): contrast, caption, first_image, first_text."""

    def one(shard: PretrainBatch) -> dict[str, tuple[jax.Array, jax.Array]]:
        vectors, caption = forward(model, shard, compute)
        return {**contrast(vectors, shard, temperature), "caption": caption}

    return jax.tree.map(jnp.sum, over_shards(one, batch))

"""Objectives of the visual pretraining from scratch, as pure functions.

Words: visual tokens predict the words of their image's text through the token table. Contrast: a
query finds the image and text of its own object in the batch. Captioning: text given the image.
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
from unirank_jax.vision import Features

Pair = tuple[jax.Array, jax.Array]


class PretrainBatch(NamedTuple):
    """N objects per shard, each with a query, an image followed by a caption, and a text."""

    images: Images  # (S, I, P)
    static: Rows  # (S, Q, Ts): prompts up to the query
    static_index: Array  # (S, N) int32
    query: Rows  # (S, N, Tq)
    caption: Rows  # (S, N, Tc): the image, then the text that defines the object
    image_length: Array  # (S, N) int32: tokens of a caption row up to the end of the image
    spoken: Array  # (S, N, Tc) bool: tokens that the captioning loss predicts
    text: Rows  # (S, N, Tt): another text of the object
    text_length: Array  # (S, N) int32: tokens before the suffix; 0 = there is no such text
    image_query: Array  # (S, N) bool: the query is the object's image
    group: Array  # (S, N) int32: objects of one group are neither right nor wrong for each other


class Embedded(NamedTuple):
    """Unit vectors of one shard."""

    query: jax.Array  # (N, E)
    image: jax.Array  # (N, E)
    text: jax.Array  # (N, E)


def words(features: Features, caption: Rows, spoken: Array, model: Model) -> Pair:
    """Cross-entropy of the caption's tokens under what the visual tokens name, order left out.

    A word's logit is the log-sum-exp over the visual tokens of their product with its embedding
    (weak supervision as in Joulin et al. 2016, with a soft maximum over places): it needs no
    decoder, and it puts visual tokens where the decoder finds words. (sum, count) in nats.
    """
    visual = (caption.image_index >= 0)[..., None]  # (N, Tc, 1)
    places = features.merged[jnp.maximum(caption.image_index, 0)].astype(jnp.float32)
    logits = jnp.einsum("ntd,vd->ntv", places, model.text.embed.table[...])
    named = jax.nn.logsumexp(jnp.where(visual, logits, MASKED), axis=1)  # (N, V)
    surprise = -jnp.take_along_axis(jax.nn.log_softmax(named), caption.tokens, axis=1)
    return jnp.where(spoken, surprise, 0.0).sum(), spoken.sum()


def decode(
    model: Model, features: Features | None, shard: PretrainBatch, compute: Compute
) -> tuple[Embedded, Pair]:
    """Embeddings of one shard and the (sum, count) of the captioning loss in nats per token."""
    _, static = model.text(shard.static, None, compute, collect=True)
    _, query = model.text(shard.query, features, compute, static, shard.static_index, collect=True)
    hidden, caption = model.text(shard.caption, features, compute, collect=True)
    _, text = model.text(shard.text, None, compute, collect=True)
    assert query is not None and caption is not None and text is not None
    vectors = Embedded(
        embeddings(query, _first(shard.query, shard.query.lengths)),
        embeddings(caption, _first(shard.caption, shard.image_length)),
        embeddings(text, _first(shard.text, shard.text_length)),
    )
    logits = vocabulary_logits(model, model.text.norm(hidden[:, :-1]))
    goal = shard.caption.tokens[:, 1:, None]
    surprise = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, goal, -1)[..., 0]
    spoken = shard.spoken[:, 1:]
    return vectors, (jnp.where(spoken, surprise, 0.0).sum(), spoken.sum())


def _first(rows: Rows, lengths: Array) -> Array:
    """(N, T) bool: the first `lengths` tokens of each row."""
    return jnp.arange(rows.tokens.shape[-1]) < lengths[:, None]


def contrast(vectors: Embedded, shard: PretrainBatch, temperature: float) -> dict[str, Pair]:
    """InfoNCE both ways over the shard: among images, among texts, and among both.

    A positive competes with the negatives only, never with another positive of its query; an
    object of the same group is left out. The separate pools keep images in play while texts,
    which are learned sooner, score far above them. Returns (sum, count) of the loss and of the
    share of positives that come first in their pool.
    """
    count = vectors.query.shape[0]
    candidates = jnp.concatenate([vectors.image, vectors.text])  # (2N, E)
    similarity = vectors.query @ candidates.T / temperature  # (N, 2N)
    present = jnp.concatenate([jnp.ones(count, bool), shard.text_length > 0])
    own = jnp.tile(jnp.eye(count, dtype=bool), (1, 2))
    same_group = shard.group[:, None] == jnp.tile(shard.group, 2)[None]
    positive = own & present
    positive = positive.at[:, :count].set(positive[:, :count] & ~shard.image_query[:, None])
    negative = ~same_group & present
    image = jnp.arange(2 * count) < count
    out: dict[str, Pair] = {}
    total, number = jnp.zeros(()), jnp.zeros(())
    pools = (("image", image), ("text", ~image), ("any", jnp.ones_like(image)))
    for axis in (1, 0):
        for name, pool in pools:
            against = jnp.where(negative & pool, similarity, MASKED)
            chosen = positive & pool
            rest = jax.nn.logsumexp(against, axis, keepdims=True)
            loss = jnp.logaddexp(rest, similarity) - similarity
            total += jnp.where(chosen, loss, 0.0).sum()
            number += chosen.sum()
            if axis == 1:
                first = chosen & (similarity > against.max(1, keepdims=True))
                out[f"first_{name}"] = (first.sum(), chosen.sum())
    out["contrast"] = (total, number)
    return out


def losses(
    model: Model,
    batch: PretrainBatch,
    terms: frozenset[str],
    temperature: float,
    compute: Compute,
) -> dict[str, Pair]:
    """The chosen terms of a whole batch as (sum, count); "contrast" adds the first_* shares.

    With "words" alone the decoder does not run.
    """

    def one(shard: PretrainBatch) -> dict[str, Pair]:
        found: dict[str, Pair] = {}
        features = encode_images(model, shard.images, compute)
        assert features is not None
        if "words" in terms:
            found["words"] = words(features, shard.caption, shard.spoken, model)
        if terms - {"words"}:
            vectors, caption = decode(model, features, shard, compute)
            found |= {**contrast(vectors, shard, temperature), "caption": caption}
        return found

    return jax.tree.map(jnp.sum, over_shards(one, batch))

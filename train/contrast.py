"""Objectives of the visual pretraining from scratch, as pure functions.

Words: visual tokens predict the words of their image's text through the token table. Named: the
same against the other words and images of the batch. Alike: another drawing of the same object,
among the images of the batch. Contrast: a query finds the image and text of its own object in the
batch. Caption: text given the image. Match: the label of a candidate read
after its query. Document: that candidate's text given the query, which teaches at every token to
look up in the query what the candidate repeats.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unirank_jax.attention_xla import MASKED
from unirank_jax.batch import Array, Images, Rows
from unirank_jax.layers import Compute
from unirank_jax.model import (
    Model,
    embeddings,
    encode_images,
    over_shards,
    prefix_cache,
    vocabulary_logits,
)
from unirank_jax.text import Cache, Prefix
from unirank_jax.vision import Features

Pair = tuple[jax.Array, jax.Array]
OF_THE_TOWER = frozenset({"words", "named", "alike"})  # losses that need no decoder


class PretrainBatch(NamedTuple):
    """N objects per shard, each with a query, an image followed by a caption, and a text."""

    images: Images  # (S, I, P)
    static: Rows  # (S, Q, Ts): prompts up to the query
    static_index: Array  # (S, N) int32
    pair: Rows  # (S, N, Tq + Tt): a query, then a candidate, of the object or of another
    query_length: Array  # (S, N) int32: tokens of a pair that are the query's
    own: Array  # (S, N) bool: the candidate of the pair is of the query's object
    echoed: Array  # (S, N, Tt) bool: candidate tokens that the document loss predicts
    caption: Rows  # (S, N, Tc): the image, then the text that defines the object
    image_length: Array  # (S, N) int32: tokens of a caption row up to the end of the image
    spoken: Array  # (S, N, Tc) bool: tokens that the captioning loss predicts
    text: Rows  # (S, N, Tt): another text of the object
    text_length: Array  # (S, N) int32: tokens before the suffix; 0 = there is no such text
    label_ids: Array  # (S, 2) int32: the tokens of yes and no
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


def named(
    features: Features, caption: Rows, spoken: Array, group: Array, model: Model
) -> tuple[Pair, Pair]:
    """InfoNCE between images and single words of the batch's captions, both ways.

    A word's logit is that of `words`, in units of a row of the table, so that visual tokens come to
    have the size of words. Against the words that other captions alone hold, frequent ones weigh
    nothing by themselves, and against other images a word must be seen: a table of word vectors may
    stay as it is, and carries over to words that no caption holds. (sum, count) in nats, and the
    share of words that come first among the images.
    """
    table = model.text.embed.table[...]
    unit = jax.lax.stop_gradient(jnp.square(table).mean()) * table.shape[1] ** 0.5
    count, length = caption.tokens.shape
    visual = (caption.image_index >= 0)[..., None]  # (N, Tc, 1)
    places = features.merged[jnp.maximum(caption.image_index, 0)].astype(jnp.float32)
    flat, asked = caption.tokens.reshape(-1), spoken.reshape(-1)  # (M,), M = N * Tc
    logits = jnp.einsum("ntd,md->ntm", places, table[flat]) / unit
    logit = jax.nn.logsumexp(jnp.where(visual, logits, MASKED), axis=1)  # (N, M)
    holds = ((caption.tokens[:, None] == flat[None, :, None]) & spoken[:, None]).any(-1)
    owner = jnp.repeat(jnp.arange(count), length)
    own = (jnp.arange(count)[:, None] == owner) & asked
    wrong = asked & ~holds & (group[:, None] != group[owner])
    total, first = jnp.zeros(()), own
    for axis in (1, 0):
        against = jnp.where(wrong, logit, MASKED)
        rest = jax.nn.logsumexp(against, axis, keepdims=True)
        total += jnp.where(own, jnp.logaddexp(rest, logit) - logit, 0.0).sum()
        first = own & (logit > against.max(axis, keepdims=True))
    return (total, 2 * own.sum()), (first.sum(), own.sum())


def alike(features: Features, shard: PretrainBatch, temperature: float) -> tuple[Pair, Pair]:
    """InfoNCE both ways between the objects' images and other drawings that ask for them.

    Cosine of the mean visual tokens, over `temperature`; no decoder. (sum, count) in nats, and the
    share of drawings that find their image first.
    """
    places = jnp.arange(shard.pair.tokens.shape[-1]) < shard.query_length[:, None]
    asking = _mean_picture(features, jnp.where(places, shard.pair.image_index, -1))
    image = _mean_picture(features, shard.caption.image_index)
    similarity = asking @ image.T / temperature  # (N, N)
    shown = ((shard.pair.image_index >= 0) & places).any(1) & ~shard.image_query
    own = jnp.eye(shown.size, dtype=bool) & shown[:, None]
    wrong = (shard.group[:, None] != shard.group) & shown[:, None]
    total = jnp.zeros(())
    for axis in (1, 0):
        rest = jax.nn.logsumexp(jnp.where(wrong, similarity, MASKED), axis, keepdims=True)
        total += jnp.where(own, jnp.logaddexp(rest, similarity) - similarity, 0.0).sum()
    best = jnp.where(wrong, similarity, MASKED).max(1, keepdims=True)
    return (total, 2 * own.sum()), ((own & (similarity > best)).sum(), own.sum())


def _mean_picture(features: Features, image_index: Array) -> Array:
    """(N, T) places of visual tokens, -1 elsewhere -> unit vectors (N, D); 0 without a picture."""
    there = (image_index >= 0)[..., None]
    tokens = features.merged[jnp.maximum(image_index, 0)].astype(jnp.float32)
    total = jnp.where(there, tokens, 0.0).sum(1)
    return total * jax.lax.rsqrt(jnp.square(total).sum(-1, keepdims=True) + 1e-12)


def embed(
    model: Model, features: Features | None, shard: PretrainBatch, compute: Compute
) -> Embedded:
    """Embeddings of one shard alone: what `decode` does without predicting anything."""
    static = [Prefix(prefix_cache(model, shard.static, None, compute), shard.static_index)]
    room = shard.pair.tokens.shape[-1] - shard.echoed.shape[-1]  # the candidate's are not read
    query = Rows(
        shard.pair.tokens[:, :room],
        shard.pair.positions[..., :room],
        shard.pair.image_index[:, :room],
        shard.query_length,
    )
    asked = prefix_cache(model, query, features, compute, static)
    return _embedded(
        asked, query, prefix_cache(model, shard.caption, features, compute), model, shard, compute
    )


def _embedded(
    asked: Cache, query: Rows, caption: Cache, model: Model, shard: PretrainBatch, compute: Compute
) -> Embedded:
    """asked, caption: what the decoder keeps of rows that begin with the query, and of captions."""
    text = prefix_cache(model, shard.text, None, compute)
    return Embedded(
        embeddings(asked, _first(query, shard.query_length)),
        embeddings(caption, _first(shard.caption, shard.image_length)),
        embeddings(text, _first(shard.text, shard.text_length)),
    )


def decode(
    model: Model, features: Features | None, shard: PretrainBatch, compute: Compute
) -> tuple[Embedded, dict[str, Pair]]:
    """Embeddings of one shard, and (sum, count) of "caption" and "document" in nats per token,
    of "match" in nats per pair, and of "match_right", the share of pairs with the right sign."""
    static = [Prefix(prefix_cache(model, shard.static, None, compute), shard.static_index)]
    both, pair = model.text(shard.pair, features, compute, static, collect=True)
    hidden, caption = model.text(shard.caption, features, compute, collect=True)
    assert pair is not None and caption is not None and both is not None and hidden is not None
    vectors = _embedded(pair, shard.pair, caption, model, shard, compute)
    last = jnp.take_along_axis(both, (shard.pair.lengths - 1)[:, None, None], axis=1)[:, 0]
    yes, no = model.head_table[shard.label_ids]
    logit = (model.text.norm(last) @ (yes - no)).astype(jnp.float32)
    sign = jnp.where(shard.own, 1.0, -1.0)
    count = jnp.asarray(sign.size, jnp.float32)
    # the candidate's tokens alone: wherever a query ends, T_t of them follow
    places = shard.query_length[:, None] + jnp.arange(shard.echoed.shape[-1])
    spoken_to = jnp.take_along_axis(both, places[..., None], axis=1)
    goals = jnp.take_along_axis(shard.pair.tokens, places, axis=1)
    return vectors, {
        "caption": next_tokens(model, hidden, shard.caption.tokens, shard.spoken),
        "document": next_tokens(model, spoken_to, goals, shard.echoed),
        "match": (jax.nn.softplus(-sign * logit).sum(), count),
        "match_right": ((sign * logit > 0).sum(), count),
    }


def next_tokens(model: Model, hidden: Array, tokens: Array, wanted: Array) -> Pair:
    """Cross-entropy of the wanted tokens given those before them, in nats.

    hidden (N, T, D) before the final norm; tokens (N, T) int32; wanted (N, T) bool.
    """
    logits = vocabulary_logits(model, model.text.norm(hidden[:, :-1]))
    goal = jnp.take_along_axis(logits, tokens[:, 1:, None], -1)[..., 0]
    surprise = jax.nn.logsumexp(logits, -1) - goal
    return jnp.where(wanted[:, 1:], surprise, 0.0).sum(), wanted[:, 1:].sum()


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
    """The terms of a whole batch as (sum, count), with the shares first_* and match_right.

    With the terms of `OF_THE_TOWER` alone the decoder does not run, and with the contrast beside
    them it predicts nothing; otherwise all its terms are there.
    """

    def one(shard: PretrainBatch) -> dict[str, Pair]:
        found: dict[str, Pair] = {}
        features = encode_images(model, shard.images, compute)
        assert features is not None
        if "words" in terms:
            found["words"] = words(features, shard.caption, shard.spoken, model)
        if "named" in terms:
            some = features, shard.caption, shard.spoken, shard.group, model
            found["named"], found["first_word"] = named(*some)
        if "alike" in terms:
            found["alike"], found["first_alike"] = alike(features, shard, temperature)
        decoded = terms - OF_THE_TOWER
        if decoded == {"contrast"}:
            found |= contrast(embed(model, features, shard, compute), shard, temperature)
        elif decoded:
            vectors, predicted = decode(model, features, shard, compute)
            found |= {**contrast(vectors, shard, temperature), **predicted}
        return found

    return jax.tree.map(jnp.sum, over_shards(one, batch))

"""Dense lessons for small models from scratch: which tokens of a candidate its query asks for.

One label for a whole candidate teaches it only slowly to look a word up in the query. Here every
token of a candidate's text is asked, through the same label head: yes where a token of the query
spells the same, case and spaces aside (`loss.overlap`). The tokens of a picture are asked which
picture of a list is the right one (`loss.pictures`). Published sizes need neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.config import ConfigError
from train.losses import Pair
from unirank_jax.batch import Batch
from unirank_jax.prompt import Prompt
from unirank_jax.tokenizer import Tokenizer

Array = jax.Array
OVERLAP = "overlap"
PICTURES = "pictures"
HELD_WEIGHT = 3.0  # a token that the query holds counts as so many others: they are fewer
_LETTERS = re.compile(r"\w")


@dataclass(frozen=True)
class Overlap:
    """What the loss knows of the tokenizer and the prompt."""

    spelling: Any  # (V,) int32: tokens of one number spell the same word; -1 = not asked
    before_query: int  # the token whose first place in a prefix comes right before the query
    after_query: int  # how many tokens of a prefix follow the query

    @staticmethod
    def of(prompt: Prompt) -> Overlap:
        """Of a prompt with the query first.

        Raises:
            ConfigError: the document comes first.
        """
        if prompt.document_first:
            raise ConfigError(
                "loss.overlap asks the tokens of a candidate about a query before them; set "
                "data.prompt_id to a prompt with the query first, or leave the loss out"
            )
        tokenizer = prompt.tokenizer
        return Overlap(
            spellings(tokenizer),
            tokenizer.encode("<Query")[-1],
            len(tokenizer.encode("\n<Document")),
        )

    def labels(self, batch: Batch) -> tuple[Array, Array]:
        """Which tokens of the rows (S, B, T) are asked, and which of them the query holds."""
        spelling = jnp.asarray(self.spelling)
        length = batch.prefix.tokens.shape[-1]
        begin = jnp.argmax(batch.prefix.tokens == self.before_query, axis=-1, keepdims=True)
        end = batch.prefix.lengths[..., None] - self.after_query
        place = jnp.arange(length)
        query = jnp.where(
            (place > begin) & (place < end), spelling[batch.prefix.tokens], -1
        )  # (S, Q, Tq)
        word = spelling[batch.rows.tokens]  # (S, B, T)
        there = jnp.arange(word.shape[-1]) < batch.rows.lengths[..., None]
        own = jnp.take_along_axis(query, batch.prefix_index[..., None], axis=1)  # (S, B, Tq)
        held = (word[..., None] == own[..., None, :]).any(-1)
        asked = there & (word >= 0)
        return asked, held & asked

    def count(self, batch: Batch) -> Array:
        """The weights of all tokens that are asked."""
        asked, held = self.labels(batch)
        return _weights(asked, held).sum()

    def terms(self, logits: Array, batch: Batch) -> tuple[Pair, Pair]:
        """Cross-entropy of the labels of all asked tokens, and how often the sign is right.

        logits: (S, B, T) float32, z_yes - z_no at each token of the rows.
        """
        asked, held = self.labels(batch)
        weight = _weights(asked, held)
        surprise = jax.nn.softplus(jnp.where(held, -logits, logits))
        right = jnp.where((logits > 0) == held, weight, 0.0)
        count = weight.sum()
        return (jnp.where(asked, surprise * weight, 0.0).sum(), count), (right.sum(), count)


def picture_rows(logits: Array, batch: Batch) -> tuple[Array, Array]:
    """Mean logit (S, B) of the visual tokens of each row, and which rows have some.

    logits: (S, B, T) float32, z_yes - z_no at each token of the rows.
    """
    visual = batch.rows.image_index >= 0
    count = visual.sum(-1)
    return jnp.where(visual, logits, 0.0).sum(-1) / jnp.maximum(count, 1), count > 0


def spellings(tokenizer: Tokenizer) -> np.ndarray:
    """(V,) int32: equal for tokens that spell the same letters or digits, case and spaces aside;
    -1 for those with none."""
    numbers: dict[str, int] = {}
    found = np.full(tokenizer.vocabulary_size, -1, np.int32)
    for token in range(tokenizer.vocabulary_size):
        if tokenizer.is_special(token):
            continue
        word = tokenizer.decode([token]).strip().lower()
        if _LETTERS.search(word):
            found[token] = numbers.setdefault(word, len(numbers))
    return found


def _weights(asked: Array, held: Array) -> Array:
    return jnp.where(asked, jnp.where(held, HELD_WEIGHT, 1.0), 0.0)

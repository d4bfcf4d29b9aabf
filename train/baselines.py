"""What a reranker has to beat: random order, BM25, TF-IDF, and a dual encoder's cosine.

Every scorer maps examples to one float32 array per example, one score per candidate, higher is
better. Text baselines see texts only: a candidate without text scores 0, as one without a match.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from train.lexical import BM25Index, words_of
from unirank_jax.content import Part, TextPart
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.records import Example, Item, Query

TEXT_BASELINES = ("random", "BM25", "TF-IDF")
Scores = list[NDArray[np.float32]]
Scorer = Callable[[Sequence[Example]], Scores]
Record = TypeVar("Record")
Embed = Callable[[Sequence[Record]], NDArray[np.floating]]


def random_order(examples: Sequence[Example]) -> Scores:
    """All candidates tie: the metrics are then the exact expectation of a random order."""
    return [np.zeros(len(example.candidates), np.float32) for example in examples]


def text_of(parts: Iterable[Part]) -> str:
    """The texts of a content joined by newlines; "" when it has images only."""
    return "\n".join(part.text for part in parts if isinstance(part, TextPart))


def text_pool(dataset: Dataset, split: str, examples: Sequence[Example]) -> list[str]:
    """The distinct texts among the items of a split and the candidates of its lists.

    Document frequencies come from here: what a search engine over the split's pool would know.
    """
    found = {text_of(item.parts): None for item in dataset.items_of(split)}
    for example in examples:
        found.update((text_of(item.parts), None) for item in example.candidates)
    return [text for text in found if text]


class BM25:
    """BM25 of the query's text over the pool."""

    def __init__(self, pool: Sequence[str]) -> None:
        self._row = {text: row for row, text in enumerate(pool)}
        self._index = BM25Index(pool)

    def __call__(self, examples: Sequence[Example]) -> Scores:
        return [self._score(example) for example in examples]

    def _score(self, example: Example) -> NDArray[np.float32]:
        scores = np.zeros(len(example.candidates), np.float32)
        over_pool = self._index.scores(text_of(example.query.parts))  # (pool,)
        if over_pool is None:
            return scores
        for place, item in enumerate(example.candidates):
            text = text_of(item.parts)
            if text:
                scores[place] = over_pool[self._row[text]]
        return scores


class TfIdf:
    """Cosine of TF-IDF vectors over words and character 4-grams together.

    Weight (1 + log tf) * (log((1 + documents) / (1 + df)) + 1), over the pool. Stronger than BM25
    where words are built from parts, as chemical names are.
    """

    def __init__(self, pool: Sequence[str]) -> None:
        frequency = Counter(term for text in pool for term in set(_terms(text)))
        self._idf = {
            term: math.log((1 + len(pool)) / (1 + df)) + 1 for term, df in frequency.items()
        }

    def __call__(self, examples: Sequence[Example]) -> Scores:
        return [self._score(example) for example in examples]

    def _score(self, example: Example) -> NDArray[np.float32]:
        query = self._vector(text_of(example.query.parts))
        cosines = []
        for item in example.candidates:
            candidate = self._vector(text_of(item.parts))
            cosines.append(sum(weight * candidate.get(term, 0.0) for term, weight in query.items()))
        return np.asarray(cosines, np.float32)

    def _vector(self, text: str) -> dict[str, float]:
        """Unit vector; terms that the pool does not know cannot match and are left out."""
        counts = Counter(term for term in _terms(text) if term in self._idf)
        vector = {term: (1 + math.log(n)) * self._idf[term] for term, n in counts.items()}
        norm = math.sqrt(sum(weight * weight for weight in vector.values()))
        return {term: weight / norm for term, weight in vector.items()}


def _terms(text: str) -> list[str]:
    """Words, marked to differ from 4-grams, and the text's 4-grams with a space at either end."""
    words = words_of(text)
    line = f" {' '.join(text.lower().split())} "
    return [f"w {word}" for word in words] + [line[i : i + 4] for i in range(len(line) - 3)]


class DualEncoder:
    """Cosine between the embedding of the query and that of each candidate.

    Args:
        embed_queries: queries -> (n, D) vectors of any length > 0.
        embed_items: candidates -> (n, D), likewise. Each function is called once per call of the
            scorer, with every query or every distinct candidate.
    """

    def __init__(self, embed_queries: Embed[Query], embed_items: Embed[Item]) -> None:
        self._embed_queries, self._embed_items = embed_queries, embed_items

    def __call__(self, examples: Sequence[Example]) -> Scores:
        items = {item.did: item for example in examples for item in example.candidates}
        row = dict(
            zip(
                items, unit_vectors("candidates", self._embed_items, [*items.values()]), strict=True
            )
        )
        queries = unit_vectors(
            "queries", self._embed_queries, [example.query for example in examples]
        )
        return [
            np.asarray([row[item.did] @ query for item in example.candidates], np.float32)
            for example, query in zip(examples, queries, strict=True)
        ]


def unit_vectors(name: str, embed: Embed[Record], records: Sequence[Record]) -> NDArray[np.float32]:
    """The embeddings of some records at length 1: (n, D) float32."""
    vectors = np.asarray(embed(records), np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if len(vectors) != len(records) or not (lengths > 0).all():
        raise ValueError(
            f"the embedding of {name} gave shape {vectors.shape} for {len(records)} records, with "
            f"{int((~(lengths > 0)).sum())} vectors of length 0 or NaN; repair the encoder"
        )
    return vectors / lengths


def text_baselines(dataset: Dataset, split: str, examples: Sequence[Example]) -> dict[str, Scorer]:
    """The baselines that need no model, in the order in which tables show them."""
    pool = text_pool(dataset, split, examples)
    scorers = (random_order, BM25(pool), TfIdf(pool))
    return dict(zip(TEXT_BASELINES, scorers, strict=True))

"""First-stage retrieval over a whole pool: BM25 for texts and a dual encoder for everything.

Texts and items with an image each get their own places among the candidates, because a retriever's
scores are on no common scale for the two. Raw scores of each retriever travel along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.baselines import text_of
from train.lexical import BM25Index
from unirank_jax.datasets.records import Item, Query

BM25, DENSE = "bm25", "dense"
FUSION = 60  # of reciprocal rank fusion (Cormack et al. 2009)
CHUNK = 256  # queries whose scores over the pool are in memory together


@dataclass(frozen=True)
class Retrieved:
    """The candidates of one query, best first: places in the pool and scores.

    `fused` decides the order. `raw` are each retriever's own scores; one that cannot see a
    candidate (BM25 an image, any retriever an empty query) has NaN.
    """

    places: NDArray[np.int64]  # (n,)
    fused: NDArray[np.float64]  # (n,)
    raw: Mapping[str, NDArray[np.float64]]  # name -> (n,)


class FirstStage:
    """Searches one pool of items.

    Args:
        items: the pool; several items of equal content may be in it.
        vectors: (len(items), D) unit vectors of a dual encoder.
        texts, images: how many candidates of each form a query gets.
    """

    def __init__(
        self, items: Sequence[Item], vectors: NDArray[np.float32], *, texts: int, images: int
    ) -> None:
        if vectors.shape[0] != len(items):
            raise ValueError(f"{len(vectors)} vectors for {len(items)} items; give one per item")
        self.items, self.vectors = items, vectors
        self.wanted = {True: texts, False: images}
        self.is_text = np.array([item.modality == "text" for item in items], bool)
        self._with_text = np.flatnonzero(np.array([bool(text_of(i.parts)) for i in items], bool))
        self._index = BM25Index([text_of(items[int(place)].parts) for place in self._with_text])
        self._same = _places_by_content(items)

    def search(self, queries: Sequence[Query], vectors: NDArray[np.float32]) -> Iterator[Retrieved]:
        """Candidates of each query in turn; what equals the query itself is never among them.

        vectors: (len(queries), D) unit vectors of the same dual encoder.
        """
        for start in range(0, len(queries), CHUNK):
            chunk = queries[start : start + CHUNK]
            dense = vectors[start : start + CHUNK] @ self.vectors.T  # (c, pool)
            for query, row in zip(chunk, dense, strict=True):
                yield self._one(query, row.astype(np.float64))

    def _one(self, query: Query, dense: NDArray[np.float64]) -> Retrieved:
        lexical = self._lexical(query)
        other = np.ones(len(self.items), bool)
        other[self._same.get(query.dup_id, [])] = False
        allowed = np.flatnonzero(other)
        is_text = self.is_text[allowed]
        scores = fused(dense[allowed], lexical[allowed], is_text)
        chosen = []
        for form, wanted in self.wanted.items():
            chosen.append(_best(np.flatnonzero(is_text == form), scores, wanted))
        best = np.concatenate(chosen)
        best = best[np.lexsort((best, -scores[best]))]
        places = allowed[best]
        return Retrieved(places, scores[best], {BM25: lexical[places], DENSE: dense[places]})

    def _lexical(self, query: Query) -> NDArray[np.float64]:
        """BM25 over the pool; NaN for items without text, everywhere for a query without words."""
        scores = np.full(len(self.items), np.nan)
        found = self._index.scores(text_of(query.parts))
        if found is not None:
            scores[self._with_text] = found
        return scores


def fused(
    dense: NDArray[np.floating], lexical: NDArray[np.floating], is_text: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Reciprocal rank fusion of both retrievers, texts among texts and images among images.

    All (n,). A candidate that BM25 gives NaN or 0 (no word of the query in it) is not in its
    ranking. Equal scores share their mean rank, so that the order of the input says nothing.
    """
    total = np.zeros(len(dense))
    for form in (True, False):
        members = np.flatnonzero(is_text == form)
        total[members] = 1 / (FUSION + 1 + _ranks(dense[members]))
        matched = members[np.nan_to_num(lexical[members]) > 0]
        total[matched] += 1 / (FUSION + 1 + _ranks(lexical[matched]))
    return total


def _best(
    members: NDArray[np.int64], scores: NDArray[np.float64], wanted: int
) -> NDArray[np.int64]:
    """The `wanted` members of the highest scores; of equal ones those that come first."""
    if 0 < wanted < len(members):
        least = np.partition(scores[members], len(members) - wanted)[len(members) - wanted]
        members = members[scores[members] >= least]
    return members[np.lexsort((members, -scores[members]))[:wanted]]


def _ranks(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rank of each score by falling size, from 0; equal ones have the mean of theirs."""
    _, group, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[group]


def _places_by_content(items: Sequence[Item]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        found.setdefault(item.dup_id, []).append(place)
    return found

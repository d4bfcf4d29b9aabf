"""Queries with their candidates, cut and grouped into batches of a token budget. No JAX here.

Candidates of several queries share a batch where they have the same static prompt and are alike in
length; a list that is too long for one batch is cut into parts of like size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unirank_jax.prompt import Encoded


@dataclass(frozen=True)
class Work:
    """One query with those of its candidates that are scored together."""

    static: Encoded  # up to and with `<Query`
    query: Encoded  # the rest of the prefix, up to and with `<Document`
    candidates: tuple[Encoded, ...]
    places: tuple[int, ...]  # of the candidates in the flat result


def groups(works: Sequence[Work], token_budget: int) -> Iterator[list[Work]]:
    """Works that run together, as many as the budget holds; every candidate is in one of them."""
    pieces = [piece for work in works for piece in split(work, token_budget)]
    pieces.sort(key=lambda w: (w.static.tokens.tobytes(), _longest(w), len(w.query.tokens)))
    group: list[Work] = []
    for piece in pieces:
        same = not group or np.array_equal(group[0].static.tokens, piece.static.tokens)
        if group and not (same and _tokens([*group, piece]) <= token_budget):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def split(work: Work, token_budget: int) -> Iterator[Work]:
    """Parts of a work that fit the budget, alike in size, so that one program runs them all;
    longest candidates apart from short ones."""
    lengths = [len(candidate.tokens) for candidate in work.candidates]
    total = sum(lengths) + len(work.query.tokens)
    if total <= token_budget:
        yield work
        return
    share = total / -(-total // token_budget)
    part: list[int] = []
    size = 0
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if part and (size >= share or size + lengths[i] > token_budget):
            yield _take(work, part)
            part, size = [], 0
        part.append(i)
        size += lengths[i]
    yield _take(work, part)


def _longest(work: Work) -> int:
    return max(len(candidate.tokens) for candidate in work.candidates)


def _tokens(group: list[Work]) -> int:
    """Tokens of a group's candidates and queries."""
    queries = {id(work.query): len(work.query.tokens) for work in group}
    candidates = sum(len(one.tokens) for work in group for one in work.candidates)
    return candidates + sum(queries.values())


def _take(work: Work, chosen: list[int]) -> Work:
    return Work(
        work.static,
        work.query,
        tuple(work.candidates[i] for i in chosen),
        tuple(work.places[i] for i in chosen),
    )

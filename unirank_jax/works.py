"""Prefixes with the rows that continue them, cut and grouped into batches. No JAX here.

With the query first a prefix is a query and its rows are its candidates; with the document first a
prefix is a candidate, and its row a query. Works share a batch of a token budget where they have
the same static prompt and are alike in length; one that is too long for a batch is cut into parts
of like size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unirank_jax.prompt import Encoded
from unirank_jax.store import Stored

Prefix = Encoded | Stored


@dataclass(frozen=True)
class Work:
    """One prefix with those of its rows that are scored together."""

    static: Encoded  # what comes before all prefixes
    prefix: Prefix
    rows: tuple[Encoded, ...]
    places: tuple[int, ...]  # of the rows in the flat result


def groups(works: Sequence[Work], token_budget: int) -> Iterator[list[Work]]:
    """Works that run together, as many as the budget holds; every candidate is in one of them."""
    pieces = [piece for work in works for piece in split(work, token_budget)]
    pieces.sort(key=lambda w: (_kind(w), _longest(w), len(w.prefix)))
    group: list[Work] = []
    for piece in pieces:
        same = not group or _kind(group[0]) == _kind(piece)
        if group and not (same and _tokens([*group, piece]) <= token_budget):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def split(work: Work, token_budget: int) -> Iterator[Work]:
    """Parts of a work that fit the budget, alike in size, so that one program runs them all;
    longest candidates apart from short ones."""
    lengths = [len(row) for row in work.rows]
    total = sum(lengths) + len(work.prefix)
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


def _kind(work: Work) -> tuple[bool, bytes]:
    """What works of a batch have in common: where their prefixes come from, the static prompt."""
    return isinstance(work.prefix, Encoded), work.static.tokens.tobytes()


def _longest(work: Work) -> int:
    return max(len(row) for row in work.rows)


def _tokens(group: list[Work]) -> int:
    """Tokens of a group's rows and prefixes."""
    prefixes = {id(work.prefix): len(work.prefix) for work in group}
    return sum(len(row) for work in group for row in work.rows) + sum(prefixes.values())


def _take(work: Work, chosen: list[int]) -> Work:
    return Work(
        work.static,
        work.prefix,
        tuple(work.rows[i] for i in chosen),
        tuple(work.places[i] for i in chosen),
    )

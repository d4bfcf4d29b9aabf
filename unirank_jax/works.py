"""Prefixes with the rows that continue them, cut and grouped into batches. No JAX here.

With the query first a prefix is a query and its rows are its candidates; with the document first a
prefix is a candidate, and its row a query. Works share a batch of a token budget where they have
the same static prompt and are alike in length; one that is too long for a batch is cut into parts
of like size and content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unirank_jax.prompt import Encoded
from unirank_jax.store import Stored

OUTLIER = 8  # times the middle length; attention pads a block of rows to the longest

STORED = 5  # tokens of a stored prefix that take as much of a batch as one that is computed

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
    """Parts of a work that fit the budget, alike in length and pictures, so that one program runs
    them all with little padding: candidates are dealt out from the largest to the smallest. Those
    that would stretch a batch stand apart."""
    lengths = [len(row) for row in work.rows]
    if sum(lengths) + len(work.prefix) <= token_budget:
        yield work
        return
    pictures = [sum(len(image.pixels) for image in row.images) for row in work.rows]
    order = sorted(range(len(lengths)), key=lambda i: (pictures[i], lengths[i], i), reverse=True)
    usual = OUTLIER * sorted(lengths)[len(lengths) // 2]
    for some in (
        [i for i in order if lengths[i] <= usual],
        [i for i in order if lengths[i] > usual],
    ):
        for hand in _dealt(some, lengths, token_budget - len(work.prefix)):
            yield _take(work, sorted(hand))


def _dealt(order: list[int], lengths: list[int], room: int) -> list[list[int]]:
    """Hands of at most so many tokens together, or of one alone; as few as hold them all. Every
    other round goes the other way, so that no hand is always served first."""
    total = sum(lengths[i] for i in order)
    for count in range(max(-(-total // max(room, 1)), 1), len(order)):
        turns = range(0, len(order), count)
        rounds = [order[at : at + count][:: -1 if at // count % 2 else 1] for at in turns]
        hands = [[some[at] for some in rounds if at < len(some)] for at in range(count)]
        if all(sum(lengths[i] for i in hand) <= room for hand in hands):
            return hands
    return [[i] for i in order]


def _kind(work: Work) -> tuple[bool, bytes]:
    """What works of a batch have in common: where their prefixes come from, the static prompt."""
    return isinstance(work.prefix, Encoded), work.static.tokens.tobytes()


def _longest(work: Work) -> int:
    return max(len(row) for row in work.rows)


def _tokens(group: list[Work]) -> int:
    """Tokens of a group's rows and prefixes; those of a store are only read."""
    prefixes = {id(work.prefix): computed(work.prefix) for work in group}
    return sum(len(row) for work in group for row in work.rows) + sum(prefixes.values())


def computed(prefix: Prefix) -> int:
    """Tokens that a prefix takes of a batch."""
    return len(prefix) if isinstance(prefix, Encoded) else len(prefix) // STORED


def _take(work: Work, chosen: list[int]) -> Work:
    return Work(
        work.static,
        work.prefix,
        tuple(work.rows[i] for i in chosen),
        tuple(work.places[i] for i in chosen),
    )

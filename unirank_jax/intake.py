"""What a call asks for, made ready for the engine by threads that keep a little ahead of it.

Decoding and resizing release the interpreter's lock, so they go on while the device computes.
Every candidate has its own outcome: a bad one is an error of its own, or ends the call.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from unirank_jax.content import ContentError, content_error, parse
from unirank_jax.prompt import Encoded, Prompt
from unirank_jax.store import Stored
from unirank_jax.works import Prefix, Work, computed

J = TypeVar("J")
R = TypeVar("R")
OnError = Literal["raise", "nan"]
Asked = tuple[str, Any, str | None, Sequence[Any]]  # place, query, instruction, candidates
AHEAD = 128  # candidates that wait encoded, at most


class TruncationWarning(UserWarning):
    """Text of a query or candidate was cut to fit the token limits."""


@dataclass
class Outcome:
    """What came of one query's candidates, in input order."""

    errors: list[str | None]
    truncated: list[bool]
    place: str
    logits: np.ndarray

    @staticmethod
    def empty(candidates: Any, place: str) -> Outcome:
        """Nothing known yet. Raises ContentError where `candidates` is no list."""
        if not isinstance(candidates, Sequence) or isinstance(candidates, str | bytes):
            raise ContentError(
                f"{place}: a {type(candidates).__name__} instead of a list of candidates; "
                "put it into a list"
            )
        count = len(candidates)
        return Outcome([None] * count, [False] * count, place, np.zeros(0, np.float32))

    def best(self) -> list[int]:
        """Indices by falling logit, ties by index, failed ones last."""
        return np.argsort(-np.nan_to_num(self.logits, nan=-np.inf), kind="stable").tolist()

    def warn(self) -> None:
        """A TruncationWarning where text was cut."""
        cut = [i for i, flag in enumerate(self.truncated) if flag]
        if cut:
            listed = ", ".join(map(str, cut[:10])) + (", ..." if len(cut) > 10 else "")
            warnings.warn(
                f"{self.place}: text of {len(cut)} pairs was cut to the token limits "
                f"(indices {listed}); shorten it or raise max_tokens",
                TruncationWarning,
                stacklevel=3,
            )


@dataclass(frozen=True)
class _Job:
    """One candidate to encode."""

    query: int
    index: int
    place: int  # in the flat result
    static: Encoded
    own: Encoded  # the query's side
    candidate: Any
    where: str


def portions(
    prompt: Prompt,
    asked: Sequence[Asked],
    outcomes: Sequence[Outcome],
    on_error: OnError,
    workers: int,
    tokens: int,
    accepts: Callable[[str], bool],
    first: int | None = None,
) -> Iterator[list[Work]]:
    """Encoded works, at least `tokens` tokens of candidates at a time but for the last portion, and
    `first` in the first one, so that the device need not wait for all of them.

    Notes errors and truncation in the outcomes. `accepts`: whether a store of this model may be
    read.

    Raises:
        ContentError: a bad query, or with `on_error="raise"` the first bad candidate.
    """
    found: dict[int, tuple[_Job, list[Prefix], list[int]]] = {}
    size, enough = 0, first or tokens

    def encode(job: _Job) -> Prefix | ContentError:
        if isinstance(job.candidate, Stored):
            return _stored(prompt, job, accepts)
        return _encode(prompt, job.candidate, job.where, len(job.static) + len(job.own))

    for job, item in _in_threads(encode, _jobs(prompt, asked, outcomes), workers):
        if isinstance(item, ContentError):
            if on_error == "raise":
                raise item
            outcomes[job.query].errors[job.index] = str(item)
            continue
        cut = item.note.truncated if isinstance(item, Stored) else item.truncated
        outcomes[job.query].truncated[job.index] = job.own.truncated or cut
        _, items, places = found.setdefault(job.query, (job, [], []))
        items.append(item)
        places.append(job.place)
        size += computed(item) + (len(job.own) if prompt.document_first else 0)
        if size >= enough:
            yield [work for one in found.values() for work in _works(prompt, *one)]
            found, size, enough = {}, 0, tokens
    if found:
        yield [work for one in found.values() for work in _works(prompt, *one)]


def documents(
    prompt: Prompt, items: Sequence[Any], workers: int
) -> Iterator[Encoded | ContentError]:
    """Candidates of no query yet, in order, encoded by threads: with the document first."""
    jobs = ((item, f"items[{at}]") for at, item in enumerate(items))
    for _, item in _in_threads(lambda job: _encode(prompt, *job, 0), jobs, workers):
        yield item


def _jobs(prompt: Prompt, asked: Sequence[Asked], outcomes: Sequence[Outcome]) -> Iterator[_Job]:
    place = 0
    for at, (lead, query, instruction, candidates) in enumerate(asked):
        own = prompt.query(parse(query, lead), instruction, lead)
        static = prompt.static(instruction)
        for i, candidate in enumerate(candidates):
            where = f"{outcomes[at].place}[{i}]"
            yield _Job(at, i, place, static, own, candidate, where)
            place += 1


def _encode(prompt: Prompt, content: Any, where: str, prefix_length: int) -> Encoded | ContentError:
    try:
        return prompt.candidate(parse(content, where), where, prefix_length)
    except ContentError as error:
        return error


def _stored(prompt: Prompt, job: _Job, accepts: Callable[[str], bool]) -> Prefix | ContentError:
    """An item of a store; one that it does not hold is encoded as what it was made from."""
    item: Stored = job.candidate
    if not prompt.document_first or not accepts(item.store.model):
        return content_error(
            job.where, "an item of another model's store", "index the items with this model"
        )
    note = item.note
    if note.kept:
        return item
    if note.error is not None:
        return content_error(job.where, f"in the store: {note.error}", "index it again corrected")
    if item.store.items is None:
        return content_error(
            job.where,
            f"item {item.index} was left out of the store, whose budget was used up",
            "index with a larger budget_bytes, or give its content",
        )
    return _encode(prompt, item.store.items[item.index], job.where, 0)


def _in_threads(encode: Callable[[J], R], jobs: Iterator[J], workers: int) -> Iterator[tuple[J, R]]:
    """Jobs and results in order, made by threads that keep a little ahead."""
    pool = ThreadPoolExecutor(workers)
    window: deque[tuple[J, Future[R]]] = deque()
    try:
        for job in jobs:
            window.append((job, pool.submit(encode, job)))
            if len(window) > AHEAD:
                first, result = window.popleft()
                yield first, result.result()
        while window:
            first, result = window.popleft()
            yield first, result.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _works(prompt: Prompt, job: _Job, items: list[Prefix], places: list[int]) -> Iterator[Work]:
    """A query with its candidates after it, or with the document first each with the query."""
    if prompt.document_first:
        for item, place in zip(items, places, strict=True):
            yield Work(job.static, item, (job.own,), (place,))
    else:
        rows = tuple(item for item in items if isinstance(item, Encoded))
        yield Work(job.static, job.own, rows, tuple(places))

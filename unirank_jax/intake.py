"""What a call asks for, made ready for the engine by threads that keep a little ahead of it.

Decoding and resizing release the interpreter's lock, so they go on while the device computes.
Every candidate has its own outcome: a bad one is an error of its own, or ends the call.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unirank_jax.content import ContentError, parse
from unirank_jax.prompt import Encoded, Prompt
from unirank_jax.works import Work

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
    own: Encoded  # the query's part of the prefix
    prefix_length: int
    candidate: Any
    where: str


def portions(
    prompt: Prompt,
    asked: Sequence[Asked],
    outcomes: Sequence[Outcome],
    on_error: OnError,
    workers: int,
    tokens: int,
) -> Iterator[list[Work]]:
    """Encoded works, at least `tokens` tokens of candidates at a time but for the last portion.

    Notes errors and truncation in the outcomes.

    Raises:
        ContentError: a bad query, or with `on_error="raise"` the first bad candidate.
    """
    found: dict[int, tuple[_Job, list[Encoded], list[int]]] = {}
    size = 0
    for job, item in _encoded(prompt, _jobs(prompt, asked, outcomes), workers):
        if isinstance(item, ContentError):
            if on_error == "raise":
                raise item
            outcomes[job.query].errors[job.index] = str(item)
            continue
        outcomes[job.query].truncated[job.index] = job.own.truncated or item.truncated
        _, items, places = found.setdefault(job.query, (job, [], []))
        items.append(item)
        places.append(job.place)
        size += len(item.tokens)
        if size >= tokens:
            yield [_work(*one) for one in found.values()]
            found, size = {}, 0
    if found:
        yield [_work(*one) for one in found.values()]


def _jobs(prompt: Prompt, asked: Sequence[Asked], outcomes: Sequence[Outcome]) -> Iterator[_Job]:
    place = 0
    for at, (lead, query, instruction, candidates) in enumerate(asked):
        prefix = prompt.prefix(parse(query, lead), instruction, lead)
        static, own = prompt.static(instruction), prompt.query_part(prefix, instruction)
        for i, candidate in enumerate(candidates):
            where = f"{outcomes[at].place}[{i}]"
            yield _Job(at, i, place, static, own, len(prefix.tokens), candidate, where)
            place += 1


def _encoded(
    prompt: Prompt, jobs: Iterator[_Job], workers: int
) -> Iterator[tuple[_Job, Encoded | ContentError]]:
    """Candidates in order, encoded by threads that keep a little ahead."""

    def encode(job: _Job) -> tuple[_Job, Encoded | ContentError]:
        try:
            parts = parse(job.candidate, job.where)
            return job, prompt.candidate(parts, job.where, job.prefix_length)
        except ContentError as error:
            return job, error

    pool = ThreadPoolExecutor(workers)
    window: deque[Future[tuple[_Job, Encoded | ContentError]]] = deque()
    try:
        for job in jobs:
            window.append(pool.submit(encode, job))
            if len(window) > AHEAD:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _work(job: _Job, items: list[Encoded], places: list[int]) -> Work:
    return Work(job.static, job.own, tuple(items), tuple(places))

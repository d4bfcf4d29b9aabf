"""From encoded pairs to logits: batches of whole queries, few static shapes, input order kept.

A bucket is one compiled program. Sizes are rounded up on a coarse ladder, an existing program that
fits is preferred to a new one, and near `MAX_PROGRAMS` only existing ones are used if any fits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from unirank_jax.batch import Batch, Bucket
from unirank_jax.layers import Compute
from unirank_jax.model import Model, score
from unirank_jax.packing import needs, pack
from unirank_jax.prompt import Encoded

MAX_PROGRAMS = 12
_REUSE = 2.0  # an existing program may cost this much more than a new one of the right size
_LEAST = Bucket(prefixes=1, prefix_tokens=64, rows=8, tokens=32, images=4, patches=64)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """One query with those of its candidates that are scored together."""

    prefix: Encoded
    candidates: tuple[Encoded, ...]
    places: tuple[int, ...]  # of the candidates in the flat result


class Engine:
    """Scores works with one model; keeps the compiled programs."""

    def __init__(
        self, model: Model, label_ids: tuple[int, int], compute: Compute, token_budget: int
    ) -> None:
        self.config, self.label_ids = model.config, label_ids
        self.compute, self.token_budget = compute, token_budget
        self._graph, self._state = nnx.split(model)
        self._score = jax.jit(self._trace)
        self.programs = 0  # compiled so far
        self.buckets: list[Bucket] = []

    @property
    def model(self) -> Model:
        """The network with its parameters."""
        return nnx.merge(self._graph, self._state)

    def logits(self, works: Sequence[Work], count: int) -> np.ndarray:
        """z_yes - z_no of every candidate at its place: (count,) float32, NaN where no work is.

        Dispatch runs ahead of the device: results are fetched after the last batch was sent.
        """
        result = np.full(count, np.nan, np.float32)
        sent: list[tuple[list[int], Any]] = []
        for group in self._groups(works):
            places = [place for work in group for place in work.places]
            sent.append((places, self._score(self._state, self._pack(group))))
        for places, logits in sent:
            result[places] = np.asarray(logits)[0, : len(places)]
        return result

    def _trace(self, state: Any, batch: Batch) -> jax.Array:
        """The compiled function; its Python body runs once per program."""
        self.programs += 1
        return score(nnx.merge(self._graph, state), batch, self.label_ids, self.compute)

    def _groups(self, works: Sequence[Work]) -> Iterator[list[Work]]:
        """Works that run together, similar lengths side by side, within the token budget."""
        pieces = [piece for work in works for piece in self._split(work)]
        pieces.sort(key=lambda work: (_longest(work), len(work.prefix.tokens)))
        group: list[Work] = []
        for piece in pieces:
            if group and self._tokens([*group, piece]) > self.token_budget:
                yield group
                group = []
            group.append(piece)
        if group:
            yield group

    def _split(self, work: Work) -> Iterator[Work]:
        """Parts of one query's candidates that fit the token budget, longest apart from short."""
        order = sorted(range(len(work.places)), key=lambda i: (len(work.candidates[i].tokens), i))
        part: list[int] = []
        for i in order:
            tokens = len(work.candidates[i].tokens) * (len(part) + 1)
            if part and tokens + len(work.prefix.tokens) > self.token_budget:
                yield _take(work, part)
                part = []
            part.append(i)
        if part:
            yield _take(work, part)

    def _tokens(self, group: list[Work]) -> int:
        """Padded tokens of a group."""
        rows = sum(len(work.places) for work in group)
        prefix = max(len(work.prefix.tokens) for work in group)
        return rows * max(_longest(work) for work in group) + len(group) * prefix

    def _pack(self, group: list[Work]) -> Batch:
        prefixes = [work.prefix for work in group]
        candidates = [candidate for work in group for candidate in work.candidates]
        index = [at for at, work in enumerate(group) for _ in work.candidates]
        bucket = self._bucket(needs(prefixes, candidates))
        return pack(self.config, prefixes, candidates, index, bucket)

    def _bucket(self, need: Bucket) -> Bucket:
        """The program to use for a batch of these sizes."""
        wanted = _round_up(need)
        fitting = [bucket for bucket in self.buckets if _fits(need, bucket)]
        best = min(fitting, key=self._cost, default=None)
        full = len(self.buckets) >= MAX_PROGRAMS - 1
        if best is not None and (full or self._cost(best) <= _REUSE * self._cost(wanted)):
            return best
        if full:  # one program that holds everything seen so far, and from then on most of it
            wanted = _round_up(
                Bucket(
                    *(
                        max(values)
                        for values in zip(*map(_sizes, [*self.buckets, need]), strict=True)
                    )
                )
            )
            logger.warning("the %dth program is compiled: %s", len(self.buckets) + 1, wanted)
        self.buckets.append(wanted)
        return wanted

    def _cost(self, bucket: Bucket) -> float:
        """Multiply-adds of a bucket, roughly: token rows, attention, patches."""
        text, vision = self.config.text, self.config.vision
        layer = 4 * text.width * text.heads * text.head_dim + 3 * text.width * text.mlp_width
        tokens = bucket.rows * bucket.tokens + bucket.prefixes * bucket.prefix_tokens
        span = bucket.rows * bucket.tokens * (bucket.prefix_tokens + bucket.tokens)
        decoder = text.depth * (tokens * layer + 2 * span * text.heads * text.head_dim)
        block = vision.width * (4 * vision.width + 2 * vision.mlp_width)
        patches = bucket.images * bucket.patches
        tower = vision.depth * patches * (block + 2 * bucket.patches * vision.width)
        return float(decoder + tower)


def _longest(work: Work) -> int:
    return max(len(candidate.tokens) for candidate in work.candidates)


def _take(work: Work, chosen: list[int]) -> Work:
    return Work(
        work.prefix,
        tuple(work.candidates[i] for i in chosen),
        tuple(work.places[i] for i in chosen),
    )


def _sizes(bucket: Bucket) -> tuple[int, ...]:
    return (
        bucket.prefixes,
        bucket.prefix_tokens,
        bucket.rows,
        bucket.tokens,
        bucket.images,
        bucket.patches,
    )


def _fits(need: Bucket, bucket: Bucket) -> bool:
    return all(a <= b for a, b in zip(_sizes(need), _sizes(bucket), strict=True))


def _round_up(need: Bucket) -> Bucket:
    """Each size on its ladder of powers of two; no images stay none (a text-only program)."""
    sizes = []
    for value, least in zip(_sizes(need), _sizes(_LEAST), strict=True):
        rounded = least
        while rounded < value:
            rounded *= 2
        sizes.append(rounded if value else 0)
    return Bucket(*sizes)

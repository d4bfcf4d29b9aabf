"""Which lists, candidates and bucket make up global batch n: a pure function of (seed, sizes, n).

Every process computes the same plan from the same index of sizes (train/sizes.py), so all agree on
the bucket without talking. No JAX here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from train.batch_shapes import choose_buckets, fitting, ladder
from train.sizes import Index, PlanError
from unirank_jax.batch import Bucket, block_tokens

_PROBE = 48  # batches whose sizes decide the buckets


@dataclass(frozen=True)
class PlanSettings:
    """The shape of a global batch and how lists are sampled."""

    seed: int
    micro_batches: int  # M
    shards: int  # S
    lists: int  # G, per micro-batch and shard
    list_size: int  # C
    max_positives: int
    min_other_modality: int
    kind_power: float  # a kind of n lists is drawn as often as n^kind_power says; 1 = as it is
    length_window: int  # batches among which lists are grouped by length; 1 = no grouping
    max_tokens: int
    buckets: int  # compiled programs at most
    outer: int = 0  # with the document first: tokens before all documents; 0 = the query first
    chunks: int = 1  # parts of a list, each in a micro-batch of its own

    @property
    def rows(self) -> int:
        """Candidates of a micro-batch and shard."""
        return self.lists * self.list_size // self.chunks


class Chosen(NamedTuple):
    """One list of a batch: its number in the index and the slots that were sampled from it."""

    number: int
    slots: np.ndarray  # positions in Index.items


class BatchPlan(NamedTuple):
    """What goes into a global batch: lists [m][s][g], and the bucket of every shard."""

    lists: list[list[list[Chosen]]]
    bucket: Bucket


class TrainPlan:
    """An endless sequence of batches: `plan[n]` for n = 0, 1, ..., epoch after epoch."""

    def __init__(self, index: Index, settings: PlanSettings) -> None:
        self.index, self.settings = index, settings
        self.per_batch = settings.micro_batches * settings.shards * settings.lists
        self.pool = np.repeat(np.arange(len(index)), repeats(index, settings.kind_power))
        self.per_epoch = max(1, len(self.pool) // self.per_batch)
        self._window = lru_cache(maxsize=4)(self._make_window)
        self._check()
        probe = [need(index, n, settings) for n in self._probe()]
        self.buckets = choose_buckets(probe, largest(index, settings), settings.buckets)

    def __getitem__(self, number: int) -> BatchPlan:
        lists = self._lists(number)
        wanted = need(self.index, lists, self.settings)
        return BatchPlan(lists, fitting(wanted, self.buckets))

    def _check(self) -> None:
        relevant = self.index.grades >= np.repeat(self.index.rel_min, np.diff(self.index.starts))
        if not relevant.any():
            raise PlanError("no list has a relevant candidate (grade >= rel_min); check the grades")

    def _probe(self) -> Iterator[list[list[list[Chosen]]]]:
        count = min(self.per_epoch, _PROBE)
        for number in range(count):
            yield self._lists(number * self.per_epoch // count)

    def _lists(self, number: int) -> list[list[list[Chosen]]]:
        epoch, at = divmod(number, self.per_epoch)
        window, inside = divmod(at, self.settings.length_window)
        chosen = iter(self._window(epoch, window)[inside])
        settings = self.settings
        return [
            [[next(chosen) for _ in range(settings.lists)] for _ in range(settings.shards)]
            for _ in range(settings.micro_batches)
        ]

    def _make_window(self, epoch: int, window: int) -> list[list[Chosen]]:
        """The batches of a window: lists of like length together, batches in random order."""
        first = window * self.settings.length_window
        count = min(self.settings.length_window, self.per_epoch - first)
        order = _order(self.settings.seed, epoch, len(self.pool))
        order = np.resize(order, max(len(order), self.per_batch))  # a small set repeats lists
        draws = order[first * self.per_batch : (first + count) * self.per_batch]
        lists = [
            sample(self.index, int(self.pool[draw]), epoch, self.settings, draw=int(draw))
            for draw in draws
        ]
        if self.settings.length_window > 1:
            lists.sort(key=lambda chosen: _sort_key(self.index, chosen))
        batches = [lists[n * self.per_batch : (n + 1) * self.per_batch] for n in range(count)]
        rng = np.random.default_rng([self.settings.seed, epoch, window, 1])
        return [batches[n] for n in rng.permutation(count)]


class EvaluationPlan:
    """Lists in a fixed order, `limit` of them spread evenly.

    Those with a relevant candidate, on the list or missing from it, count.

    A list longer than `list_size` keeps its relevant candidates first. The last batch may have
    empty places.
    """

    def __init__(self, index: Index, settings: PlanSettings, limit: int) -> None:
        self.index, self.settings = index, settings
        usable = [n for n in range(len(index)) if index.relevant(n).any() or index.missed[n]]
        if not usable:
            raise PlanError("no list to evaluate on has a relevant candidate; check the grades")
        count = min(limit, len(usable))
        lists = [self._whole(usable[n * len(usable) // count]) for n in range(count)]
        lists.sort(key=lambda chosen: _length(index, chosen))
        size = settings.shards * settings.lists
        self.batches = []
        for first in range(0, count, size):
            some = lists[first : first + size]
            cut = range(0, size, settings.lists)
            self.batches.append([[some[c : c + settings.lists] for c in cut]])
        self.needs = [need(index, batch, settings) for batch in self.batches]
        self.buckets = choose_buckets(self.needs, None, settings.buckets)

    def _whole(self, number: int) -> Chosen:
        slots = np.arange(self.index.starts[number], self.index.starts[number + 1])
        first = np.argsort(~self.index.relevant(number), kind="stable")
        return Chosen(number, slots[first][: self.settings.list_size])

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> BatchPlan:
        return BatchPlan(self.batches[number], fitting(self.needs[number], self.buckets))


def repeats(index: Index, power: float) -> np.ndarray:
    """How often each list stands in an epoch: (lists,) int64, the most frequent kind once."""
    kinds, place, counts = np.unique(index.kinds, return_inverse=True, return_counts=True)
    return np.rint((counts.max() / counts) ** (1.0 - power)).astype(np.int64)[place]


def sample(index: Index, number: int, epoch: int, settings: PlanSettings, *, draw: int) -> Chosen:
    """Up to `max_positives` relevant candidates of a list, the rest others; unjudged ones never.

    Among the others at least `min_other_modality` have another modality than the first relevant
    one, and as many have its own, where the list has them. `draw` numbers the
    draws of an epoch: a list that stands in it several times gets other candidates each time.
    """
    rng = np.random.default_rng([settings.seed, epoch, draw, 2])
    slots = rng.permutation(np.arange(index.starts[number], index.starts[number + 1]))
    grades = index.grades[slots]
    relevant = slots[grades >= index.rel_min[number]][: settings.max_positives]
    others = slots[(grades >= 0) & (grades < index.rel_min[number])]
    wanted = settings.list_size - len(relevant)
    if len(relevant) and settings.min_other_modality:
        modality = index.item_modality
        own = modality[index.items[others]] == modality[index.items[relevant[0]]]
        least = settings.min_other_modality
        early = np.where(own, np.cumsum(own), np.cumsum(~own)) <= least
        others = np.concatenate([others[early], others[~early]])
    return Chosen(number, np.concatenate([relevant, others[:wanted]]))


def chunked(lists: Sequence[Chosen], settings: PlanSettings) -> list[list[Chosen]]:
    """The lists of a shard in `chunks` parts: the first candidates of each, the next, ..."""
    size = settings.list_size // settings.chunks
    return [
        [Chosen(one.number, one.slots[first : first + size]) for one in lists]
        for first in range(0, settings.list_size, size)
    ]


def need(index: Index, lists: list[list[list[Chosen]]], settings: PlanSettings) -> Bucket:
    """Sizes that hold every shard of a batch: exact, but for equal pictures under other ids."""
    shards = [part for micro in lists for shard in micro for part in chunked(shard, settings)]
    asked = images = patches = asked_cells = cells = patch_cells = 0
    found = block_tokens([0] * settings.rows)
    for shard in shards:
        numbers = [chosen.number for chosen in shard]
        if not numbers:
            continue
        queries = index.query_sizes[numbers]
        asked = max(asked, int(queries[:, 0].max()))
        unique = np.unique(np.concatenate([index.items[chosen.slots] for chosen in shard]))
        sizes = np.concatenate([queries, index.item_sizes[unique]])
        images = max(images, int(sizes[:, 1].sum()))
        patches = max(patches, int(sizes[:, 2].max()))
        patch_cells = max(patch_cells, int((sizes[:, 1] * sizes[:, 2]).sum()))
        used = repeated = 0
        rows: list[int] = []
        for chosen in shard:
            own = int(index.query_sizes[chosen.number, 0])
            lengths = index.item_sizes[index.items[chosen.slots], 0]
            if not settings.outer:  # a candidate is cut to the room that its query leaves
                lengths = np.minimum(lengths, settings.max_tokens - own)
            rows += lengths.tolist()
            used += int(lengths.sum())
            repeated += own * len(lengths)
        rows += [0] * (settings.rows - len(rows))
        widths = block_tokens(sorted(rows, reverse=True))
        found = {name: max(size, widths[name]) for name, size in found.items()}
        cells, asked_cells = max(cells, used), max(asked_cells, repeated)
    return _bucket(settings, asked, found, images, patches, asked_cells, cells, patch_cells)


def _bucket(
    settings: PlanSettings,
    asked: int,
    found: dict[str, int],
    images: int,
    patches: int,
    asked_cells: int,
    found_cells: int,
    patch_cells: int,
) -> Bucket:
    """The bucket for queries of `asked` tokens and candidates of `found` (`block_tokens`),
    together `asked_cells` (a query for each of its candidates) and `found_cells`."""
    first = settings.outer > 0  # the document
    return Bucket(
        prefixes=settings.rows if first else settings.lists,
        prefix_tokens=found["tokens"] if first else asked,
        rows=settings.rows,
        images=images,
        patches=patches,
        cells=asked_cells if first else found_cells,
        patch_cells=patch_cells,
        outer=settings.outer,
        prefix_cells=found_cells if first else 0,
        **({"tokens": asked} if first else found),
    )


def largest(index: Index, settings: PlanSettings) -> Bucket:
    """Sizes that hold any batch of this index."""
    rows = settings.rows
    queries, items = index.query_sizes.max(0), index.item_sizes.max(0)
    images = settings.lists * int(queries[1]) + min(rows, len(index.item_ids)) * int(items[1])
    tokens, asked = int(items[0]), int(queries[0])
    if not settings.outer:
        tokens = min(tokens, settings.max_tokens - int(index.query_sizes[:, 0].min()))
    patches = max(int(queries[2]), int(items[2]))
    found = block_tokens([tokens] * rows)
    return _bucket(
        settings, asked, found, images, patches, rows * asked, rows * tokens, images * patches
    )


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _length(index: Index, chosen: Chosen) -> int:
    return int(index.item_sizes[index.items[chosen.slots], 0].max(initial=0))


def _sort_key(index: Index, chosen: Chosen) -> tuple[int, int]:
    """Lists of like query length, then of like candidate length, go into one batch."""
    return ladder(int(index.query_sizes[chosen.number, 0])), _length(index, chosen)

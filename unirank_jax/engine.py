"""From encoded pairs to logits: what is shared is computed once, and nothing is spent on padding.

The static part of the prompt is kept across calls, a query's keys and values are computed once for
all its candidates, pictures that were seen before come from a cache. Candidates of several queries
share a batch up to the token budget; results keep the order of the input.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unirank_jax.batch import Bucket
from unirank_jax.buckets import COMPILE_PRICE, Buckets, rung
from unirank_jax.cost import multiply_adds
from unirank_jax.feature_cache import FeatureCache, Promise, table
from unirank_jax.layers import Compute
from unirank_jax.model import Model
from unirank_jax.network import Network
from unirank_jax.packing import Slots, compact_needs, pack_prefixes, pack_rows, visual_rows
from unirank_jax.prompt import Encoded
from unirank_jax.resident import resident
from unirank_jax.shared import Kept, Shared, entries_of
from unirank_jax.store import Stored
from unirank_jax.vision import Features
from unirank_jax.works import Work, groups

# Programs by what they run (prefixes or rows; with a tower or without new images).
QUERY_FIRST = {
    ("prefixes", True): 2,
    ("prefixes", False): 3,
    ("rows", True): 5,
    ("rows", False): 2,
}
DOCUMENT_FIRST = {
    ("prefixes", False): 1,  # the static prompt
    ("documents", True): 4,
    ("documents", False): 3,
    ("rows", True): 2,
    ("rows", False): 2,
    ("stored", True): 2,  # rows after documents of a store, which come by other numbers
    ("stored", False): 2,
}
MAX_PROGRAMS = max(sum(QUERY_FIRST.values()), sum(DOCUMENT_FIRST.values()))
AHEAD = 4  # batches under way at most, so that memory stays flat
ACCELERATOR_PRICE = 1e15  # multiply-adds that an accelerator computes during a compilation
STATICS = 16  # static prompts that are kept


class Engine:
    """Scores works with one model; keeps compiled programs, static prompts and visual features."""

    def __init__(
        self,
        model: Model,
        label_ids: tuple[int, int],
        compute: Compute,
        token_budget: int,
        features: FeatureCache,
        document_first: bool = False,
    ) -> None:
        self.config, self.compute, self.token_budget = model.config, compute, token_budget
        self.features = features
        text, count = self.config.text, len(self.config.vision.deepstack_layers)
        dtype = jnp.dtype(compute.dtype)
        self._like = Features(
            np.zeros((0, text.width), dtype), np.zeros((count, 0, text.width), dtype)
        )
        self._resident = resident(features.budget_bytes, self._like, compute.mesh)
        self._network = Network(model, label_ids, compute, each=document_first)
        price = COMPILE_PRICE if jax.default_backend() == "cpu" else ACCELERATOR_PRICE
        self._buckets = {
            (kind, tower): Buckets(kind, most, partial(multiply_adds, self.config), price)
            for (kind, tower), most in (DOCUMENT_FIRST if document_first else QUERY_FIRST).items()
        }
        self._kind = "documents" if document_first else "prefixes"
        self._each = document_first  # row b continues prefix b
        self._statics: OrderedDict[bytes, Shared] = OrderedDict()
        self._last: tuple[list[Encoded], Shared] | None = None  # the last batch's prefixes
        self._promises: list[Promise] = []  # features that the batch under work computes

    @property
    def model(self) -> Model:
        """The network with its parameters."""
        return self._network.model

    @property
    def programs(self) -> int:
        """How many were compiled so far."""
        return self._network.programs

    @property
    def buckets(self) -> list[Bucket]:
        """The sizes of all compiled programs."""
        return [bucket for buckets in self._buckets.values() for bucket in buckets.chosen]

    def history(self) -> list[Any]:
        """What the choice of programs depends on, as JSON holds it."""
        return [buckets.history() for buckets in self._buckets.values()]

    def recall(self, history: Sequence[Any]) -> None:
        """Run from here on in the programs that an engine with this history would choose.

        Static prompts and visual features in memory are dropped: they were computed in programs
        of another history, and their last digits depend on that.
        """
        for buckets, kept in zip(self._buckets.values(), history, strict=True):
            buckets.recall(kept)
        self._statics.clear()
        self.features.forget()
        self._resident = resident(self.features.budget_bytes, self._like, self.compute.mesh)

    def logits(self, works: Iterable[Sequence[Work]], count: int) -> np.ndarray:
        """z_yes - z_no of every row at its place: (count,) float32, NaN where no work is.

        `works` comes in portions that are batched apart; while the device computes, the next ones
        are made. Dispatch runs a few batches ahead of the device.
        """
        result = np.full(count, np.nan, np.float32)
        under_way: deque[tuple[list[int], Any, list[Promise]]] = deque()

        def fetch() -> None:
            places, logits, promises = under_way.popleft()
            result[places] = np.asarray(logits)[: len(places)]
            self.features.settle(promises)

        try:
            for portion in works:
                for group in groups(portion, self.token_budget):
                    self._promises = []
                    under_way.append((*self._score(group), self._promises))
                    if len(under_way) > AHEAD:
                        fetch()
        finally:  # also when a candidate is refused: nothing stays half kept
            while under_way:
                fetch()
            self._last = None
        return result

    # ------------------------------------------------------------ one batch

    def documents(
        self, static: Encoded, items: Sequence[Encoded]
    ) -> Iterator[tuple[int, np.ndarray, int]]:
        """What to keep of candidates that come first: place, keys and values (2, L, T, K, H), and
        the position that follows; alike in length together, not in order."""
        outer = self._static(static)
        order = sorted(range(len(items)), key=lambda i: (len(items[i]), i))
        while order:
            some: list[int] = []
            size = 0
            while order and (not some or size + len(items[order[0]]) <= self.token_budget):
                some.append(order.pop(0))
                size += len(items[some[-1]])
            self._promises = []
            shared = self._prefixes(outer, [items[i] for i in some], self._kind)
            values = entries_of(shared.cache, [len(items[i]) for i in some])
            yield from zip(some, values, shared.starts[: len(some)], strict=True)
            self.features.settle(self._promises)

    def _score(self, group: list[Work]) -> tuple[list[int], jax.Array]:
        """The places of a group's rows, and in this order their logits, padded, on the device."""
        static = self._static(group[0].static)
        distinct = list({id(work.prefix): work.prefix for work in group}.values())
        rows = [
            (row, work.prefix, place)
            for work in group
            for row, place in zip(work.rows, work.places, strict=True)
        ]
        rows.sort(key=lambda row: len(row[0]), reverse=True)  # as attention wants them
        sequences, owners = [row for row, _, _ in rows], [owner for _, owner, _ in rows]
        if self._each:
            distinct, prefix_of = owners, list(range(len(owners)))
        else:
            number = {id(one): at for at, one in enumerate(distinct)}
            prefix_of = [number[id(one)] for one in owners]
        prefixes = self._shared(static, distinct)
        count, length = prefixes.size
        need = replace(
            compact_needs([], sequences, self.features.tokens),
            prefixes=count,
            prefix_tokens=length,
            outer=static.size[1],
        )
        if self._each:
            both = rung(max(count, len(owners)), 8, 1)
            need = replace(need, prefixes=both, rows=both)
        kind = "stored" if isinstance(prefixes, Kept) else "rows"
        bucket = self._buckets[kind, need.images > 0].choose(need).padded_where_full
        slots, given = self._slots(sequences, bucket)
        starts = [prefixes.starts[at] for at in prefix_of]
        packed, take = pack_rows(self.config, sequences, starts, bucket, slots)
        index = np.zeros(bucket.rows, np.int32)
        index[: len(prefix_of)] = prefix_of
        logits, computed = self._network.logits(
            static.padded(1, bucket.outer),
            prefixes.padded(bucket.prefixes, bucket.prefix_tokens),
            index,
            _shard(packed),
            take[0],
            bucket.blocks,
            _shard(slots.arrays),
            given,
        )
        self._remember(slots, computed)
        return [place for _, _, place in rows], logits

    def _static(self, static: Encoded) -> Shared:
        """The static part of the prompt, computed once."""
        key = static.tokens.tobytes()
        if key not in self._statics:
            # Whatever program it ran in, it is kept in its own size, which others are built for.
            whole = self._prefixes(None, [static], "prefixes")
            self._statics[key] = whole.first(rung(len(static), 64, 1))
            if len(self._statics) > STATICS:
                self._statics.popitem(last=False)
        self._statics.move_to_end(key)
        return self._statics[key]

    def _shared(self, static: Shared, prefixes: list[Any]) -> Shared | Kept:
        """The prefixes of a batch; those of the batch before are not computed again."""
        if isinstance(prefixes[0], Stored):
            return Kept(prefixes, [depth for depth in self.config.text_stage_depths if depth])
        if self._last is not None and list(map(id, self._last[0])) == list(map(id, prefixes)):
            return self._last[1]
        shared = self._prefixes(static, prefixes, self._kind)
        self._last = (prefixes, shared)
        return shared

    def _prefixes(self, outer: Shared | None, sequences: list[Encoded], kind: str) -> Shared:
        need = compact_needs(sequences, [], self.features.tokens)
        if kind == "prefixes":  # few: padding costs less than more programs
            need = replace(need, prefix_cells=0)
        if outer is not None:
            need = replace(need, outer=outer.size[1])
        bucket = self._buckets[kind, need.images > 0].choose(need).padded_where_full
        slots, given = self._slots(sequences, bucket)
        start = 0 if outer is None else outer.starts[0]
        starts = [start] * len(sequences)
        rows, take, following = pack_prefixes(self.config, sequences, starts, bucket, slots)
        cache, computed = self._network.prefixes(
            None if outer is None else outer.padded(1, bucket.outer),
            _shard(rows),
            take[0],
            _shard(slots.arrays),
            given,
        )
        self._remember(slots, computed)
        return Shared(cache, following)

    def _slots(self, sequences: Sequence[Encoded], bucket: Bucket) -> tuple[Slots, Features]:
        """Image slots of a batch, and the features of its pictures that are at hand."""
        digests = dict.fromkeys(image.digest for one in sequences for image in one.images)
        known = [(digest, n) for digest in digests if (n := self.features.tokens(digest))]
        slots = Slots(self.config, bucket, known)
        given = None
        if self._resident is not None:
            for digest, _ in known:
                self.features.touch(digest)
            given = self._resident.take(known, self.features.get, bucket.given)
        if given is None:
            found = [self.features.get(digest) for digest, _ in known]
            given = table(found, self._like, bucket.given)
        return slots, given

    def _remember(self, slots: Slots, computed: Features | None) -> None:
        """New features go to the cache, where it is on."""
        if computed is None:
            return
        rows, unit = visual_rows(self.config, slots.bucket), self.config.vision.merge_unit
        new = [(digest, first) for digest, first in slots.index.items() if first < rows]
        counts = slots.arrays.lengths[0, : len(new)] // unit
        places = {d: (first, int(n)) for (d, first), n in zip(new, counts, strict=True)}
        self._promises.append(self.features.promise(computed, places))
        if self._resident is not None and places:
            self._resident.put(computed, places)

    def decoder_cost(self, tokens: int) -> float:
        """Multiply-adds of the decoder for one document of so many tokens."""
        outer = max((shared.size[1] for shared in self._statics.values()), default=0)
        return multiply_adds(self.config, Bucket(1, tokens, 0, 0, 0, 0, outer=outer))


def _shard(tree: Any) -> Any:
    """The only shard of packed arrays."""
    return jax.tree.map(lambda x: x[0], tree)

"""From a batch plan to arrays on the devices: read, decode, encode and pack, ahead of the training.

Grain threads do the host work (Pillow and the tokenizer release the interpreter lock). The state of
the whole pipeline is one integer, the number of global batches consumed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from train.loop import Item
from train.plan import BatchPlan, Chosen, EvaluationPlan, PlanSettings, TrainPlan, chunked
from train.quarantine import Quarantine
from train.settings import TrainConfig
from train.signals import Signals, SignalTable
from train.sizes import Index
from train.step import micro_sharding
from unirank_jax import sharding
from unirank_jax.batch import Batch, Bucket, Targets
from unirank_jax.config import ModelConfig
from unirank_jax.content import ContentError
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.packing import pack
from unirank_jax.prompt import Encoded, Prompt


class Micro(NamedTuple):
    """What the objective reads; every array has the leading axes (M, S) in a step, (S) inside."""

    batch: Batch
    targets: Targets
    signals: Signals | None = None


class Encoder:
    """Reads and packs the lists of one shard; may be called from several threads."""

    def __init__(
        self,
        dataset: Dataset,
        index: Index,
        prompt: Prompt,
        config: ModelConfig,
        settings: PlanSettings,
        signals: SignalTable | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        """quarantine: takes the lists that cannot be read; None: they are errors."""
        self.dataset, self.index, self.prompt = dataset, index, prompt
        self.config, self.settings, self.signals = config, settings, signals
        self.quarantine = quarantine

    def shard(self, lists: list[Chosen], bucket: Bucket) -> list[Micro]:
        """One shard of one micro-batch as numpy arrays with S = 1: a `Micro` for each chunk.

        Raises:
            ContentError: a content that cannot be encoded, by query and candidate id, where the
                quarantine takes no more.
        """
        size = self.settings.list_size // self.settings.chunks
        micros = [self._chunk(part, bucket, size) for part in chunked(lists, self.settings)]
        if self.signals is None:
            return micros
        whole = self.signals.fill(lists, bucket.rows // size, self.settings.list_size)
        return [
            micro._replace(signals=whole.part(first, first + size))
            for micro, first in zip(micros, range(0, self.settings.list_size, size), strict=True)
        ]

    def _chunk(self, lists: list[Chosen], bucket: Bucket, size: int) -> Micro:
        prefixes: list[Encoded] = []
        rows: list[tuple[Encoded, int, int]] = []  # with its list, or document, and its place
        targets = empty_targets(bucket.rows // size, size)
        for g, chosen in enumerate(lists):
            encoded = self._encode_or_leave_out(chosen)
            if encoded is None:
                continue  # its place stays empty
            query, candidates = encoded
            count, first = len(candidates), len(prefixes)
            if self.prompt.document_first:
                rows += [(query, first + at, g * size + at) for at in range(count)]
                prefixes += candidates
            else:
                rows += [(one, first, g * size + at) for at, one in enumerate(candidates)]
                prefixes.append(query)
            grades = self.index.grades[chosen.slots]
            targets.grade[0, g, :count] = grades
            targets.mask[0, g, :count] = grades >= 0
            targets.rel_min[0, g] = self.index.rel_min[chosen.number]
            targets.list_id[0, g] = chosen.number
        outer = None
        if self.prompt.document_first:
            outer = self.prompt.static()
        else:  # as attention wants them
            rows.sort(key=lambda row: len(row[0]), reverse=True)
        targets.label_row.reshape(-1)[[place for *_, place in rows]] = np.arange(len(rows))
        sequences, owners = [row for row, *_ in rows], [owner for _, owner, _ in rows]
        return Micro(pack(self.config, prefixes, sequences, owners, bucket, outer), targets)

    def _encode_or_leave_out(self, chosen: Chosen) -> tuple[Encoded, list[Encoded]] | None:
        try:
            return self._encode(chosen)
        except ContentError as error:
            if self.quarantine is None:
                raise
            self.quarantine.leave_out(str(self.index.queries[chosen.number]), error)
            return None

    def _encode(self, chosen: Chosen) -> tuple[Encoded, list[Encoded]]:
        """The query's side, with the static part where it comes first, and the candidates."""
        query = self.dataset.query(str(self.index.queries[chosen.number]))
        place = f"query {query.qid}"
        encode = self.prompt.query if self.prompt.document_first else self.prompt.prefix
        asked = encode(query.parts, query.instruction, place)
        candidates = []
        for item_row in self.index.items[chosen.slots]:
            did = str(self.index.item_ids[item_row])
            where = f"{place}: candidate {did}"
            parts = self.dataset.item(did).parts
            candidates.append(self.prompt.candidate(parts, where, len(asked)))
        return asked, candidates


def empty_targets(lists: int, list_size: int) -> Targets:
    """Padding targets of shape (1, lists, list_size)."""
    return Targets(
        label_row=np.zeros((1, lists, list_size), np.int32),
        mask=np.zeros((1, lists, list_size), bool),
        grade=np.full((1, lists, list_size), -1.0, np.float32),
        rel_min=np.ones((1, lists), np.float32),
        list_id=np.full((1, lists), -1, np.int32),
    )


def plan_settings(config: TrainConfig, mesh: Mesh, prompt: Prompt) -> PlanSettings:
    """The shape of a training batch on this mesh.

    Raises:
        ValueError: the lists of an update do not divide over shards and micro-batches.
    """
    shards, batch = sharding.shard_count(mesh), config.batch
    if batch.lists % (shards * batch.accumulate):
        raise ValueError(
            f"batch.lists = {batch.lists} must be a multiple of {shards} shards (mesh data x fsdp) "
            f"x {batch.accumulate} (batch.accumulate)"
        )
    if config.data.list_size % batch.chunks:
        raise ValueError(
            f"data.list_size = {config.data.list_size} must be a multiple of batch.chunks = "
            f"{batch.chunks}"
        )
    return PlanSettings(
        seed=config.seed,
        micro_batches=batch.accumulate,
        shards=shards,
        lists=batch.lists // (shards * batch.accumulate),
        list_size=config.data.list_size,
        max_positives=config.data.max_positives,
        min_other_modality=config.data.min_other_modality,
        kind_power=config.data.kind_power,
        length_window=config.data.length_window,
        max_tokens=config.data.max_tokens,
        buckets=config.data.buckets,
        outer=len(prompt.static()) if prompt.document_first else 0,
        chunks=batch.chunks,
    )


def train_batches(
    plan: TrainPlan, encoder: Encoder, mesh: Mesh, start: int, workers: int, prefetch: int
) -> Iterator[Item]:
    """Batches from number `start` on, endlessly; each process makes its own shards only."""
    mine = local_shards(mesh)

    def make(number: int) -> tuple[BatchPlan, dict[int, Micro]]:
        planned = plan[int(number)]
        return planned, {
            shard: _stack_micro(
                [part for m in planned.lists for part in encoder.shard(m[shard], planned.bucket)]
            )
            for shard in mine
        }

    numbers = grain.MapDataset.range(start, sys.maxsize).map(make)
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=prefetch)
    for position, (planned, shards) in enumerate(numbers.to_iter_dataset(options), start + 1):
        ids = tuple(
            str(plan.index.queries[chosen.number])
            for micro in planned.lists
            for lists in micro
            for chosen in lists
        )
        yield Item(to_devices(shards, mesh), ids, position)


def evaluation_batches(
    plan: EvaluationPlan, encoder: Encoder, mesh: Mesh, workers: int, prefetch: int
) -> Iterator[tuple[Micro, list[list[Chosen]]]]:
    """Every batch of the plan once, on the devices with M = 1, and its lists by shard."""
    mine = local_shards(mesh)

    def make(number: int) -> tuple[BatchPlan, dict[int, Micro]]:
        planned = plan[int(number)]
        (lists,) = planned.lists
        return planned, {
            shard: _stack_micro(encoder.shard(lists[shard], planned.bucket)) for shard in mine
        }

    numbers = grain.MapDataset.range(len(plan)).map(make)
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=prefetch)
    for planned, shards in numbers.to_iter_dataset(options):
        yield to_devices(shards, mesh), planned.lists[0]


def local_shards(mesh: Mesh) -> list[int]:
    """Which of the S shards this process's devices hold."""
    count = sharding.shard_count(mesh)
    places = sharding.batch_sharding(mesh).addressable_devices_indices_map((count,))
    parts = [index[0] for index in places.values() if index is not None]
    return sorted({number for part in parts for number in range(count)[part]})


def to_devices(shards: dict[int, Micro], mesh: Mesh) -> Micro:
    """Global (M, S, ...) arrays from this process's (M, 1, ...) shards."""
    count, place = sharding.shard_count(mesh), micro_sharding(mesh)
    first = next(iter(shards.values()))
    leaves = {shard: jax.tree.leaves(micro) for shard, micro in shards.items()}
    arrays = []
    for at, leaf in enumerate(jax.tree.leaves(first)):
        shape = (leaf.shape[0], count, *leaf.shape[2:])

        def block(index: Any, at: int = at) -> np.ndarray:
            return np.concatenate([leaves[s][at] for s in range(count)[index[1]]], axis=1)

        arrays.append(jax.make_array_from_callback(shape, place, block))
    return jax.tree.unflatten(jax.tree.structure(first), arrays)


def _stack_micro(micros: list[Micro]) -> Micro:
    """(M, 1, ...) from M trees of (1, ...)."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *micros)

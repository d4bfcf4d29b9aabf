"""A corpus into a store: every item's keys and values, a shard at a time, from where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from tqdm import tqdm

from unirank_jax.content import ContentError
from unirank_jax.engine import Engine
from unirank_jax.intake import OnError, documents
from unirank_jax.prompt import Encoded, Prompt
from unirank_jax.store import (
    SHARD,
    Entry,
    Note,
    Shape,
    Store,
    describe,
    digest,
    quantised,
    read_notes,
    write_shard,
)

Item = Encoded | ContentError


def shape_of(engine: Engine, int8: bool) -> Shape:
    """What the entries of a model are made of."""
    text = engine.config.text
    return Shape(text.depth, text.kv_heads, text.head_dim, engine.compute.dtype, int8)


def build(
    engine: Engine,
    prompt: Prompt,
    items: Sequence[Any],
    model: str,
    *,
    folder: Path | None,
    budget_bytes: int | None,
    int8: bool,
    workers: int,
    on_error: OnError,
    progress: bool,
) -> Store:
    """See `Reranker.index`."""
    shape = shape_of(engine, int8)
    store = Store(model, shape, items)
    dtype = jnp.dtype(engine.compute.dtype)
    if folder is not None:
        describe(folder, model, shape, len(items))
    encoded = documents(prompt, items, workers)
    left = budget_bytes
    with tqdm(total=len(items), desc="index", unit="item", disable=not progress) as bar:
        for number in range(-(-len(items) // SHARD)):
            some = list(islice(encoded, SHARD))
            _raise_first(some, on_error)
            notes = _notes(some, shape, dtype.itemsize, left)
            if left is not None:
                sizes = (shape.bytes_of(n.tokens, dtype.itemsize) for n in notes if n.kept)
                left -= sum(sizes)
            if folder is None:
                store.add(*_computed(engine, prompt, some, notes, int8))
            elif _digests(read_notes(folder, number)) != _digests(notes):
                write_shard(folder, number, *_computed(engine, prompt, some, notes, int8))
            bar.update(len(some))
    if folder is None:
        return store
    store = Store.open(folder, dtype)
    store.items = items
    return store


def _raise_first(some: Sequence[Item], on_error: OnError) -> None:
    for item in some:
        if isinstance(item, ContentError) and on_error == "raise":
            raise item


def _notes(some: Sequence[Item], shape: Shape, width: int, left: int | None) -> list[Note]:
    """Notes of a shard; the first items that fit what is left of the budget are kept."""
    notes = []
    for item in some:
        if isinstance(item, ContentError):
            notes.append(Note(0, 0, False, str(item), "", kept=False))
            continue
        size = shape.bytes_of(len(item), width)
        kept = left is None or size <= left
        if kept and left is not None:
            left -= size
        notes.append(Note(len(item), 0, item.truncated, None, digest(item), kept))
    return notes


def _digests(notes: Sequence[Note] | None) -> list[tuple[str, bool]] | None:
    return None if notes is None else [(note.digest, note.kept) for note in notes]


def _computed(
    engine: Engine, prompt: Prompt, some: Sequence[Item], notes: Sequence[Note], int8: bool
) -> tuple[list[Note], list[Entry | None]]:
    """Notes and entries of a shard, in order."""
    entries: list[Entry | None] = [None] * len(some)
    whole = list(notes)
    kept = [at for at, note in enumerate(notes) if note.kept]
    wanted = [item for at in kept if isinstance(item := some[at], Encoded)]
    for place, values, following in engine.documents(prompt.static(), wanted):
        at = kept[place]
        entries[at] = quantised(values) if int8 else Entry(values, None)
        whole[at] = replace(notes[at], following=following)
    return whole, entries


def report(store: Store, engine: Engine) -> str:
    """Bytes of an item, what it would cost to compute it again, and where reading wins."""
    tokens = [note.tokens for note in store.notes if note.kept]
    if not tokens:
        return f"{len(store)} items, none kept"
    mean = sum(tokens) / len(tokens)
    size = store.nbytes / len(tokens)
    flop = 2 * engine.decoder_cost(round(mean))
    return (
        f"{len(store)} items, {store.kept} kept, {store.nbytes / 2**20:,.1f} MiB: "
        f"{mean:,.0f} tokens and {size / 2**10:,.1f} KiB each; reading one replaces "
        f"{flop / 1e9:,.2f} GFLOP of the decoder (and the tower's), so it wins where the machine "
        "computes less than "
        f"{flop / size:,.0f} FLOP in the time in which it reads a byte"
    )

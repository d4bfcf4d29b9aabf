"""Sizes and judgements of a split, read once from headers: what the plan of batches is made from.

No image is decoded. The index is cached in the run's folder under a name made of everything that it
depends on: data, prompt, tokenizer and image budget. No JAX here.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from train.config import name_of
from unirank_jax.content import ContentError
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.prompt import Length, Prompt

NOTHING = Length(0, (), False)  # of what cannot be read
SHARED = "UNIRANK_RUN_CACHE"  # environment variable: folder of what runs on the same data share


class PlanError(ValueError):
    """A dataset or setting from which no batch can be made."""


@dataclass(frozen=True)
class Index:
    """Sizes and judgements of a split as arrays. Lists are ragged: list i has slots
    `starts[i]:starts[i + 1]` of `items` and `grades`."""

    queries: np.ndarray  # (L,) str
    kinds: np.ndarray  # (L,) str: the type of the query
    query_sizes: np.ndarray  # (L, 3) int32: tokens, images, patches of the largest
    rel_min: np.ndarray  # (L,) int32
    starts: np.ndarray  # (L + 1,) int64
    items: np.ndarray  # (N,) int32: rows of item_ids
    grades: np.ndarray  # (N,) int32
    missed: np.ndarray  # (L,) int32: relevant candidates that are not on the list
    item_ids: np.ndarray  # (U,) str
    item_sizes: np.ndarray  # (U, 3) int32: tokens after an empty prefix, images, patches
    item_modality: np.ndarray  # (U,) str

    def __len__(self) -> int:
        return len(self.queries)

    def relevant(self, number: int) -> np.ndarray:
        """Which candidates of a list are relevant: (C,) bool."""
        slots = slice(self.starts[number], self.starts[number + 1])
        return self.grades[slots] >= self.rel_min[number]


def build_index(dataset: Dataset, split: str, prompt: Prompt, *, tolerant: bool = False) -> Index:
    """Read every list, query and candidate of a split once; images by their headers only.

    tolerant: a content that cannot be encoded takes no room; whoever encodes it will see.

    Raises:
        ContentError: a content that cannot be encoded, by its id.
        PlanError: the split has no list.
    """

    def length(measure: Callable[..., Length], *content: Any) -> Length:
        try:
            return measure(*content)
        except ContentError:
            if not tolerant:
                raise
            return NOTHING

    rows: dict[str, int] = {}
    items: list[int] = []
    lists = list(dataset.lists(split))
    if not lists:
        raise PlanError(f"split {split!r} has no list; give the dataset some or choose another")
    for ranked in lists:
        items += [rows.setdefault(did, len(rows)) for did in ranked.dids]
    queries = [dataset.query(ranked.qid) for ranked in lists]
    # One at a time: in the form "image" an item holds the pixels of its picture.
    seen = [
        (length(prompt.candidate_length, item.parts, f"candidate {item.did}", 0), item.modality)
        for item in map(dataset.item, rows)
    ]
    return Index(
        queries=np.array([query.qid for query in queries]),
        kinds=np.array([query.kind for query in queries]),
        query_sizes=_sizes(
            length(prompt.query_length, query.parts, query.instruction, f"query {query.qid}")
            for query in queries
        ),
        rel_min=np.array([query.rel_min for query in queries], np.int32),
        starts=np.cumsum([0, *(len(ranked.dids) for ranked in lists)]),
        items=np.array(items, np.int32),
        grades=np.array([grade for ranked in lists for grade in ranked.grades], np.int32),
        missed=np.array(
            [
                sum(grade >= query.rel_min for grade in ranked.missing)
                for query, ranked in zip(queries, lists, strict=True)
            ],
            np.int32,
        ),
        item_ids=np.array(list(rows)),
        item_sizes=_sizes(length for length, _ in seen),
        item_modality=np.array([modality for _, modality in seen]),
    )


def cached_index(
    dataset: Dataset, split: str, prompt: Prompt, folder: Path, *, tolerant: bool = False
) -> Index:
    """`build_index`, kept in `folder` under a name made of everything that it depends on.

    Where the environment variable UNIRANK_RUN_CACHE names a folder, it is that one.
    """
    folder = Path(os.environ.get(SHARED) or folder)
    key = {
        "fields": [field.name for field in fields(Index)],
        "data": dataset.fingerprint,
        "split": split,
        "prompt": prompt.prompt_id,
        "instruction": prompt.instruction,
        "tokens": [prompt.max_tokens, prompt.max_query_tokens],
        "images": repr(prompt.spec),
        "tokenizer": _fingerprint(prompt),
    }
    path = folder / f"sizes-{split}-{name_of(key)}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            return Index(**{field.name: stored[field.name] for field in fields(Index)})
    index = build_index(dataset, split, prompt, tolerant=tolerant)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}-{platform.node()}.tmp.npz")  # one per process
    np.savez(temporary, **{field.name: getattr(index, field.name) for field in fields(Index)})
    temporary.replace(path)
    return index


def _sizes(lengths: Iterable[Length]) -> np.ndarray:
    rows = [(n.tokens, len(n.patches), max(n.patches, default=0)) for n in lengths]
    return np.array(rows, np.int32).reshape(-1, 3)


def _fingerprint(prompt: Prompt) -> list[int]:
    """Ids that change with the vocabulary, its merges or its special tokens."""
    text = "Fluorobenzene C6H5F: figure 12, the quick brown fox; Über 3.14 \n 日本"
    return [*prompt.static().tokens.tolist(), *prompt.tokenizer.encode(text)]

"""Scores of every query's retrieved candidates, in shards of JSON lines: what mining reads."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from train import processes
from train.baselines import unit_vectors
from train.dual import Embedder
from train.evaluation import content
from train.first_stage import FirstStage
from train.judging import Assessor
from train.mining import Pool
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.formats.writing import json_line, write_lines
from unirank_jax.datasets.records import Example, Item
from unirank_jax.reranker import Reranker

HISTORY = "history.json"  # beside the shards
PART = 8192  # items of the pool that are embedded and kept together


def write_scores(
    shards: Mapping[Path, Sequence[Example]],
    dataset: Dataset,
    split: str,
    embedder: Embedder,
    reranker: Reranker,
    *,
    texts: int,
    images: int,
    vectors: Path,
) -> None:
    """Write the shards that are missing, one record per query; of several processes each its own.

    The last digits of a logit depend on the sizes of the batch it was computed in, and these on all
    batches before. So every shard begins with what is known after the first one, written beside it:
    whoever writes a shard, it has the same bytes.

    texts, images: candidates of each form that are retrieved. vectors: a folder that keeps the
    embeddings of the pool.
    """
    items = [dataset.item(did) for did in dataset.pool(split)]
    assessor = Assessor(dataset, split, items)
    pool = _vectors(vectors, embedder, items)
    stage = FirstStage(items, pool, texts=texts, images=images)
    first, *rest = shards
    history = first.with_name(HISTORY)
    here = processes.share()
    own = here.of(rest)

    def missing(path: Path) -> bool:
        return not path.exists() or (path == first and not history.exists())

    def write(path: Path) -> None:
        part = shards[path]
        queries = [example.query for example in part]
        asked = unit_vectors("queries", embedder.queries, queries)
        pools = [
            _pool(example, stage, found.places.tolist(), found.raw)
            for example, found in zip(part, stage.search(queries, asked), strict=True)
        ]
        records = list(_records(part, pools, assessor, reranker))
        if path == first:
            write_lines(history, [json.dumps(reranker.engine.history())])
        write_lines(path, map(json_line, records))

    total = sum(len(shards[path]) for path in ([first, *own] if here.index == 0 else own))
    with tqdm(total=total, desc="scoring", unit="query") as bar:
        if here.index == 0:
            if missing(first):
                write(first)
            bar.update(len(shards[first]))
        processes.meet("first shard")
        known = json.loads(history.read_text("utf-8"))
        for path in own:
            if missing(path):
                reranker.engine.recall(known)
                write(path)
            bar.update(len(shards[path]))
    processes.meet("scores")


def _pool(
    example: Example, stage: FirstStage, places: list[int], raw: Any
) -> tuple[list[Any], dict[str, list[float | None]], list[bool]]:
    """Candidates: what was retrieved, and the judged ones that were not."""
    items = [stage.items[place] for place in places]
    found = {item.did for item in items}
    missed = [
        item
        for item, grade in zip(example.candidates, example.grades, strict=True)
        if item.did not in found and grade >= example.query.rel_min
    ]
    scores = {name: [*_plain(values), *[None] * len(missed)] for name, values in raw.items()}
    retrieved = [True] * len(items) + [False] * len(missed)
    return items + missed, scores, retrieved


def _records(
    examples: Sequence[Example], pools: Sequence[Any], assessor: Assessor, reranker: Reranker
) -> Iterator[dict[str, Any]]:
    logits = reranker.logits_many(
        [content(example.query.parts) for example in examples],
        [[content(item.parts) for item in items] for items, _, _ in pools],
        instruction=[example.query.instruction for example in examples],
        on_error="nan",
    )
    for example, (items, raw, retrieved), values in zip(examples, pools, logits, strict=True):
        yield {
            "qid": example.query.qid,
            "rel_min": example.query.rel_min,
            "dids": [item.did for item in items],
            "grades": assessor.grades(example, items),
            "modalities": [item.modality for item in items],
            "dup_ids": [item.dup_id for item in items],
            "retrieved": retrieved,
            "logits": _plain(values),
            "scores": _plain(reranker.calibrate(values)),
            "retrievers": raw,
        }


def _vectors(folder: Path, embedder: Embedder, items: Sequence[Item]) -> np.ndarray:
    """Embeddings of the pool, kept in parts; of several processes each makes its own."""
    folder.mkdir(exist_ok=True)
    parts = {
        folder / f"{start // PART:05d}.npy": items[start : start + PART]
        for start in range(0, len(items), PART)
    }
    for path in processes.share().of(list(parts)):
        if not path.exists():
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            with open(temporary, "wb") as file:
                np.save(file, unit_vectors("items", embedder.items, parts[path]), False)
            os.replace(temporary, path)
    processes.meet("vectors")
    return np.concatenate([np.load(path, allow_pickle=False) for path in parts])


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a .jsonl.gz file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _plain(values: Any) -> list[float | None]:
    """9 digits carry a float32 without loss; None for NaN."""
    return [None if np.isnan(v) else float(f"{v:.9g}") for v in values]


def pool_of(record: dict[str, Any]) -> Pool:
    """A stored record as a pool; candidates that could not be scored and unjudged ones go."""
    keep = [
        i
        for i, (logit, grade) in enumerate(zip(record["logits"], record["grades"], strict=True))
        if logit is not None and grade >= 0
    ]
    record["retrieved"] = [record["retrieved"][i] for i in keep]

    def column(values: Sequence[Any]) -> list[Any]:
        return [values[i] for i in keep]

    def numbers(values: Sequence[float | None]) -> np.ndarray:
        return np.array([np.nan if v is None else v for v in column(values)], np.float64)

    return Pool(
        qid=record["qid"],
        dids=tuple(column(record["dids"])),
        grades=np.array(column(record["grades"]), np.int64),
        rel_min=record["rel_min"],
        modalities=tuple(column(record["modalities"])),
        dup_ids=tuple(column(record["dup_ids"])),
        logits=numbers(record["logits"]),
        scores=numbers(record["scores"]),
        retrievers={name: numbers(values) for name, values in record["retrievers"].items()},
    )

"""`python -m train.mine`: hard negatives and preferences for the lists of one split.

Retrieves each query's candidates from the whole pool, scores them with the current model, drops
what may be relevant, and draws negatives by margin and modality (train/mining.py). Other items of
the query's own object that its list does not judge are never negatives (train/judging.py). The
scores are written in shards; running the same command again goes on after the last one, and mining
again with other settings reads them without scoring. Train on the result with
`python -m train.sft --set data.lists=DIR/mined.jsonl.gz`.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from train.baselines import unit_vectors
from train.config import ConfigError, keep, load, parse, to_dict
from train.dual import Embedder
from train.evaluation import content, examples_of
from train.first_stage import FirstStage
from train.initial import ASSETS
from train.judging import Assessor
from train.mining import Mined, MiningSettings, Pool, balanced, mine, preferences, summary
from unirank_jax.datasets.dataset import Dataset, DatasetError, open_source
from unirank_jax.datasets.formats.writing import json_line, write_lines
from unirank_jax.datasets.overlay import write_lists
from unirank_jax.datasets.records import Example, RankList
from unirank_jax.hub import WeightsError, fingerprint, resolve
from unirank_jax.loading import load as load_reranker
from unirank_jax.metrics import UNJUDGED
from unirank_jax.reranker import Reranker

FORMAT = 2  # of the shards; 2: unjudged items of the query's own object have grade -1
ABOUT, VECTORS, LISTS = "mining.json", "vectors.npy", "mined.jsonl.gz"
EXPECTED = (ConfigError, DatasetError, WeightsError, ValueError)


@dataclass(frozen=True)
class MineConfig:
    """Everything that `train.mine` needs."""

    name: str
    source: str  # "sample:sci", or a dataset folder
    split: str
    model: str  # exported folder or hub id that scores the candidates; "" = the embedded default
    dual_encoder: str  # pretrained folder that retrieves; "" = the embedded base
    limit: int  # at most this many lists, evenly spaced; 0 = all
    texts: int  # candidates of each form from the first stage
    images: int
    shard_queries: int  # queries per file: what a killed run loses at most
    mining: MiningSettings
    pairs_per_query: int  # preferences, at most


def main(argv: Sequence[str] | None = None) -> int:
    """Run or go on. Exit code 0 when finished, 1 on an error."""
    arguments = parse("mine", __doc__ or "", "configs/sci_mine.py", argv)
    try:
        run(load(arguments.config, arguments.set), Path(arguments.workdir))
    except EXPECTED as error:
        print(f"train.mine: {error}", file=sys.stderr)
        return 1
    return 0


def run(config: MineConfig, workdir: Path) -> dict[str, int]:
    """Score what is missing, then mine; prints and returns the counts.

    Raises:
        ConfigError: the folder holds the scores of other data, of another model or other places.
    """
    dataset = open_source(config.source)
    if config.split not in dataset.splits:
        raise DatasetError(f"split: no lists in {config.split!r}; choose of {dataset.splits}")
    workdir.mkdir(parents=True, exist_ok=True)
    scoring = _scoring(config, dataset)
    keep(workdir / ABOUT, scoring, "scores of another kind")
    examples = examples_of(dataset, config.split, config.limit or None)
    shards = [
        (workdir / f"scores-{start // config.shard_queries:05d}.jsonl.gz", start)
        for start in range(0, len(examples), config.shard_queries)
    ]
    if not all(path.exists() for path, _ in shards):
        _score(config, dataset, examples, shards, workdir)
    counts = _mine(config, shards, workdir)
    width = max(len(name) for name in counts)
    print("\n".join(f"{name.ljust(width)}  {count}" for name, count in counts.items()))
    print(f"{workdir}: {LISTS}, preferences.jsonl.gz, audit.jsonl, summary.json")
    return counts


# Scoring ------------------------------------------------------------------------------------------


def _score(
    config: MineConfig,
    dataset: Dataset,
    examples: Sequence[Example],
    shards: Sequence[tuple[Path, int]],
    workdir: Path,
) -> None:
    """Write the shards that are missing, one record per query."""
    embedder = Embedder(load_reranker(_dual_encoder(config)))
    items = [dataset.item(did) for did in dataset.pool(config.split)]
    assessor = Assessor(dataset, config.split, items)
    vectors = _vectors(workdir / VECTORS, lambda: unit_vectors("items", embedder.items, items))
    stage = FirstStage(items, vectors, texts=config.texts, images=config.images)
    reranker = load_reranker(_model(config))
    with tqdm(total=len(examples), desc="scoring", unit="query") as bar:
        for path, start in shards:
            part = examples[start : start + config.shard_queries]
            if not path.exists():
                queries = [example.query for example in part]
                asked = unit_vectors("queries", embedder.queries, queries)
                pools = [
                    _pool(example, stage, found.places.tolist(), found.raw)
                    for example, found in zip(part, stage.search(queries, asked), strict=True)
                ]
                write_lines(path, map(json_line, _records(part, pools, assessor, reranker)))
            bar.update(len(part))


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


def _vectors(path: Path, make: Any) -> np.ndarray:
    """Embeddings of the pool, kept beside the shards."""
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with open(temporary, "wb") as file:
            np.save(file, make(), allow_pickle=False)
        os.replace(temporary, path)
    return np.load(path, allow_pickle=False)


# Mining -------------------------------------------------------------------------------------------


def _mine(config: MineConfig, shards: Sequence[tuple[Path, int]], workdir: Path) -> dict[str, int]:
    """From the shards to negatives, preferences, the audit list and counts."""
    outcomes: list[tuple[dict[str, Any], Pool, Mined | None]] = []
    unjudged = 0
    for path, _ in shards:
        for record in read(path):
            unjudged += record["grades"].count(UNJUDGED)
            pool = pool_of(record)
            found = any(
                there and relevant
                for there, relevant in zip(record["retrieved"], pool.relevant, strict=True)
            )
            outcomes.append((record, pool, mine(pool, config.mining) if found else None))
    mined = [(pool, one) for _, pool, one in outcomes if one is not None]
    pairs = balanced(
        [preferences(pool, one, config.mining, config.pairs_per_query) for pool, one in mined]
    )
    write_lists(workdir / LISTS, (_mined_list(pool, one) for pool, one in mined))
    write_lines(
        workdir / "preferences.jsonl.gz",
        (
            json_line(
                {
                    "qid": pool.qid,
                    "better": pool.dids[one.better],
                    "worse": pool.dids[one.worse],
                    "kind": one.kind,
                    "weight": float(f"{one.weight:.9g}"),
                }
            )
            for (pool, _), some in zip(mined, pairs, strict=True)
            for one in some
        ),
    )
    audit = [
        {"qid": pool.qid, "why": one.audit, "suspects": _dids(pool, one.removed)}
        for pool, one in mined
        if one.audit
    ]
    write_lines(workdir / "audit.jsonl", map(json_line, audit))
    counts = summary(one for _, _, one in outcomes)
    counts |= {"removed: unjudged": unjudged, "preferences": sum(map(len, pairs))}
    write_lines(workdir / "summary.json", [json.dumps(counts, indent=1), "\n"])
    return counts


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


def _mined_list(pool: Pool, mined: Mined) -> RankList:
    chosen = [*mined.positives, *mined.negatives]
    return RankList(
        qid=pool.qid,
        dids=tuple(pool.dids[i] for i in chosen),
        grades=tuple(int(pool.grades[i]) for i in chosen),
        neg_types=("positive",) * len(mined.positives) + mined.buckets,
    )


def _dids(pool: Pool, removed: dict[str, tuple[int, ...]]) -> list[str]:
    return [pool.dids[i] for i in removed["suspected positive"]]


# Files --------------------------------------------------------------------------------------------


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a .jsonl.gz file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _plain(values: Any) -> list[float | None]:
    """9 digits carry a float32 without loss; None for NaN."""
    return [None if np.isnan(v) else float(f"{v:.9g}") for v in values]


# What the scores depend on ------------------------------------------------------------------------


def _scoring(config: MineConfig, dataset: Dataset) -> dict[str, Any]:
    """What the scores depend on: all of the configuration but the mining, data and weights."""
    kept = to_dict(config)
    for name in ("name", "mining", "pairs_per_query", "source", "model", "dual_encoder"):
        del kept[name]
    return kept | {
        "format": FORMAT,
        "data": dataset.fingerprint,
        "model": fingerprint(_model(config)),
        "dual_encoder": fingerprint(_dual_encoder(config)),
    }


def _model(config: MineConfig) -> Path:
    return resolve(config.model) if config.model else ASSETS / "default"


def _dual_encoder(config: MineConfig) -> Path:
    return resolve(config.dual_encoder) if config.dual_encoder else ASSETS / "base"


if __name__ == "__main__":
    sys.exit(main())

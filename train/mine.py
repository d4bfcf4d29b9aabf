"""`python -m train.mine`: hard negatives and preferences for the lists of one split.

Retrieves each query's candidates from the whole pool, scores them with the current model, drops
what may be relevant, and draws negatives by margin and modality (train/mining.py). Other items of
the query's own object that its list does not judge are never negatives (train/judging.py). The
scores are written in shards; running the same command again goes on after the last one, and mining
again with other settings reads them without scoring. Several processes (a pod, train/processes.py)
that run the same command share the shards; the result does not depend on how many they are. Train
on it with `python -m train.sft --set data.lists=DIR/mined.jsonl.gz`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from train import processes
from train.config import ConfigError, keep, load, parse, to_dict
from train.dual import Embedder
from train.evaluation import examples_of
from train.initial import ASSETS
from train.mining import Mined, MiningSettings, Pool, balanced, mine, preferences, summary
from train.pool_scores import pool_of, read, write_scores
from unirank_jax import sharding
from unirank_jax.datasets.dataset import Dataset, DatasetError, open_source
from unirank_jax.datasets.formats.writing import json_line, write_lines
from unirank_jax.datasets.overlay import write_lists
from unirank_jax.datasets.records import RankList
from unirank_jax.hub import WeightsError, fingerprint, resolve
from unirank_jax.loading import load as load_reranker
from unirank_jax.metrics import UNJUDGED
from unirank_jax.reranker import Reranker

FORMAT = 4  # of the shards; 4: each begins with the history of the first
ABOUT, VECTORS, LISTS = "mining.json", "vectors", "mined.jsonl.gz"
EXPECTED = (ConfigError, DatasetError, WeightsError, ValueError, jax.errors.JaxRuntimeError)


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
    tensor: int  # devices of each process that the model is spread over
    mining: MiningSettings
    pairs_per_query: int  # preferences, at most


def main(argv: Sequence[str] | None = None) -> int:
    """Run or go on. Exit code 0 when finished, 1 on an error."""
    arguments = parse("mine", __doc__ or "", "configs/sci_mine.py", argv)
    workdir = Path(arguments.workdir)
    try:
        config = load(arguments.config, arguments.set)
        processes.join()
        run(config, workdir)
    except EXPECTED as error:
        return processes.failed("train.mine", error, workdir)
    return 0


def run(config: MineConfig, workdir: Path) -> None:
    """Score what is missing, then mine and print the counts.

    Raises:
        ConfigError: the folder holds the scores of other data, of another model or other places.
    """
    dataset = open_source(config.source)
    if config.split not in dataset.splits:
        raise DatasetError(f"split: no lists in {config.split!r}; choose of {dataset.splits}")
    first = processes.share().index == 0
    scoring = _scoring(config, dataset)
    processes.agree({"configuration and data": json.dumps(scoring)})
    if first:
        workdir.mkdir(parents=True, exist_ok=True)
        keep(workdir / ABOUT, scoring, "scores of another kind")
    processes.meet("folder")
    examples = examples_of(dataset, config.split, config.limit or None)
    size = config.shard_queries
    shards = {
        workdir / f"scores-{start // size:05d}.jsonl.gz": examples[start : start + size]
        for start in range(0, len(examples), size)
    }
    if not processes.same(all(path.exists() for path in shards)):
        write_scores(
            shards,
            dataset,
            config.split,
            Embedder(load_reranker(_dual_encoder(config))),
            _reranker(config),
            texts=config.texts,
            images=config.images,
            vectors=workdir / VECTORS,
        )
    if first:
        counts = _mine(config, shards, workdir)
        width = max(len(name) for name in counts)
        print("\n".join(f"{name.ljust(width)}  {count}" for name, count in counts.items()))
        print(f"{workdir}: {LISTS}, preferences.jsonl.gz, audit.jsonl, summary.json")
    processes.meet("mined")


# Mining -------------------------------------------------------------------------------------------


def _mine(config: MineConfig, shards: Iterable[Path], workdir: Path) -> dict[str, int]:
    """From the shards to negatives, preferences, the audit list and counts."""
    outcomes: list[tuple[dict[str, Any], Pool, Mined | None]] = []
    unjudged = 0
    for path in shards:
        for record in read(path):
            unjudged += record["grades"].count(UNJUDGED)
            pool = pool_of(record)
            found = config.mining.missed_positives or any(
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


def _reranker(config: MineConfig) -> Reranker:
    """On the first of this process's devices, or over the first few."""
    if config.tensor == 1:
        return load_reranker(_model(config))
    devices = jax.local_devices()[: config.tensor]
    return load_reranker(_model(config), mesh=sharding.mesh(1, 1, config.tensor, devices))


def _model(config: MineConfig) -> Path:
    return resolve(config.model) if config.model else ASSETS / "default"


def _dual_encoder(config: MineConfig) -> Path:
    return resolve(config.dual_encoder) if config.dual_encoder else ASSETS / "base"


if __name__ == "__main__":
    sys.exit(main())

"""Pairs per second of this engine against transformers and sentence-transformers, in one run.

    python -m benchmarks.scoring --out results/m3/scoring.json
    python -m benchmarks.scoring --workloads short --rounds 3 --peers transformers

Same weights, same inputs, same threads; scores are compared. The peers' batch size is the best of
one sweep before the rounds; contenders take turns. Run it on an idle machine: the load and the
rate of a matrix product are measured before and after each workload, which is void when they moved
by more than a tenth. A workload takes ten minutes to half an hour; each is written when it is done,
and those that the file holds are not measured again unless they are void: after a change of the
code or of other arguments give another file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import model as shapes
from benchmarks.flops import needed
from benchmarks.machine import Machine, summary, timed, write
from benchmarks.workloads import WORKLOADS, Workload
from unirank_jax.indexing import report
from unirank_jax.loading import load
from unirank_jax.reranker import Reranker
from unirank_jax.scoring_config import ScoringConfig

BATCHES = (1, 2, 4, 8, 16, 32)
TOLERANCE = 1e-3  # of a logit
STORED = "document first, warm store"
Scorer = Callable[[Workload], np.ndarray]


def main() -> None:
    """The command; exit status 1 where scores differ or the machine was not steady."""
    arguments = _parser().parse_args()
    folder = shapes.save(Path(arguments.model))
    there = bool(arguments.out) and Path(arguments.out).exists()
    tables = json.loads(Path(arguments.out).read_text())["workloads"] if there else {}
    for name in arguments.workloads:
        if name in tables and tables[name]["valid"]:
            continue
        machine = Machine()
        workload = WORKLOADS[name](np.random.default_rng(0))
        print(f"{name}: {workload.pairs} pairs", file=sys.stderr)
        table = measure(folder, workload, arguments)
        machine.measure()
        for contender in table["contenders"].values():
            share = machine.share(contender["needed_flop_per_second"])
            contender["share_of_product_rate"] = share
        tables[name] = {**machine.about(), **table}
        write(arguments.out, {"workloads": tables})
    for name, table in tables.items():
        print(render(name, table))
    good = all(
        table["valid"]
        and max(table["largest_difference"], table["store"]["largest_difference"]) <= TOLERANCE
        for table in tables.values()
    )
    sys.exit(0 if good else 1)


def measure(folder: Path, workload: Workload, arguments: argparse.Namespace) -> dict[str, Any]:
    """One workload: every contender's times over the rounds, and whether scores agree."""
    ours = load(folder, scoring=_scoring(arguments, 0))
    contenders: dict[str, Scorer] = {"ours": _call(ours)}
    if any(not isinstance(one, str) for candidates in workload.lists for one in candidates):
        cached = load(folder, scoring=_scoring(arguments, 2**32))
        contenders["ours, vision cache warm"] = _call(cached)
    stored = Stored(folder, workload, arguments)
    contenders[STORED] = stored
    batches: dict[str, int] = {}
    for peer in arguments.peers:
        contenders[peer], batches[peer] = _best_batch(peer, folder, ours, workload)
        if peer == "transformers":
            contenders["one pair per forward"] = _peer(peer, folder, ours, 1)
    first: dict[str, float] = {}
    scores: dict[str, np.ndarray] = {}
    for name, scorer in contenders.items():
        first[name], scores[name] = timed(partial(scorer, workload))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds):
        for name, scorer in contenders.items():
            times[name].append(timed(partial(scorer, workload))[0])
    needs = needed(ours, workload)
    compared = [name for name in contenders if name not in ("sentence-transformers", STORED)]
    differences = [float(np.abs(scores[name] - scores["ours"]).max()) for name in compared]
    return {
        "pairs": workload.pairs,
        "needed_flop": needs,
        "largest_difference": max(differences),
        "spread_of_logits": float(scores["ours"].std()),
        "same_order": all(_same_order(scores["ours"], scores[name]) for name in compared),
        "batch": batches,
        "store": stored.about(),
        "programs": ours.engine.programs,
        "contenders": {
            name: {
                **summary(first[name], some),
                "pairs_per_second": round(workload.pairs / statistics.median(some), 2),
                "needed_flop_per_second": needs / statistics.median(some),
            }
            for name, some in times.items()
        },
    }


def render(name: str, table: dict[str, Any]) -> str:
    """One workload as lines of text."""
    lines = [
        f"{name}: {table['pairs']} pairs, {table['needed_flop'] / 1e9:.0f} GFLOP needed, largest "
        f"difference {table['largest_difference']:.1e} (spread {table['spread_of_logits']:.2f}), "
        f"same order: {table['same_order']}, peers' best batch {table['batch']}; the machine was "
        f"{'steady' if table['valid'] else 'NOT steady or not idle: void'}"
    ]
    kept = table["store"]
    lines.append(
        f"  store: {kept['report']}; made in {kept['index_s']:.1f} s, scores differ by "
        f"{kept['largest_difference']:.1e} from those without it"
    )
    ours = table["contenders"]["ours"]["median_s"]
    for contender, row in table["contenders"].items():
        lines.append(
            f"  {contender:26} {row['median_s']:9.3f} s {row['pairs_per_second']:9.1f} pairs/s "
            f"{100 * row['share_of_product_rate']:6.1f} % of the product rate "
            f"{row['median_s'] / ours:6.2f} x ours, first call {row['first_s']:.1f} s"
        )
    return "\n".join(lines)


class Stored:
    """The same weights with the document first: every candidate is in a store before the clock
    starts. Its scores are those of another prompt; they are compared with its own without store."""

    def __init__(self, folder: Path, workload: Workload, arguments: argparse.Namespace) -> None:
        self.model = load(shapes.document_first(folder), scoring=_scoring(arguments, 0))
        corpus = {id(one): one for candidates in workload.lists for one in candidates}
        self.seconds, self.store = timed(lambda: self.model.index(list(corpus.values())))
        place = {key: at for at, key in enumerate(corpus)}
        self.lists = [[self.store[place[id(c)]] for c in some] for some in workload.lists]
        plain = np.concatenate(self.model.logits_many(workload.queries, workload.lists))
        self.difference = float(np.abs(plain - self(workload)).max())

    def __call__(self, workload: Workload) -> np.ndarray:
        return np.concatenate(self.model.logits_many(workload.queries, self.lists))

    def about(self) -> dict[str, Any]:
        """Time to index, bytes, and the largest difference to scoring without the store."""
        return {
            "index_s": round(self.seconds, 3),
            "bytes": self.store.nbytes,
            "report": report(self.store, self.model.engine),
            "largest_difference": self.difference,
        }


def _scoring(arguments: argparse.Namespace, cache_bytes: int) -> ScoringConfig:
    return ScoringConfig(token_budget=arguments.token_budget, cache_bytes=cache_bytes)


def _call(reranker: Reranker) -> Scorer:
    def score(workload: Workload) -> np.ndarray:
        return np.concatenate(reranker.logits_many(workload.queries, workload.lists))

    return score


def _peer(name: str, folder: Path, ours: Reranker, batch: int) -> Scorer:
    from benchmarks.peers import SentenceTransformers, Transformers

    if name == "transformers":
        return Transformers(folder, ours, batch)
    return SentenceTransformers(folder, batch)


def _best_batch(name: str, folder: Path, ours: Reranker, workload: Workload) -> tuple[Scorer, int]:
    """The peer at the batch size that is fastest on this workload's first list; the sweep ends
    where two in a row were slower than the best."""
    scorer: Any = _peer(name, folder, ours, 1)
    first = Workload(workload.name, workload.queries[:1], workload.lists[:1])
    seconds = {}
    for batch in BATCHES:
        scorer.batch = batch
        scorer(first)
        seconds[batch] = timed(partial(scorer, first))[0]
        if min(seconds.values()) < min(list(seconds.values())[-2:]):
            break
    scorer.batch = min(seconds, key=lambda batch: seconds[batch])
    return scorer, scorer.batch


def _same_order(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether no two pairs whose scores differ clearly in one are the other way round in other."""
    gap = one[:, None] - one[None]
    turned = (gap > 2 * TOLERANCE) & (other[:, None] < other[None])
    return not turned.any()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scoring",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(WORKLOADS)
    parser.add_argument("--workloads", nargs="+", choices=names, default=names)
    peers = ["transformers", "sentence-transformers"]
    parser.add_argument("--peers", nargs="*", choices=peers, default=["transformers"])
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--token-budget", type=int, help="of ours (default: its own choice)")
    parser.add_argument(
        "--model", default="runs/benchmarks/100m", help="folder, made where it is absent"
    )
    parser.add_argument("--out", help="a file for the JSON")
    return parser


if __name__ == "__main__":
    main()

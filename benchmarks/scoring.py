"""Pairs per second of this engine against transformers and sentence-transformers, in one run.

    python -m benchmarks.scoring --out results/m3/scoring.json
    python -m benchmarks.scoring --workloads short --rounds 3 --peers transformers

Same weights, same inputs, same threads; scores are compared. The peers' batch size is the best of
one sweep before the rounds; contenders take turns. Run it on an idle machine: the load and the
rate of a matrix product are measured before, between and after, and the run is void when they
moved by more than a tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import model as shapes
from benchmarks.flops import needed
from benchmarks.workloads import WORKLOADS, Workload
from unirank_jax.reranker import Reranker, ScoringConfig, load

STEADY = 0.10  # the matrix-product rate may move by so much
QUIET = 0.35  # load average per core that other programs may cause before the run
BATCHES = (1, 2, 4, 8, 16, 32)
TOLERANCE = 1e-3  # of a logit
Scorer = Callable[[Workload], np.ndarray]


def main() -> None:
    """The command; exit status 1 where scores differ or the machine was not steady."""
    arguments = _parser().parse_args()
    load_before = os.getloadavg()[0] / (os.cpu_count() or 1)
    folder = shapes.save(Path(arguments.model))
    rng = np.random.default_rng(0)
    workloads = {name: WORKLOADS[name](rng) for name in arguments.workloads}
    rates = [product_rate()]
    tables = {}
    for name, workload in workloads.items():
        print(f"{name}: {workload.pairs} pairs", file=sys.stderr)
        tables[name] = measure(folder, workload, arguments)
        rates.append(product_rate())
    steady = max(rates) <= (1 + STEADY) * min(rates) and load_before <= QUIET
    found = {
        "device": jax.devices()[0].device_kind,
        "processors": os.cpu_count(),
        "jax": jax.__version__,
        "load_before": round(load_before, 2),
        "gflops_of_a_product": [round(rate / 1e9, 1) for rate in rates],
        "valid": steady,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "workloads": tables,
    }
    for name, table in tables.items():
        for contender in table["contenders"].values():
            share = contender["needed_flop_per_second"] / max(rates)
            contender["share_of_product_rate"] = round(share, 3)
        print(render(name, table))
    print("steady" if steady else "VOID: the machine was not idle or its speed moved")
    if arguments.out:
        path = Path(arguments.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    agree = all(table["largest_difference"] <= TOLERANCE for table in tables.values())
    sys.exit(0 if steady and agree else 1)


def measure(folder: Path, workload: Workload, arguments: argparse.Namespace) -> dict[str, Any]:
    """One workload: every contender's times over the rounds, and whether scores agree."""
    ours = load(folder, scoring=_scoring(arguments, 0))
    contenders: dict[str, Scorer] = {"ours": _call(ours)}
    if any(not isinstance(one, str) for candidates in workload.lists for one in candidates):
        cached = load(folder, scoring=_scoring(arguments, 2**32))
        contenders["ours, vision cache warm"] = _call(cached)
    batches: dict[str, int] = {}
    for peer in arguments.peers:
        contenders[peer], batches[peer] = _best_batch(peer, folder, ours, workload)
        if peer == "transformers":
            contenders["one pair per forward"] = _peer(peer, folder, ours, 1)
    first: dict[str, float] = {}
    scores: dict[str, np.ndarray] = {}
    for name, scorer in contenders.items():
        first[name], scores[name] = _timed(scorer, workload)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds):
        for name, scorer in contenders.items():
            times[name].append(_timed(scorer, workload)[0])
    needs = needed(ours, workload)
    compared = [name for name in contenders if name != "sentence-transformers"]
    differences = [float(np.abs(scores[name] - scores["ours"]).max()) for name in compared]
    return {
        "pairs": workload.pairs,
        "needed_flop": needs,
        "largest_difference": max(differences),
        "spread_of_logits": float(scores["ours"].std()),
        "same_order": all(_same_order(scores["ours"], scores[name]) for name in compared),
        "batch": batches,
        "programs": ours.engine.programs,
        "contenders": {
            name: {
                "first_s": round(first[name], 3),
                "median_s": round(statistics.median(some), 4),
                "lowest_s": round(min(some), 4),
                "highest_s": round(max(some), 4),
                "pairs_per_second": round(workload.pairs / statistics.median(some), 2),
                "needed_flop_per_second": needs / statistics.median(some),
            }
            for name, some in times.items()
        },
    }


def product_rate() -> float:
    """FLOP per second of a float32 matrix product, the best of a few."""
    size = 1536
    left = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    product(left).block_until_ready()
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        product(left).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def render(name: str, table: dict[str, Any]) -> str:
    """One workload as lines of text."""
    lines = [
        f"{name}: {table['pairs']} pairs, {table['needed_flop'] / 1e9:.0f} GFLOP needed, largest "
        f"difference {table['largest_difference']:.1e} (spread {table['spread_of_logits']:.2f}), "
        f"same order: {table['same_order']}, peers' best batch {table['batch']}"
    ]
    ours = table["contenders"]["ours"]["median_s"]
    for contender, row in table["contenders"].items():
        lines.append(
            f"  {contender:26} {row['median_s']:9.3f} s {row['pairs_per_second']:9.1f} pairs/s "
            f"{100 * row['share_of_product_rate']:6.1f} % of the product rate "
            f"{row['median_s'] / ours:6.2f} x ours, first call {row['first_s']:.1f} s"
        )
    return "\n".join(lines)


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
    """The peer at the batch size that is fastest on this workload."""
    scorer: Any = _peer(name, folder, ours, 1)
    seconds = {}
    for batch in BATCHES:
        scorer.batch = batch
        scorer(workload)
        seconds[batch] = _timed(scorer, workload)[0]
    scorer.batch = min(seconds, key=lambda batch: seconds[batch])
    return scorer, scorer.batch


def _timed(scorer: Scorer, workload: Workload) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    found = scorer(workload)
    return time.perf_counter() - start, found


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
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--token-budget", type=int, help="of ours (default: its own choice)")
    parser.add_argument(
        "--model", default="runs/benchmarks/100m", help="folder, made where it is absent"
    )
    parser.add_argument("--out", help="a file for the JSON")
    return parser


if __name__ == "__main__":
    main()

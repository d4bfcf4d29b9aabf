"""How far a candidate's logit moves with its company: random mixes against every candidate alone.

    python -m benchmarks.invariance --mixes 500 --out results/m3/invariance.json

Queries and candidates of the sample, in lists of random length and order, several queries at once
or one, under two token budgets. A ranking flips where two candidates of a list change places though
their logits alone differ by more than twice the tolerance. In bfloat16 flips are counted, too.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.machine import write
from train.evaluation import content
from unirank_jax.datasets.dataset import sample
from unirank_jax.loading import DEFAULT_FOLDER, load
from unirank_jax.reranker import Reranker
from unirank_jax.scoring_config import ScoringConfig

TOLERANCE = 1e-4  # of the spread of all logits, in float32
QUERIES, CANDIDATES = 12, 60
BUDGETS = (None, 400)


def main() -> None:
    """The command; exit status 1 where a float32 logit moves too far or a ranking flips."""
    arguments = _parser().parse_args()
    found = {
        dtype: measure(arguments.model, dtype, arguments.mixes) for dtype in ("float32", "bfloat16")
    }
    for dtype, table in found.items():
        print(
            f"{dtype}: {table['mixes']} mixes, {table['logits']} logits, largest move "
            f"{table['largest_move']:.1e} of the spread {table['spread']:.2f}, "
            f"{table['flips']} of {table['compared']} clear pairs flip"
        )
    write(arguments.out, found)
    exact = found["float32"]
    sys.exit(0 if exact["largest_move"] <= TOLERANCE and not exact["flips"] else 1)


def measure(folder: str, dtype: str, mixes: int) -> dict[str, Any]:
    """All mixes under one dtype."""
    models = [
        load(folder, dtype=dtype, scoring=ScoringConfig(token_budget=budget, cache_bytes=size))
        for budget, size in zip(BUDGETS, (2**28, 0), strict=True)
    ]
    queries, candidates = contents()
    alone = np.stack([_alone(models[0], query, candidates) for query in queries])
    spread = float(alone.std())
    rng = np.random.default_rng(0)
    largest = 0.0
    flips = compared = logits = 0
    for number in tqdm(range(mixes), desc=dtype, unit="mix"):
        asked = rng.permutation(QUERIES)[: rng.integers(1, 4)]
        lists = [rng.permutation(CANDIDATES)[: rng.integers(1, 41)] for _ in asked]
        results = models[number % 2].logits_many(
            [queries[q] for q in asked], [[candidates[c] for c in some] for some in lists]
        )
        for q, some, values in zip(asked, lists, results, strict=True):
            expected = alone[q, some]
            largest = max(largest, float(np.abs(values - expected).max()) / spread)
            gap = expected[:, None] - expected[None]
            clear = gap > 2 * TOLERANCE * spread
            compared += int(clear.sum())
            flips += int((clear & (values[:, None] < values[None])).sum())
            logits += len(some)
    return {
        "mixes": mixes,
        "logits": logits,
        "spread": spread,
        "largest_move": largest,
        "compared": compared,
        "flips": flips,
    }


def contents() -> tuple[list[Any], list[Any]]:
    """Queries of every form, and candidates of several lists."""
    data = sample("sci")
    lists = data.lists("test")
    places = [n * len(lists) // QUERIES for n in range(QUERIES)]
    examples = [data.example("test", n) for n in places]
    items = {item.did: item for example in examples for item in example.candidates}
    chosen = list(items.values())[:: max(1, len(items) // CANDIDATES)][:CANDIDATES]
    return (
        [content(example.query.parts) for example in examples],
        [content(item.parts) for item in chosen],
    )


def _alone(model: Reranker, query: Any, candidates: list[Any]) -> np.ndarray:
    return np.concatenate([model.logits(query, [candidate]) for candidate in candidates])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.invariance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default=str(DEFAULT_FOLDER), help="(default: the embedded one)")
    parser.add_argument("--mixes", type=int, default=500, help="(default: %(default)s)")
    parser.add_argument("--out", help="a file for the JSON")
    return parser


if __name__ == "__main__":
    main()

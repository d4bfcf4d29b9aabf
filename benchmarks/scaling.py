"""Seconds and memory against the number of candidates: a + b n, and a peak that stays flat.

    python -m benchmarks.scaling --out results/m3/scaling.json
    python -m benchmarks.scaling --model exported/ --counts 64 128 256

One query of the sample against n of its candidates, n after n in every round. The line is a least-
squares fit of the medians weighted by 1 / n; `a` is compared with the cost of the prefix and of one
batch.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
from functools import partial
from typing import Any

import numpy as np

from benchmarks.machine import Machine, timed, write
from train.evaluation import content
from unirank_jax.content import parse
from unirank_jax.datasets.dataset import sample
from unirank_jax.loading import DEFAULT_FOLDER, load
from unirank_jax.reranker import Reranker
from unirank_jax.scoring_config import ScoringConfig

COUNTS = (64, 96, 128, 192, 256, 384, 512, 768, 1000)
SETTLED = 4  # passes without a new program
RESIDUAL = 0.10  # largest share of a time by which it may miss the line


def main() -> None:
    """The command; exit status 1 where the line does not fit or the machine was not steady."""
    arguments = _parser().parse_args()
    machine = Machine()
    model = load(arguments.model, scoring=ScoringConfig(cache_bytes=0))
    query, candidates = contents(max(arguments.counts))
    settle(model, query, candidates, arguments.counts)
    rows = []
    for count in arguments.counts:
        model.logits(query, candidates[:count])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append({"n": count, "peak_mib": peak})
    # rounds take turns: a slow moment of the machine meets every n, not all rounds of one
    seconds = [
        [timed(partial(model.logits, query, candidates[:count]))[0] for count in arguments.counts]
        for _ in range(arguments.rounds)
    ]
    for row, times in zip(rows, zip(*seconds, strict=True), strict=True):
        row["median_s"] = statistics.median(times)
    machine.measure()
    line = fit([row["n"] for row in rows], [row["median_s"] for row in rows])
    one = one_batch(model, query, candidates, arguments.rounds)
    print(render(rows, line, one))
    print(machine.verdict)
    write(arguments.out, {**machine.about(), "rows": rows, **line, "prefix_and_batch_s": one})
    good = line["largest_residual"] <= RESIDUAL and line["a"] <= one
    sys.exit(0 if machine.steady and good else 1)


def settle(model: Reranker, query: Any, candidates: list[Any], counts: list[int]) -> None:
    """Score until no program is compiled any more: sizes that pay are found after some use."""
    before = -1
    while before != model.engine.programs:
        before = model.engine.programs
        for count in counts * SETTLED:
            model.logits(query, candidates[:count])


def contents(count: int) -> tuple[Any, list[Any]]:
    """A query, and different items of the sample in a fixed order, texts and images mixed."""
    data = sample("sci")
    pool = sorted(data.pool("train"))
    chosen = [pool[i] for i in np.random.default_rng(0).permutation(len(pool))[:count]]
    query = data.example("train", 0).query
    return content(query.parts), [content(data.item(did).parts) for did in chosen]


def fit(counts: list[int], seconds: list[float]) -> dict[str, float]:
    """a + b n by least squares of relative residuals: a, b and the largest relative residual."""
    n, time = np.array(counts, float), np.array(seconds)
    design = np.stack([1 / time, n / time], axis=1)
    (a, b), *_ = np.linalg.lstsq(design, np.ones(len(n)), rcond=None)
    residual = np.abs((a + b * n) / time - 1.0)
    return {"a": float(a), "b": float(b), "largest_residual": float(residual.max())}


def one_batch(model: Reranker, query: Any, candidates: list[Any], rounds: int) -> float:
    """Seconds of the prefix and one batch: as many candidates as the token budget holds."""
    prompt = model.prompt
    total = size = 0
    for one in candidates:
        total += len(prompt.candidate(parse(one, "c"), "c", 0))
        if total > model.engine.token_budget:
            break
        size += 1
    model.logits(query, candidates[:size])
    times = [timed(lambda: model.logits(query, candidates[:size]))[0] for _ in range(rounds)]
    return statistics.median(times)


def render(rows: list[dict[str, Any]], line: dict[str, float], one: float) -> str:
    """The table and the fit as text."""
    lines = [f"{'n':>6} {'median s':>10} {'fit s':>10} {'peak MiB':>10}"]
    lines += [
        f"{row['n']:6} {row['median_s']:10.3f} {line['a'] + line['b'] * row['n']:10.3f} "
        f"{row['peak_mib']:10.0f}"
        for row in rows
    ]
    lines.append(
        f"a = {1000 * line['a']:.1f} ms (prefix and one batch: {1000 * one:.1f} ms), b = "
        f"{1000 * line['b']:.2f} ms, largest residual {100 * line['largest_residual']:.1f} %"
    )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default=str(DEFAULT_FOLDER), help="(default: the embedded one)")
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS))
    parser.add_argument("--rounds", type=int, default=9, help="(default: %(default)s)")
    parser.add_argument("--out", help="a file for the JSON")
    return parser


if __name__ == "__main__":
    main()

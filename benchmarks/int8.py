"""What 8 bits in the decoder change: order, Hit@1, logits, bytes and speed, on lists with grades.

    python -m benchmarks.int8 --out results/m3/int8.json
    python -m benchmarks.int8 --data DIR --split test --lists 500 --model MODEL

The same lists are scored by the same weights, once as they are and once with
`ScoringConfig(quantize="int8")`; without --model by the embedded default. Kendall's tau is taken
within each list (1: the same order; tied pairs count as no agreement). The timed rounds take turns
and find the pictures of the first call in the vision cache. Whether 8 bits are faster depends on
the hardware; the machine is checked as in benchmarks.scoring, and an unsteady run is void as to
its times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from benchmarks.machine import Machine, summary, timed, write
from train.evaluate import EXPECTED
from train.evaluation import examples_of, reranker_scorer
from train.judging import judged
from unirank_jax.datasets.dataset import open_source
from unirank_jax.int8 import is_decoder_linear, weight_bytes
from unirank_jax.keys import flatten
from unirank_jax.loading import DEFAULT_FOLDER, load
from unirank_jax.metrics import Judged, measure, tie_rate
from unirank_jax.reranker import Reranker
from unirank_jax.scoring_config import ScoringConfig
from unirank_jax.significance import Resampled

PLAIN, INT8 = "unquantised", "int8"
RESAMPLES, LEVEL = 2000, 0.95


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 where the machine was not steady, else 0. Exits with a message on bad data."""
    arguments = _parser().parse_args(argv)
    machine = Machine()
    try:
        found = compare(arguments, machine)
    except EXPECTED as error:
        sys.exit(f"benchmarks.int8: {error}")
    print(render(found))
    print(machine.verdict)
    write(arguments.out, {**machine.about(), **found})
    return 0 if machine.steady else 1


def compare(arguments: argparse.Namespace, machine: Machine) -> dict[str, Any]:
    """Both models on the same lists."""
    dataset = open_source(arguments.data)
    examples = examples_of(dataset, arguments.split, arguments.lists)
    models = {
        PLAIN: load(arguments.model, dtype=arguments.dtype),
        INT8: load(arguments.model, dtype=arguments.dtype, scoring=ScoringConfig(quantize="int8")),
    }
    calls = {name: partial(reranker_scorer(model), examples) for name, model in models.items()}
    first: dict[str, float] = {}
    scores: dict[str, list[np.ndarray]] = {}
    for name, call in calls.items():
        first[name], scores[name] = timed(call)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(arguments.rounds):
        for name, call in calls.items():
            times[name].append(timed(call)[0])
        machine.measure()
    pairs = sum(map(len, scores[PLAIN]))
    lists = [judged(example) for example in examples]
    return {
        "data": dataset.path.name,
        "fingerprint": dataset.fingerprint,
        "split": arguments.split,
        "lists": len(examples),
        "pairs": pairs,
        "model": models[PLAIN].source.name,
        **agreement(scores[PLAIN], scores[INT8], lists),
        "models": {
            name: {
                **summary(first[name], some),
                "pairs_per_second": round(pairs / statistics.median(some), 1),
                "weight_bytes": weight_bytes(models[name].engine.model),
                "decoder_bytes": decoder_bytes(models[name]),
                "tie_rate": tie_rate(scores[name], lists),
            }
            for name, some in times.items()
        },
    }


def agreement(
    plain: Sequence[np.ndarray], rounded: Sequence[np.ndarray], lists: Sequence[Judged]
) -> dict[str, Any]:
    """How far two scorings of the same lists agree; the Hit@1 difference with its interval."""
    both = list(zip(plain, rounded, strict=True))
    taus = [kendall(a, b) for a, b in both]
    firsts = [a.argmax() == b.argmax() for a, b in both]
    hits = [measure(scores, lists, ("hit@1",))["hit@1"] for scores in (rounded, plain)]
    columns = np.stack(hits, axis=1)  # (lists, 2)
    difference = Resampled.draw(columns, None, resamples=RESAMPLES, seed=0).difference(0, 1, LEVEL)
    one, other = np.concatenate(plain), np.concatenate(rounded)
    return {
        "kendall_tau": round(float(np.mean(taus)), 5),
        "kendall_tau_lowest": round(min(taus), 5),
        "same_first": float(np.mean(firsts)),
        "correlation_of_logits": float(np.corrcoef(one, other)[0, 1]),
        "largest_difference": float(np.abs(one - other).max()),
        "spread_of_logits": float(one.std()),
        "hit@1": {PLAIN: float(hits[1].mean()), INT8: float(hits[0].mean())},
        "hit@1_difference": [difference.mean, difference.low, difference.high],
    }


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    """Kendall's tau: pairs in the same order less pairs turned round, of all pairs (N >= 2)."""
    x, y = np.asarray(a), np.asarray(b)
    signs = np.sign(x[:, None] - x) * np.sign(y[:, None] - y)
    return float(signs.sum() / (len(x) * (len(x) - 1)))


def decoder_bytes(model: Reranker) -> int:
    """Bytes of the layers that 8 bits concern, their scales included."""
    leaves = flatten(nnx.state(model.engine.model))
    return sum(x.nbytes for path, x in leaves.items() if is_decoder_linear(path.rpartition(".")[0]))


def render(found: dict[str, Any]) -> str:
    """The result as lines of text."""
    mean, low, high = found["hit@1_difference"]
    before, after = found["hit@1"][PLAIN], found["hit@1"][INT8]
    lines = [
        f"{found['data']}, {found['split']}: {found['lists']} lists, {found['pairs']} pairs",
        f"  Kendall tau {found['kendall_tau']:.4f} (lowest {found['kendall_tau_lowest']:.3f}), "
        f"same first candidate {100 * found['same_first']:.1f} %",
        f"  Hit@1 {before:.3f} -> {after:.3f}: {mean:+.4f} [{low:+.4f}, {high:+.4f}]",
        f"  logits: largest difference {found['largest_difference']:.3f} of a spread of "
        f"{found['spread_of_logits']:.2f}, correlation {found['correlation_of_logits']:.6f}",
    ]
    for name, row in found["models"].items():
        lines.append(
            f"  {name:12} {row['pairs_per_second']:8.1f} pairs/s, "
            f"{row['weight_bytes'] / 1e6:9.1f} MB, of which decoder layers "
            f"{row['decoder_bytes'] / 1e6:.1f} MB, tied pairs {100 * row['tie_rate']:.2f} %, "
            f"first call {row['first_s']:.1f} s"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.int8",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default="sample:sci", help="(default: %(default)s)")
    parser.add_argument("--split", default="test", help="(default: %(default)s)")
    parser.add_argument("--lists", type=int, default=300, help="evenly spaced (default: 300)")
    parser.add_argument("--model", default=DEFAULT_FOLDER, help="folder or id of a model")
    parser.add_argument(
        "--dtype", default="bfloat16", help="of what stays unquantised (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--out", help="a file for the JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())

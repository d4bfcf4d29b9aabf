"""Scoring a published size on a GPU against transformers, in one run on the same card.

    python -m benchmarks.gpu --out results/m3/gpu.json
    python -m benchmarks.gpu --preset tiny --visual-tokens 64 --candidates 8  # any machine

Random weights of the size in bfloat16; candidates are images of so many visual tokens. Both sides
get the same token ids and the same patches as bytes; transformers runs sdpa attention at the best
batch size of one sweep. Scores are compared, and a few with those of float32. A profile of the
device says where the time goes: kernels by what they do, and how long the device waited.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # the card is shared with torch

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.flops import needed
from benchmarks.machine import summary, timed, write
from benchmarks.memory import make
from benchmarks.workloads import Workload, passage, picture
from unirank_jax.config import preset
from unirank_jax.loading import load
from unirank_jax.reranker import Reranker
from unirank_jax.scoring_config import ScoringConfig

BATCHES = (1, 4, 8, 16, 32)
CACHE = 2**32  # bytes
EXACT = 4  # pairs that are scored in float32, too
KINDS = {  # of kernels, by words in their names; the first that fits
    "attention": ("flash", "fmha", "sdpa", "cudnn"),
    "matrix products": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "dot"),
    "copies": ("memcpy", "memset"),
}
OURS, WARM, PEER = "ours", "ours, vision cache warm", "transformers"
Scorer = Callable[[Workload], np.ndarray]


def main() -> None:
    """The command; exit status 1 where the orders of clearly different scores differ."""
    arguments = _parser().parse_args()
    folder = Path(arguments.model or f"runs/benchmarks/{arguments.preset}")
    if not (folder / "config.json").exists():
        make(folder, preset(arguments.preset))
    workload = _workload(arguments)
    ours = _ours(folder, arguments, "bfloat16", 0)
    contenders = {
        OURS: _call(ours),
        WARM: _call(with_cache(ours)),
    }
    found: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "preset": arguments.preset,
        "visual_tokens": arguments.visual_tokens,
        "pairs": workload.pairs,
        "needed_flop": {
            OURS: needed(ours, workload),
            WARM: needed(ours, workload, seen=True),
            PEER: needed(ours, workload),
        },
        "peak_tflops": arguments.peak,
    }
    if arguments.peer:
        contenders[PEER], found["sweep"] = _peer(folder, ours, workload)
    scores = measure(found, contenders, workload, arguments.rounds)
    write(arguments.out, found)
    found["profile"] = {name: profile(partial(contenders[name], workload)) for name in (OURS, WARM)}
    write(arguments.out, found)
    some = Workload("exact", workload.queries[:1], [workload.lists[0][:EXACT]])
    exact = _call(_ours(folder, _page_at_a_time(arguments), "float32", 0))(some)
    found["largest_error_to_float32"] = {
        name: float(np.abs(scores[name][:EXACT] - exact).max()) for name in scores
    }
    write(arguments.out, found)
    print(render(found))
    sys.exit(0 if found["same_order"] else 1)


def measure(
    found: dict[str, Any], contenders: dict[str, Scorer], workload: Workload, rounds: int
) -> dict[str, np.ndarray]:
    """Times in turns, into `found`; the scores of every contender."""
    rates = [product_rate()]
    first, scores = {}, {}
    for name, scorer in contenders.items():
        first[name], scores[name] = timed(partial(scorer, workload))
        scorer(workload)  # the second call may compile, too: features are given now
        print(f"{name}: first call {first[name]:.1f} s", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, scorer in contenders.items():
            times[name].append(timed(partial(scorer, workload))[0])
    rates.append(product_rate())
    print(times, file=sys.stderr)
    spread = float(scores[OURS].std())
    needs, peak = found["needed_flop"], found["peak_tflops"] * 1e12
    found |= {
        "tflops_of_a_product": [round(rate / 1e12, 1) for rate in rates],
        "spread_of_logits": spread,
        "largest_difference": {
            name: float(np.abs(some - scores[OURS]).max()) for name, some in scores.items()
        },
        "same_order": all(same_order(scores[OURS], some, spread) for some in scores.values()),
        "contenders": {
            name: {
                **summary(first[name], some),
                "pairs_per_second": round(workload.pairs / statistics.median(some), 2),
                "mfu": round(needs[name] / statistics.median(some) / peak, 3),
                "share_of_product_rate": round(
                    needs[name] / statistics.median(some) / max(rates), 3
                ),
            }
            for name, some in times.items()
        },
    }
    return scores


def render(found: dict[str, Any]) -> str:
    """The table."""
    each = found["needed_flop"][OURS] / found["pairs"] / 1e12
    errors = found.get("largest_error_to_float32", {})
    lines = [
        f"{found['preset']} on {found['device']}, bfloat16, {found['pairs']} pairs of "
        f"{found['visual_tokens']} visual tokens, {each:.2f} TFLOP a pair; a product runs at "
        f"{max(found['tflops_of_a_product'])} TFLOP/s; spread of logits "
        f"{found['spread_of_logits']:.2f}, same order: {found['same_order']}, seconds of "
        f"transformers by batch size: {found.get('sweep')}"
    ]
    for name, row in found["contenders"].items():
        lines.append(
            f"  {name:26} {row['median_s']:8.3f} s {row['pairs_per_second']:7.1f} pairs/s "
            f"{100 * row['mfu']:5.1f} % MFU, {100 * row['share_of_product_rate']:5.1f} % of the "
            f"product rate, first call {row['first_s']:.1f} s, differs by "
            f"{found['largest_difference'][name]:.1e}"
            + (f", from float32 by {errors[name]:.1e}" if name in errors else "")
        )
    for name, rows in found["profile"].items():
        told = ", ".join(f"{kind} {share:.3f} s" for kind, share in rows["seconds"].items())
        lines.append(f"  profile of {name}: {told}")
    return "\n".join(lines)


def product_rate(size: int = 8192) -> float:
    """FLOP per second of a bfloat16 matrix product, the median of a few."""
    size = size if jax.default_backend() != "cpu" else 1024
    left = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda x: x @ x)
    product(left).block_until_ready()
    seconds = [timed(lambda: product(left).block_until_ready())[0] for _ in range(10)]
    return 2 * size**3 / statistics.median(seconds)


def profile(run: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of one call by kind of kernel, what the device waited, and the longest kernels."""
    with TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            took, _ = timed(run)
        (file,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(file))
        kernels: Counter[str] = Counter()
        spans = []
        for plane in data.planes:
            if not plane.name.startswith("/device:GPU"):
                continue
            for line in plane.lines:
                if not line.name.startswith("Stream"):
                    continue
                for event in line.events:
                    kernels[event.name] += event.duration_ns * 1e-9
                    spans.append((event.start_ns, event.start_ns + event.duration_ns))
    seconds: Counter[str] = Counter()
    for name, length in kernels.items():
        seconds[kind_of(name)] += length
    busy = union_length(spans) * 1e-9
    return {
        "seconds": {
            "wall": round(took, 3),
            "device idle": round(took - busy, 3),
            **{kind: round(length, 3) for kind, length in seconds.most_common()},
        },
        "kernels": {name[:80]: round(length, 4) for name, length in kernels.most_common(25)},
    }


def kind_of(kernel: str) -> str:
    """What a kernel does, by its name; fusions of the compiler are "elementwise"."""
    name = kernel.lower()
    for kind, words in KINDS.items():
        if any(word in name for word in words):
            return kind
    return "elementwise and gathers"


def union_length(spans: list[tuple[float, float]]) -> float:
    """Length that intervals cover together."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return total


def same_order(one: np.ndarray, other: np.ndarray, spread: float) -> bool:
    """Whether no two pairs that differ clearly, by half the spread, are turned in the other."""
    gap = one[:, None] - one[None]
    return not ((gap > 0.5 * spread) & (other[:, None] < other[None])).any()


def with_cache(reranker: Reranker) -> Reranker:
    """The same model, whose features of pictures are kept."""
    return Reranker(
        reranker.engine.model,
        reranker.prompt,
        reranker.manifest,
        reranker.source,
        reranker.engine.compute,
        replace(reranker.scoring, cache_bytes=CACHE),
    )


def _page_at_a_time(arguments: argparse.Namespace) -> argparse.Namespace:
    """For float32, whose attention keeps its scores: a page at a time."""
    return argparse.Namespace(**{**vars(arguments), "token_budget": arguments.visual_tokens})


def _ours(folder: Path, arguments: argparse.Namespace, dtype: str, cache: int) -> Reranker:
    scoring = ScoringConfig(token_budget=arguments.token_budget, cache_bytes=cache)
    return load(folder, dtype=dtype, scoring=scoring)


def _call(reranker: Reranker) -> Scorer:
    def score(workload: Workload) -> np.ndarray:
        return np.concatenate(reranker.logits_many(workload.queries, workload.lists))

    return score


def _peer(folder: Path, ours: Reranker, workload: Workload) -> tuple[Scorer, dict[int, float]]:
    """transformers at the batch size that is fastest on this workload."""
    import torch

    from benchmarks.peers import Transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    peer = Transformers(folder, ours, 1, torch.bfloat16, device)
    part = Workload("sweep", workload.queries[:1], [workload.lists[0][: max(BATCHES)]])
    seconds = {}
    for batch in BATCHES:
        peer.batch = batch
        peer(part)
        seconds[batch] = round(timed(partial(peer, part))[0], 3)
    peer.batch = min(seconds, key=lambda batch: seconds[batch])
    return peer, seconds


def _workload(arguments: argparse.Namespace) -> Workload:
    """Lists of pages of 32 x 32 pixels a visual token, each as high as it is wide, or nearly."""
    rng = np.random.default_rng(0)
    side = preset(arguments.preset).vision
    pixels = side.patch_size * side.merge_size
    tokens = arguments.visual_tokens
    width = next(n for n in range(int(tokens**0.5), 0, -1) if tokens % n == 0)
    sizes = (tokens // width * pixels, width * pixels)
    lists = [
        [picture(rng, *sizes) for _ in range(arguments.candidates)] for _ in range(arguments.lists)
    ]
    return Workload("pages", [passage(rng, 25) for _ in lists], lists)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = partial(parser.add_argument, metavar="N", type=int)
    parser.add_argument("--preset", default="2b", help="tiny, 2b, 4b or 8b (default: 2b)")
    add("--visual-tokens", default=1280, help="of a candidate (default: 1280)")
    add("--lists", default=1, help="queries (default: 1)")
    add("--candidates", default=100, help="of a query (default: 100)")
    add("--rounds", default=3, help="(default: 3)")
    add("--token-budget", help="of ours (default: its own choice)")
    add("--peak", default=989, help="TFLOP/s of the card in bfloat16, dense (default: H100 SXM)")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="ours alone")
    parser.add_argument(
        "--model", help="folder, made where it is absent (default: runs/benchmarks/PRESET)"
    )
    parser.add_argument("--out", help="a file for the JSON")
    return parser


if __name__ == "__main__":
    main()

"""Whether the machine was idle and steady while something was timed on it, and how fast it is.

The rate of a matrix product is measured before, between and after; a run is void when it moved by
more than a tenth, or when other programs kept the processors busy before the run.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

STEADY = 0.10  # the matrix-product rate may move by so much
QUIET = 0.2  # share of the processors' time that other programs may take before the run
WATCHED = 3.0  # seconds before the run in which that is looked at

Result = TypeVar("Result")


class Machine:
    """The machine of one run; make it before anything else is done."""

    def __init__(self) -> None:
        self.busy_before = busy_share(WATCHED)
        self.rates = [product_rate()]

    def measure(self) -> None:
        """Measure the matrix-product rate once more."""
        self.rates.append(product_rate())

    @property
    def steady(self) -> bool:
        """Whether the run counts."""
        held = max(self.rates) <= (1 + STEADY) * min(self.rates)
        return held and self.busy_before <= QUIET

    @property
    def verdict(self) -> str:
        return "steady" if self.steady else "VOID: the machine was not idle or its speed moved"

    def share(self, flop_per_second: float) -> float:
        """Of the best matrix-product rate."""
        return round(flop_per_second / max(self.rates), 3)

    def about(self) -> dict[str, Any]:
        """What a result has to say about the machine."""
        return {
            "device": jax.devices()[0].device_kind,
            "processors": os.cpu_count(),
            "jax": jax.__version__,
            "busy_before": round(self.busy_before, 2),
            "gflops_of_a_product": [round(rate / 1e9, 1) for rate in self.rates],
            "valid": self.steady,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


def busy_share(seconds: float) -> float:
    """Share of all processors' time that is not idle during the next seconds; on systems that do
    not tell, the load average per processor."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return os.getloadavg()[0] / (os.cpu_count() or 1)

    def times() -> tuple[int, int]:
        ticks = [int(n) for n in stat.read_text().splitlines()[0].split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4]  # idle, and waiting for a disk

    total, idle = times()
    time.sleep(seconds)
    later, rested = times()
    return 1.0 - (rested - idle) / max(later - total, 1)


def product_rate() -> float:
    """FLOP per second of a float32 matrix product, the best of a few."""
    size = 1536
    left = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    product(left).block_until_ready()
    seconds = [timed(lambda: product(left).block_until_ready())[0] for _ in range(8)]
    return 2 * size**3 / min(seconds)


def timed(function: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of one call, and what it returned."""
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


def summary(first: float, times: Sequence[float]) -> dict[str, float]:
    """The first call (it compiles) and the spread of the others, in seconds."""
    return {
        "first_s": round(first, 3),
        "median_s": round(statistics.median(times), 4),
        "lowest_s": round(min(times), 4),
        "highest_s": round(max(times), 4),
    }


def write(path: str | None, found: dict[str, Any]) -> None:
    """The JSON of a result, where a file was asked for."""
    if path:
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

"""What a program costs on a TPU, from its compilation alone: an estimate, made of named terms.

A loop's body is counted once and a kernel not at all, so networks are compiled with one and with
two unrolled layers and the difference is multiplied by the depth; kernels are counted by their
products. Products and traffic are read from the program (train/tpu_products.py, tpu_traffic.py).
Nothing here was measured on a TPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from train.tpu_products import products
from train.tpu_program import EstimateError
from train.tpu_traffic import BYTES, traffic
from unirank_jax.attention_splash import LANES
from unirank_jax.config import ModelConfig

KERNEL_EFFICIENCY = 0.5  # of the peak, assumed for attention kernels
MATMUL_EFFICIENCY = 0.8  # of the peak, assumed for matrix products
MEMORY_EFFICIENCY = 0.8  # of the bandwidth
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Chip:
    """Published peaks of one chip."""

    flops: float  # bfloat16, per second
    memory: float  # bytes that a program can have
    bandwidth: float  # of the memory, bytes per second
    link: float  # of all its links to other chips together, bytes per second


# Peaks: https://docs.cloud.google.com/tpu/docs/v6e (v5e beside it) and v5p; memory: what the
# compiler allows. That all links are busy at once is the best case.
CHIPS: Mapping[str, Chip] = {
    "v5e": Chip(197e12, 15.75 * 2**30, 800e9, 200e9),
    "v6e": Chip(918e12, 31.25 * 2**30, 1600e9, 400e9),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 600e9),
}


@dataclass(frozen=True)
class Cost:
    """What one chip does in a program: products, memory traffic, traffic between chips.

    kernels: calls of kernels, whose products and traffic the compiler does not count.
    collectives: name -> bytes that leave a chip.
    """

    flops: float
    traffic: float  # bytes
    kernels: float = 0
    collectives: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Cost) -> Cost:
        names = self.collectives.keys() | other.collectives.keys()
        return Cost(
            self.flops + other.flops,
            self.traffic + other.traffic,
            self.kernels + other.kernels,
            {n: self.collectives.get(n, 0) + other.collectives.get(n, 0) for n in names},
        )

    def __mul__(self, times: float) -> Cost:
        scaled = {name: times * some for name, some in self.collectives.items()}
        return Cost(times * self.flops, times * self.traffic, times * self.kernels, scaled)

    def __sub__(self, other: Cost) -> Cost:
        return self + other * -1


@dataclass(frozen=True)
class Seconds:
    """An estimate's terms. Products and memory traffic overlap, the rest is added."""

    products: float
    memory: float
    kernels: float
    links: float

    @property
    def total(self) -> float:
        return max(self.products, self.memory) + self.kernels + self.links


def cost_by_depth(config: ModelConfig, cost: Callable[[ModelConfig], Cost]) -> Cost:
    """The cost of a network from those of four shallow ones: one more decoder layer, one more block
    of the tower and one more layer that is passed on, each times how many there are."""

    def shallow(text: int, vision: int, passed: int) -> Cost:
        tower = replace(config.vision, depth=vision, deepstack_layers=tuple(range(passed)))
        return cost(replace(config, text=replace(config.text, depth=text), vision=tower))

    base = shallow(1, 1, 0)
    return (
        base
        + (shallow(2, 1, 0) - base) * (config.text.depth - 1)
        + (shallow(1, 2, 0) - base) * (config.vision.depth - 1)
        + (shallow(1, 1, 1) - base) * len(config.vision.deepstack_layers)
    )


def cost_of(text: str, chips: int) -> Cost:
    """The cost of a program of so many chips from its optimised text, loops counted once."""
    return Cost(
        products(text),
        traffic(text),
        text.count('custom_call_target="tpu_custom_call"'),
        collective_bytes(text, chips),
    )


def collective_bytes(text: str, chips: int) -> dict[str, float]:
    """Bytes that leave a chip, by kind of collective, of a program's optimised text.

    Over n chips in a ring an all-gather of N bytes sends (n - 1) / n * N, an all-reduce twice that
    (it is a reduce-scatter and an all-gather), a reduce-scatter the share of what it reads. Groups
    smaller than the mesh are read from `replica_groups`.
    """
    found: dict[str, float] = {}
    kinds = "|".join(COLLECTIVES)
    for line in text.splitlines():
        match = re.search(rf"= (.*?) ({kinds})(-start)?\(", line)
        if match is None:
            continue
        shapes, kind, started = match.groups()
        sizes = [_size(*one) for one in re.findall(r"(\w+)\[([\d,]*)\]", shapes)]
        sizes = [size for size in sizes if size]
        if not sizes:
            continue
        # a started collective's tuple holds what it reads and what it gives
        given = max(sizes) if started or kind == "all-gather" else sum(sizes)
        group = _group(line, chips)
        share = (group - 1) / group
        factor = {
            "all-gather": share,
            "all-reduce": 2 * share,
            "reduce-scatter": share if started else share * group,
            "all-to-all": share,
            "collective-permute": 1.0,
        }[kind]
        found[kind] = found.get(kind, 0.0) + factor * given
    return found


def _size(kind: str, dimensions: str) -> int:
    if kind not in BYTES:
        return 0
    return BYTES[kind] * prod(int(n) for n in dimensions.split(",") if n)


def _group(line: str, chips: int) -> int:
    """How many chips take part in a collective together."""
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(match.group(2))
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return match.group(1).count(",") + 1
    return chips


def seconds(cost: Cost, kernel_flops: float, chip: Chip) -> Seconds:
    """The terms of an estimate.

    kernel_flops: products of the attention kernels, on one chip.

    Raises:
        EstimateError: a cost below zero: the compiler's counts do not add up.
    """
    counts = {"flops": cost.flops, "traffic": cost.traffic, "kernels": cost.kernels}
    counts |= {"kernel_flops": kernel_flops, **cost.collectives}
    wrong = {name: value for name, value in counts.items() if value < 0}
    if wrong:
        raise EstimateError(f"costs below zero: {wrong}; compile other depths")
    if bool(cost.kernels) != bool(kernel_flops):
        raise EstimateError(f"{cost.kernels:g} kernel calls and {kernel_flops:g} products of them")
    return Seconds(
        products=cost.flops / (MATMUL_EFFICIENCY * chip.flops),
        memory=cost.traffic / (MEMORY_EFFICIENCY * chip.bandwidth),
        kernels=kernel_flops / (KERNEL_EFFICIENCY * chip.flops),
        links=sum(cost.collectives.values()) / chip.link,
    )


def widened(head: int) -> float:
    """What a kernel multiplies over what is needed: a head fills whole lanes."""
    return -(-head // LANES) * LANES / head


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as "v5e:4x4".

    Raises:
        EstimateError: not one of `CHIPS`.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise EstimateError(f"{topology}: no peaks of {name}; choose one of {', '.join(CHIPS)}")
    return CHIPS[name]

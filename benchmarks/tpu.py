"""Scoring on a TPU, estimated from compilation alone: pairs per second and chip.

    TPU_LIBRARY_PATH=.../libtpu.so python -m benchmarks.tpu --out runs/tpu.json

A row takes half a minute; rows that the file has already are kept (give another after a change).
One batch: a text query and 16 candidates of 1,280 visual tokens and some words, bfloat16, the
tower, the decoder and the label head, the query's keys and values at hand. Nothing runs on a TPU:
train/tpu_cost.py says how it is estimated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from train.flops import forward
from train.tpu_cost import (
    KERNEL_EFFICIENCY,
    MATMUL_EFFICIENCY,
    MEMORY_EFFICIENCY,
    Cost,
    Seconds,
    chip_of,
    cost_by_depth,
    cost_of,
    seconds,
    widened,
)
from train.tpu_program import EstimateError, devices, optimised
from unirank_jax import sharding
from unirank_jax.batch import Bucket
from unirank_jax.config import ModelConfig, preset
from unirank_jax.datasets.formats.writing import write_lines
from unirank_jax.layers import Compute
from unirank_jax.model import Model, candidate_states, encode_images, label_logits, prefix_cache
from unirank_jax.packing import pack
from unirank_jax.text import Prefix

CANDIDATES, VISUAL, WORDS, QUERY, STATIC = 16, 1280, 40, 32, 64
GIVEN = ("2b", "v5e:2x2", 1), ("2b", "v6e:2x2", 1), ("8b", "v5e:2x2", 4), ("8b", "v6e:2x2", 1)


@dataclass(frozen=True)
class Estimate:
    """One line of the table. pairs_per_second is of one chip; mfu counts needed products only."""

    model: str
    topology: str
    chips: int
    weights: int  # bytes on a chip
    seconds: Seconds
    needed_flops: float  # of all chips together
    cost: Cost
    kernel_flops: float
    pairs_per_second: float
    mfu: float


def bucket_of(config: ModelConfig) -> Bucket:
    """The sizes of the batch, without padding."""
    patches, tokens = VISUAL * config.vision.merge_unit, VISUAL + WORDS
    return Bucket(
        prefixes=1,
        prefix_tokens=QUERY,
        rows=CANDIDATES,
        tokens=tokens,
        images=CANDIDATES,
        patches=patches,
        cells=CANDIDATES * tokens,
        patch_cells=CANDIDATES * patches,
        outer=STATIC,
    )


def lowered(config: ModelConfig, topology: str, chips: int) -> Any:
    """The scoring step of a model for so many chips, its weights spread over them."""
    mesh = sharding.mesh(1, 1, chips, devices(topology)[:chips])
    compute = Compute("bfloat16", unroll=True, mesh=mesh)
    model = Model.abstract(config)
    graph, state = nnx.split(model)
    places = sharding.shardings(nnx.state(model, nnx.Param), mesh)
    state = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, "bfloat16", sharding=place),
        state,
        places,
    )
    batch = pack(config, [], [], [], bucket_of(config))
    shard = jax.tree.map(lambda x: x[0], batch)

    def caches(state: Any) -> Any:
        model = nnx.merge(graph, state)
        outer = prefix_cache(model, shard.outer, None, compute)
        before = [Prefix(outer, None)]
        return outer, prefix_cache(model, shard.prefix, None, compute, before)

    outer, prefix = jax.eval_shape(caches, state)

    def step(state: Any, outer: Any, prefix: Any, shard: Any) -> jax.Array:
        model = nnx.merge(graph, state)
        features = encode_images(model, shard.images, compute)
        before = [Prefix(outer, None), Prefix(prefix, None)]
        states = candidate_states(
            model, shard.rows, shard.take, shard.blocks, features, before, compute
        )
        return label_logits(model, states, (0, 1))

    everywhere = NamedSharding(mesh, PartitionSpec())
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        (outer, prefix, shard),
    )
    return jax.jit(step, out_shardings=everywhere).lower(state, *placed)


def estimate(name: str, topology: str, chips: int) -> Estimate:
    """Compile four shallow models and put the whole one together.

    Raises:
        EstimateError: counts that do not add up, or no compiler.
    """
    config, chip = preset(name), chip_of(topology)

    def cost_at(shape: ModelConfig) -> Cost:
        return cost_of(optimised(lowered, shape, topology, chips)[0], chips)

    cost = cost_by_depth(config, cost_at)
    needed = forward(config, bucket_of(config), prefixes=False)
    kernel = needed.decoder_attention * widened(config.text.head_dim)
    kernel += needed.tower_attention * widened(config.vision.head_dim)
    kernel_flops = kernel / chips if cost.kernels else 0.0
    took = seconds(cost, kernel_flops, chip)
    parameters = jax.tree.leaves(nnx.state(Model.abstract(config)))
    return Estimate(
        name,
        topology,
        chips,
        2 * sum(leaf.size for leaf in parameters) // chips,
        took,
        needed.total,
        cost,
        kernel_flops,
        CANDIDATES / took.total / chips,
        needed.total / (took.total * chips * chip.flops),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and write the JSON. Exit code 1 without a compiler."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tpu", description=__doc__)
    parser.add_argument("--out", default="runs/tpu.json", help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    assumed = (
        f"estimated from compilation, not measured; assumed: {MATMUL_EFFICIENCY:.0%} of the peak "
        f"in matrix products, {KERNEL_EFFICIENCY:.0%} in attention kernels, "
        f"{MEMORY_EFFICIENCY:.0%} of the memory's bandwidth"
    )
    print(assumed)
    out = Path(arguments.out)
    found = json.loads(out.read_text())["estimates"] if out.exists() else []
    try:
        for given in GIVEN:
            if not any((row["model"], row["topology"], row["chips"]) == given for row in found):
                found.append(asdict(estimate(*given)))
                out.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps({"assumed": assumed, "estimates": found}, indent=1)
                write_lines(out, [text, "\n"])
    except EstimateError as error:
        print(f"benchmarks.tpu: {error}", file=sys.stderr)
        return 1
    for row in found:
        terms = ", ".join(f"{k} {1e3 * v:.1f} ms" for k, v in row["seconds"].items())
        print(
            f"{row['model']} on {row['chips']} of {row['topology']}: {row['pairs_per_second']:.1f} "
            f"pairs/s per chip, MFU {100 * row['mfu']:.0f} % ({terms}; "
            f"{row['weights'] / 2**30:.1f} GiB of weights)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

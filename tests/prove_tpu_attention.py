"""The TPU compiler accepts the attention of the tower and of the decoder; no TPU is needed.

Needs the wheel that belongs to the installed JAX, outside the environment, because it would be
taken for a TPU there: `pip install --no-deps --target FOLDER "libtpu==0.0.42.*"`. Run as
`TPU_LIBRARY_PATH=FOLDER/libtpu/libtpu.so python -m pytest tests/prove_tpu_attention.py -rP`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

os.environ.update(
    JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost"
)  # before JAX starts

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unirank_jax import attention, sharding
from unirank_jax.attention_request import PrefixKV
from unirank_jax.batch import Batch, Blocks, empty_images, empty_rows, stack_shards
from unirank_jax.cells import Cells
from unirank_jax.config import ModelConfig, TextConfig, VisionConfig
from unirank_jax.layers import Compute
from unirank_jax.model import Model, score
from unirank_jax.text import TextLayer
from unirank_jax.vision import VisionBlock

INT = jnp.int32
TOPOLOGIES = ("v5e:2x2", "v6e:2x2")
VISION: dict[str, Any] = {
    "depth": 1,
    "mlp_width": 256,
    "heads": 4,
    "patch_size": 16,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "table_size": 16,
    "out_width": 256,
    "deepstack_layers": (),
}
TEXT = TextConfig(
    vocabulary=256,
    width=256,
    depth=1,
    mlp_width=256,
    heads=4,
    kv_heads=2,
    head_dim=128,
    rope_theta=5e6,
    rope_sections=(24, 20, 20),
    norm_eps=1e-6,
    tied=True,
    max_positions=4096,
)


def shape(*size: int, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(size, dtype)


def devices(topology: str, count: int) -> Mesh:
    """A mesh of the first devices of a topology, which exist for the compiler only."""
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    return sharding.mesh(count, 1, 1, found[:count])


def kernels(function: Any, mesh: Mesh, *arguments: Any) -> int:
    """How many kernels the compiled program calls."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    program = jax.jit(function, in_shardings=everywhere, out_shardings=everywhere)
    return program.lower(*arguments).compile().as_text().count('target="tpu_custom_call"')


def tower(head_dim: int, compute: Compute) -> tuple[Any, tuple[Any, ...]]:
    """One block over 2 images of up to 200 patches."""
    config = VisionConfig(width=4 * head_dim, **VISION)
    graph, weights = nnx.split(nnx.eval_shape(lambda: VisionBlock(config, nnx.Rngs(0))))

    def run(weights: Any, x: Any, angles: Any, lengths: Any) -> Any:
        cells = Cells(lengths, 200, jnp.zeros(0, INT))
        return nnx.merge(graph, weights)(x, angles, cells, compute)

    angles = shape(400, head_dim // 2, dtype=jnp.float32)
    return run, (
        weights,
        shape(400, 4 * head_dim, dtype=compute.dtype),
        angles,
        shape(2, dtype=INT),
    )


def decoder(prefixes: int, compute: Compute) -> tuple[Any, tuple[Any, ...]]:
    """One layer over 3 rows of up to 100 tokens that continue 2 sequences of up to 150."""
    graph, weights = nnx.split(nnx.eval_shape(lambda: TextLayer(TEXT, nnx.Rngs(0))))

    def run(weights: Any, x: Any, angles: Any, lengths: Any, shared: Any) -> Any:
        cells = Cells(lengths, 100, jnp.zeros(0, INT))
        return nnx.merge(graph, weights)(x, angles, cells, shared, "all", compute)[0]

    pair = (shape(2, 150, 2, 128, dtype=compute.dtype),) * 2
    one = PrefixKV(*pair, shape(2, dtype=INT), shape(3, dtype=INT))
    x, angles = shape(300, TEXT.width, dtype=compute.dtype), shape(300, 64, dtype=jnp.float32)
    return run, (weights, x, angles, shape(3, dtype=INT), [one] * prefixes)


CASES = {
    "tower, head dim 64": lambda compute: tower(64, compute),
    "tower, head dim 72": lambda compute: tower(72, compute),
    "decoder": lambda compute: decoder(0, compute),
    "decoder, two prefixes": lambda compute: decoder(2, compute),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_forward_and_backward_compile_to_the_kernel(topology: str, case: str, dtype: str):
    mesh = devices(topology, 1)
    run, arguments = CASES[case](Compute(dtype=dtype, mesh=mesh))

    def loss(weights: Any, x: Any, *rest: Any) -> Any:
        return run(weights, x, *rest).astype(jnp.float32).sum()

    found = [kernels(f, mesh, *arguments) for f in (run, jax.grad(loss, (0, 1)))]
    print(f"{topology}, {case}, {dtype}: {found} kernels forward, with backward")
    assert found == [1, 3]  # backward: forward, dq, and dk with dv


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("size", [12, attention.attention_splash.LARGEST_HEAD])
def test_unusual_head_dims_compile(topology: str, size: int):
    """The largest blocks (1,024 queries, 512 keys before them) in float32."""
    mesh = devices(topology, 1)

    def loss(q: Any, k: Any, v: Any, pair: Any, lengths: Any) -> Any:
        prefix = PrefixKV(*pair, lengths, None)
        options: dict[str, Any] = {"backend": "splash", "mesh": mesh}
        return attention.attend(q, k, v, causal=True, prefixes=[prefix], **options).sum()

    q, k, before = (shape(1, n, 2, size, dtype=jnp.float32) for n in (1024, 1024, 512))
    arguments = (q, k, k, (before, before), shape(1, dtype=INT))
    assert kernels(jax.grad(loss, (0, 1, 2, 3)), mesh, *arguments) == 3


def scoring(compute: Compute, shards: int) -> tuple[Any, tuple[Any, ...]]:
    """`score` of a small network with published head dims, and abstract arguments for it."""
    vision = VisionConfig(width=4 * 64, **{**VISION, "depth": 3, "deepstack_layers": (0,)})
    config = ModelConfig(replace(TEXT, depth=3), vision, 5, 6, 7, 8)
    graph, weights = nnx.split(Model.abstract(config))
    one = Batch(
        prefix=empty_rows(2, 150),
        rows=empty_rows(3, 100),
        prefix_index=np.zeros((1, 3), np.int32),
        images=empty_images(2, 200, vision.patch_dim),
        take=np.zeros((1, 0), np.int32),
        prefix_take=np.zeros((1, 0), np.int32),
        outer=empty_rows(1, 0),
        blocks=Blocks(((3, 100),)),
    )

    def run(weights: Any, batch: Any) -> Any:
        return score(nnx.merge(graph, weights), batch, (1, 2), compute)

    return run, (weights, jax.eval_shape(lambda: stack_shards([one] * shards)))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_scoring_compiles_to_kernels_on_one_device_and_on_several(topology: str):
    """Of several: each device its shard, inside shard_map or by the compiler."""
    one, four = devices(topology, 1), devices(topology, 4)
    alone, arguments = scoring(Compute("bfloat16", mesh=one), 1)
    spread, more = scoring(Compute("bfloat16", mesh=four), 4)
    rows = PartitionSpec("data")
    specs = {"in_specs": (PartitionSpec(), rows), "out_specs": rows, "check_vma": False}
    wrapped = jax.shard_map(spread, mesh=four, **specs)

    def gradient(run: Any) -> Any:
        return jax.grad(lambda weights, batch: run(weights, batch).sum())

    found = {
        "one device": kernels(alone, one, *arguments),
        "one device, backward": kernels(gradient(alone), one, *arguments),
        "four in shard_map": kernels(wrapped, four, *more),
        "four in shard_map, backward": kernels(gradient(wrapped), four, *more),
        "four by the compiler": kernels(spread, four, *more),
        "four by the compiler, backward": kernels(gradient(spread), four, *more),
    }
    print(f"{topology}: {found}")
    forward, backward = found["one device"], found["one device, backward"]
    # Two loops over layers each: in the tower, the prefix and the candidates, whose last layer
    # reads one token only: XLA serves it.
    assert forward == found["four in shard_map"] == found["four by the compiler"] == 6
    assert backward == 3 * forward
    for name in ("four in shard_map", "four by the compiler"):
        assert found[f"{name}, backward"] == backward


def test_heads_that_do_not_divide_are_left_to_xla():
    """Two heads of keys over four devices; the tower's four do divide."""
    four = devices("v6e:2x2", 4)
    tensor = sharding.mesh(1, 1, 4, list(four.devices.flat))
    run, arguments = scoring(Compute("bfloat16", mesh=tensor), 1)
    assert kernels(run, tensor, *arguments) == 2
    named, arguments = scoring(Compute("bfloat16", attention="splash", mesh=tensor), 1)
    with pytest.raises(ValueError, match="of several devices that no known mesh spreads"):
        kernels(named, tensor, *arguments)

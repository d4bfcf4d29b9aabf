"""The TPU compiler accepts the attention of the tower and of the decoder; no TPU is needed.

Needs the wheel that belongs to the installed JAX, outside the environment, because it would be
taken for a TPU there: `pip install --no-deps --target FOLDER "libtpu==0.0.42.*"`. Run as
`TPU_LIBRARY_PATH=FOLDER/libtpu/libtpu.so python -m pytest tests/prove_tpu_attention.py -rP`.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.update(
    JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost"
)  # before JAX starts

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from unirank_jax import attention
from unirank_jax.attention_request import PrefixKV
from unirank_jax.cells import Cells
from unirank_jax.config import TextConfig, VisionConfig
from unirank_jax.text import TextLayer
from unirank_jax.vision import VisionBlock

HALF, INT = jnp.bfloat16, jnp.int32
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


def shape(*size: int, dtype: Any = HALF) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(size, dtype)


def tower(head_dim: int, dtype: Any) -> tuple[Any, tuple[Any, ...]]:
    """One block over 2 images of up to 200 patches."""
    config = VisionConfig(width=4 * head_dim, **VISION)
    graph, weights = nnx.split(nnx.eval_shape(lambda: VisionBlock(config, nnx.Rngs(0))))

    def run(weights: Any, x: Any, angles: Any, lengths: Any) -> Any:
        cells = Cells(lengths, 200, jnp.zeros(0, INT))
        return nnx.merge(graph, weights)(x, angles, cells, "splash")

    angles = shape(400, head_dim // 2, dtype=jnp.float32)
    return run, (weights, shape(400, 4 * head_dim, dtype=dtype), angles, shape(2, dtype=INT))


def decoder(prefixes: int, dtype: Any) -> tuple[Any, tuple[Any, ...]]:
    """One layer over 3 rows of up to 100 tokens that continue 2 sequences of up to 150."""
    graph, weights = nnx.split(nnx.eval_shape(lambda: TextLayer(TEXT, nnx.Rngs(0))))

    def run(weights: Any, x: Any, angles: Any, lengths: Any, shared: Any) -> Any:
        cells = Cells(lengths, 100, jnp.zeros(0, INT))
        return nnx.merge(graph, weights)(x, angles, cells, shared, "all", "splash")[0]

    one = PrefixKV(
        *(shape(2, 150, 2, 128, dtype=dtype),) * 2, shape(2, dtype=INT), shape(3, dtype=INT)
    )
    x, angles = shape(300, TEXT.width, dtype=dtype), shape(300, 64, dtype=jnp.float32)
    return run, (weights, x, angles, shape(3, dtype=INT), [one] * prefixes)


CASES = {
    "tower, head dim 64": lambda dtype: tower(64, dtype),
    "tower, head dim 72": lambda dtype: tower(72, dtype),
    "decoder": lambda dtype: decoder(0, dtype),
    "decoder, two prefixes": lambda dtype: decoder(2, dtype),
}


@pytest.mark.parametrize("dtype", [HALF, jnp.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("topology", ["v5e:4x4", "v6e:4x4"])
def test_forward_and_backward_compile_to_the_kernel(
    topology: str, case: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attention, "platform", lambda: "tpu")
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    run, arguments = CASES[case](dtype)
    device = SingleDeviceSharding(devices[0])

    def loss(weights: Any, x: Any, *rest: Any) -> Any:
        return run(weights, x, *rest).astype(jnp.float32).sum()

    kernels = []
    for function in (run, jax.grad(loss, (0, 1))):
        program = jax.jit(function, in_shardings=device, out_shardings=device)
        text = program.lower(*arguments).compile().as_text()
        kernels.append(text.count('custom_call_target="tpu_custom_call"'))
    print(f"{topology}, {case}, {jnp.dtype(dtype).name}: {kernels} kernels forward, with backward")
    assert kernels[0] >= 1 and kernels[1] >= 3  # backward: forward, dq, and dk with dv

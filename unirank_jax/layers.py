"""Building blocks of the network: dense layers (with optional adapters), norms, rotary embedding.

Norms, rotary angles and softmax run in float32 whatever the activation dtype is. Every parameter
names its logical axes; `sharding.py` maps them to a mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from unirank_jax.attention_request import Backend
from unirank_jax.sharding import gathered

Array = jax.Array


@dataclass(frozen=True)
class Compute:
    """How to run, never what to compute: activation dtype and what the backward pass keeps."""

    dtype: str = "float32"
    remat: str = "none"  # "none" keeps all, "dots" keeps matrix products, "full" recomputes blocks
    unroll: bool = False  # write the layer loop out: faster on a CPU, slower to compile
    attention: Backend = "auto"  # who computes attention; see attention.py
    mesh: Mesh | None = None  # the devices that the program is for; None: all of JAX's

    def scan(self, block: Callable[..., Any], x: Any, layers: Any) -> tuple[Any, Any]:
        """`jax.lax.scan` of a block over stacked layers under this policy."""
        return jax.lax.scan(self.wrap(block), x, layers, unroll=self.unroll)

    def wrap(self, block: Callable[..., Any]) -> Callable[..., Any]:
        """A block (x, layers) whose parameters are gathered when it runs, under the policy of
        rematerialisation: what was gathered is not kept for the backward pass."""

        def run(x: Any, layers: Any) -> Any:
            return block(x, gathered(layers, self.mesh, self.dtype))

        if self.remat == "none":
            return run
        # In a loop nothing is common to two passes; written out, the compiler would undo it.
        keep = self.unroll
        if self.remat == "full":
            return jax.checkpoint(run, prevent_cse=keep)
        if self.remat == "dots":
            policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            return jax.checkpoint(run, prevent_cse=keep, policy=policy)
        raise ValueError(f"remat {self.remat!r} is unknown; choose none, dots or full")


class LoRAParam(nnx.Param):
    """A low-rank adapter factor: its own type, so that a filter can select it."""


class Dense(nnx.Module):
    """y = x W (+ b) (+ scale * (x A) B when adapted); the kernel is (in, out)."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        size: tuple[int, int],
        axes: tuple[str | None, str | None],
        bias: bool,
        gain: float = 1.0,
    ) -> None:
        deviation = gain / size[0] ** 0.5
        kernel = jax.random.normal(rngs.params(), size, jnp.float32) * deviation
        self.kernel = nnx.Param(kernel, axes=axes)
        self.bias = nnx.Param(jnp.zeros(size[1]), axes=axes[1:]) if bias else None
        self.lora_a: LoRAParam | None = nnx.data(None)
        self.lora_b: LoRAParam | None = nnx.data(None)
        self.lora_scale = 0.0

    def __call__(self, x: Array) -> Array:
        shape = x.shape
        x = x.reshape(-1, shape[-1])  # a plain matrix: its weight gradient is one product
        y = x @ self.kernel[...].astype(x.dtype)
        if self.lora_a is not None and self.lora_b is not None:
            low = x @ self.lora_a[...].astype(x.dtype)
            y = y + (low @ self.lora_b[...].astype(x.dtype)) * self.lora_scale
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        return y.reshape(*shape[:-1], y.shape[-1])


class LayerNorm(nnx.Module):
    """Layer normalisation in float32."""

    def __init__(self, width: int, axis: str | None, eps: float) -> None:
        self.scale = nnx.Param(jnp.ones(width), axes=(axis,))
        self.bias = nnx.Param(jnp.zeros(width), axes=(axis,))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)  # variance of bf16 values loses too much
        mean = wide.mean(-1, keepdims=True)
        centred = wide - mean
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation in float32 (Qwen3: the cast comes before the scale)."""

    def __init__(self, width: int, axis: str | None, eps: float) -> None:
        self.scale = nnx.Param(jnp.ones(width), axes=(axis,))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        y = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        return self.scale[...].astype(x.dtype) * y.astype(x.dtype)


@jax.custom_vjp
def rotate(x: Array, angles: Array) -> Array:
    """Rotary embedding of x (..., T, heads, H) by angles (..., T, H / 2), in float32.

    No gradient reaches the angles.
    """
    return jax.lax.platform_dependent(x, angles, tpu=turn_by_product, default=turn)


def _rotate_back(angles: Array, slope: Array) -> tuple[Array, None]:
    return rotate(slope, -angles), None


rotate.defvjp(lambda x, angles: (rotate(x, angles), angles), _rotate_back)


def turn(x: Array, angles: Array) -> Array:
    """`rotate` in parts: one loop over the elements on a CPU or GPU."""
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def turn_by_product(x: Array, angles: Array) -> Array:
    """The same on a TPU, where halves of a lane cost copies: a product, exact, swaps them."""
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    half = np.eye(angles.shape[-1])
    swap = jnp.asarray(np.block([[0 * half, half], [-half, 0 * half]]), x.dtype)
    swapped = jnp.matmul(x, swap, precision=jax.lax.Precision.HIGHEST).astype(jnp.float32)
    wide_cos, wide_sin = (jnp.concatenate([one, one], -1)[..., None, :] for one in (cos, sin))
    return (x.astype(jnp.float32) * wide_cos + swapped * wide_sin).astype(x.dtype)


def inverse_frequencies(theta: float, size: int) -> Array:
    """theta^(-2 i / size) for i < size / 2, float32 (RoFormer, equation 15)."""
    return 1.0 / theta ** (jnp.arange(0, size, 2, dtype=jnp.float32) / size)


def stack(build: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs, depth: int) -> Any:
    """`depth` copies of a block with a leading layer axis on every parameter."""
    keys = jax.random.split(rngs.params(), depth)
    stacked = jax.vmap(lambda key: build(nnx.Rngs(params=key)))(keys)
    for _, variable in nnx.iter_graph(stacked):
        if isinstance(variable, nnx.Variable):
            variable.set_metadata(axes=("layers", *variable.get_metadata("axes")))
    return stacked

"""The decoder's linear layers in 8 bits: weights by output channel, activations by token.

Both are symmetric: the largest magnitude becomes 127. Products are summed in int32 and rescaled in
float32. A token's scale comes from that token alone, so no row depends on its batch. Embedding,
norms, tower, mergers and label head stay as they are, and scores stay float32.
"""

from __future__ import annotations

import re
from functools import reduce
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from unirank_jax import lora

Array = jax.Array
Network = TypeVar("Network", bound=nnx.Module)
STEPS = 127.0  # of a magnitude; -128 stays unused
LEAST = 1e-30  # magnitude of a row or column of zeros, so that nothing is divided by zero


class Int8Error(ValueError):
    """A model that cannot be put into 8 bits, or something that a model in 8 bits cannot do."""


class Int8Param(nnx.Variable):
    """A quantised kernel or its scales: no `nnx.Param`, so that nothing takes it for trainable."""


class Int8Dense(nnx.Module):
    """y = x W for a kernel (in, out) in int8 with a float32 scale per output channel."""

    def __init__(self, kernel: Array, axes: tuple[str | None, ...]) -> None:
        values, scale = quantized(kernel, axis=-2)
        self.kernel = Int8Param(values, axes=axes)
        self.scale = Int8Param(scale, axes=(*axes[:-2], axes[-1]))

    def __call__(self, x: Array) -> Array:
        shape = x.shape
        values, scale = quantized(x.reshape(-1, shape[-1]), axis=-1)
        sums = jax.lax.dot_general(
            values,
            self.kernel[...],
            (((1,), (0,)), ((), ())),
            preferred_element_type=jnp.int32,
        )
        y = sums.astype(jnp.float32) * scale[:, None] * self.scale[...]
        return y.astype(x.dtype).reshape(*shape[:-1], y.shape[-1])


def quantized(x: Array, axis: int) -> tuple[Array, Array]:
    """int8 values like x, and the float32 scales that turn them back, without that axis.

    Written with products by reciprocals, which a compiler has no reason to rewrite, so that the
    values are those of numpy to the bit.
    """
    wide = x.astype(jnp.float32)
    top = jnp.maximum(jnp.abs(wide).max(axis, keepdims=True), LEAST)
    values = jnp.rint(wide * (STEPS / top)).astype(jnp.int8)
    return values, (top * (1.0 / STEPS)).squeeze(axis)


def is_decoder_linear(path: str) -> bool:
    """Whether the dense layer of this dotted path is one of those that are quantised."""
    return re.fullmatch(lora.DECODER_LINEAR, path) is not None


def quantize(model: Network) -> Network:
    """Put the decoder's linear layers into 8 bits in place; returns the model.

    Raises:
        Int8Error: it is in 8 bits already, or has adapters.
    """
    chosen = {p: layer for p, layer in lora.dense_layers(model).items() if is_decoder_linear(p)}
    if not chosen:
        raise Int8Error("the model has no decoder layers that are not in 8 bits already")
    if adapted := [path for path, layer in chosen.items() if layer.lora_a is not None]:
        raise Int8Error(f"{adapted[0]} has an adapter; fold the adapters first (lora.fold)")
    for path, layer in chosen.items():
        *parents, name = path.split(".")
        kernel = Int8Dense(layer.kernel[...], layer.kernel.get_metadata("axes"))
        setattr(reduce(getattr, parents, model), name, kernel)
    return model


def is_quantized(model: nnx.Module) -> bool:
    """Whether some layer is in 8 bits."""
    return any(isinstance(node, Int8Dense) for _, node in nnx.iter_graph(model))


def refuse(model: nnx.Module, what: str, error: type[Exception] = Int8Error) -> None:
    """Raise `error` when the model is in 8 bits: what was rounded cannot be brought back."""
    if is_quantized(model):
        raise error(
            f"a model in 8 bits cannot be {what}; load it without quantize='int8' (ScoringConfig)"
        )


def weight_bytes(model: nnx.Module) -> int:
    """Bytes that the model's parameters take."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))

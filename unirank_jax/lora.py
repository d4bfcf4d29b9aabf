"""Low-rank adapters (LoRA, Hu et al. 2021): y = x W + (alpha / rank) (x A) B.

`add` puts the factors beside the kernels as `lora_a`, `lora_b`; `fold` adds their product to the
kernels in float32. A starts random and B at zero, so an adapted model first equals its base.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
from flax import nnx

from unirank_jax.layers import Dense, LoRAParam

DECODER_LINEAR = r"text\.stage_\d+\.(q|k|v|o|gate|up|down)"


class LoRAError(ValueError):
    """Adapters that cannot be added or folded as asked."""


def dense_layers(model: nnx.Module) -> dict[str, Dense]:
    """Every dense layer of the model by its dotted path."""
    return {
        ".".join(str(part) for part in path): node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, Dense)
    }


def add(model: nnx.Module, rank: int, alpha: float, targets: str, rngs: nnx.Rngs) -> list[str]:
    """Adapt in place the dense layers whose path matches `targets` fully; returns their paths.

    Raises:
        LoRAError: no layer matches, the rank is not positive, or a layer is adapted already.
    """
    if rank < 1:
        raise LoRAError(f"lora.rank is {rank}; choose at least 1")
    chosen = {p: layer for p, layer in dense_layers(model).items() if re.fullmatch(targets, p)}
    if not chosen:
        raise LoRAError(
            f"lora.targets {targets!r} matches no layer; a path looks like "
            f"{next(iter(dense_layers(model)))!r}"
        )
    for path, layer in sorted(chosen.items()):
        if layer.lora_a is not None:
            raise LoRAError(f"{path} has an adapter already; fold it first")
        kernel, axes = layer.kernel[...], layer.kernel.get_metadata("axes")
        *stack, size_in, size_out = kernel.shape
        shape = (*stack, size_in, rank)
        noise = jax.random.normal(rngs.params(), shape, jnp.float32) * size_in**-0.5
        layer.lora_a = LoRAParam(noise, axes=(*axes[:-1], "lora"))
        zeros = jnp.zeros((*stack, rank, size_out), jnp.float32)
        layer.lora_b = LoRAParam(zeros, axes=(*axes[:-2], "lora", axes[-1]))
        layer.lora_scale = alpha / rank
    return sorted(chosen)


def fold(model: nnx.Module) -> list[str]:
    """Merge in place every adapter into its kernel (product in float32); returns their paths."""
    folded = []
    for path, layer in sorted(dense_layers(model).items()):
        if layer.lora_a is None or layer.lora_b is None:
            continue
        kernel = layer.kernel[...]
        a, b = layer.lora_a[...].astype(jnp.float32), layer.lora_b[...].astype(jnp.float32)
        update = jnp.einsum("...ir,...ro->...io", a, b) * layer.lora_scale
        layer.kernel[...] = (kernel.astype(jnp.float32) + update).astype(kernel.dtype)
        layer.lora_a = layer.lora_b = None
        layer.lora_scale = 0.0
        folded.append(path)
    return folded

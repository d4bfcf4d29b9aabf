"""The vision tower of Qwen3-VL: patches in, merged visual tokens and DeepStack features out.

The tower is a run of stages scanned over stacked blocks; after each stage but the last a DeepStack
merger reads the hidden state. Positions and table rows come from the host (`packing.grid_indices`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from unirank_jax.attention import attend
from unirank_jax.batch import Images
from unirank_jax.cells import Cells
from unirank_jax.config import VisionConfig
from unirank_jax.layers import Compute, Dense, LayerNorm, inverse_frequencies, rotate, stack
from unirank_jax.sharding import gathered

Array = jax.Array


class Features(NamedTuple):
    """Visual tokens of one shard, image after image."""

    merged: Any  # (F, D), of the device or numpy
    deepstack: Any  # (n, F, D)


class VisionBlock(nnx.Module):
    """Pre-norm transformer block with 2-D rotary attention inside one image."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs) -> None:
        width, mlp = config.width, config.mlp_width
        self.norm1 = LayerNorm(width, None, config.norm_eps)
        self.qkv = Dense(rngs, (width, 3 * width), ("vision_embed", "vision_heads"), bias=True)
        self.out = Dense(rngs, (width, width), ("vision_heads", "vision_embed"), True, gain=0.5)
        self.norm2 = LayerNorm(width, None, config.norm_eps)
        self.up = Dense(rngs, (width, mlp), ("vision_embed", "vision_mlp"), bias=True)
        self.down = Dense(rngs, (mlp, width), ("vision_mlp", "vision_embed"), True, gain=0.5)
        self.heads = config.heads

    def __call__(self, x: Array, angles: Array, cells: Cells, compute: Compute) -> Array:
        """x (N, Dv) -> (N, Dv)."""
        qkv = self.qkv(self.norm1(x)).reshape(x.shape[0], 3, self.heads, -1)
        q, k = rotate(qkv[:, 0], angles), rotate(qkv[:, 1], angles)
        q, k, v = cells.rows(q), cells.rows(k), cells.rows(qkv[:, 2])  # (I, P, heads, H)
        mixed = attend(
            q,
            k,
            v,
            causal=False,
            key_lengths=cells.lengths,
            backend=compute.attention,
            mesh=compute.mesh,
        )
        mixed = cells.flat(mixed)
        x = x + self.out(mixed.reshape(x.shape))
        return x + self.down(jax.nn.gelu(self.up(self.norm2(x)), approximate=True))


class Merger(nnx.Module):
    """Joins merge_size^2 patches into one visual token of the decoder's width."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs, norm_after: bool) -> None:
        joined = config.width * config.merge_unit
        self.norm = LayerNorm(joined if norm_after else config.width, None, config.norm_eps)
        self.up = Dense(rngs, (joined, joined), ("vision_joined", "vision_mlp"), bias=True)
        self.down = Dense(rngs, (joined, config.out_width), ("vision_mlp", "embed"), bias=True)
        self.unit, self.norm_after = config.merge_unit, norm_after

    def __call__(self, x: Array) -> Array:
        """x (N, Dv) in merge order -> (N / unit, D)."""
        if not self.norm_after:
            x = self.norm(x)
        x = x.reshape(-1, self.unit * x.shape[-1])
        if self.norm_after:
            x = self.norm(x)
        return self.down(jax.nn.gelu(self.up(x), approximate=False))


class PatchEmbedding(nnx.Module):
    """The patch projection; a still image repeats its frame, so the temporal taps add up."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs) -> None:
        shape = (config.temporal_patch_size, config.patch_dim, config.width)
        deviation = (config.temporal_patch_size * config.patch_dim) ** -0.5
        kernel = jax.random.normal(rngs.params(), shape, jnp.float32) * deviation
        kernel = kernel - kernel.mean((0, 1))  # a blank patch starts as zero, so ink stands out
        self.kernel = nnx.Param(kernel, axes=(None, None, "vision_embed"))
        self.bias = nnx.Param(jnp.zeros(config.width), axes=("vision_embed",))

    def __call__(self, patches: Array, dtype: Any) -> Array:
        x = patches.astype(jnp.float32) / 127.5 - 1.0  # uint8 to [-1, 1]: mean 0.5, deviation 0.5
        kernel = self.kernel[...].sum(0).astype(dtype)
        return x.astype(dtype) @ kernel + self.bias[...].astype(dtype)


class Vision(nnx.Module):
    """The whole tower."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.patch = PatchEmbedding(config, rngs)
        table = jax.random.normal(rngs.params(), (config.table_size, config.width)) * 0.02
        self.table = nnx.Param(table, axes=(None, "vision_embed"))
        for s, depth in enumerate(config.stage_depths):
            if depth:
                setattr(self, f"stage_{s}", stack(lambda r: VisionBlock(config, r), rngs, depth))
        self.merger = Merger(config, rngs, norm_after=False)
        for j in range(len(config.deepstack_layers)):
            setattr(self, f"deepstack_{j}", Merger(config, rngs, norm_after=True))

    def __call__(self, images: Images, compute: Compute) -> Features:
        """images: one shard (I, P, ...) -> merged (F, D) and DeepStack (n, F, D)."""
        config, dtype = self.config, jnp.dtype(compute.dtype)
        cells = Cells(images.lengths, images.patches.shape[1], images.take)
        x = gathered(self.patch, compute.mesh)(cells.flat(images.patches), dtype)  # (N, Dv)
        table = gathered(self.table, compute.mesh)[...]
        corners, weights = cells.flat(images.pos_index), cells.flat(images.pos_weight)
        place = jnp.zeros(x.shape, jnp.float32)
        for corner in range(corners.shape[-1]):  # one by one: all at once are float32, four wide
            place = place + table[corners[:, corner]] * weights[:, corner, None]
        x = x + place.astype(dtype)
        rates = inverse_frequencies(config.rope_theta, config.head_dim // 2)
        places = cells.flat(images.patch_hw)[..., None].astype(jnp.float32)  # (N, 2, 1)
        angles = (places * rates).reshape(x.shape[0], -1)  # (N, H / 2)

        def step(x: Array, block: VisionBlock) -> tuple[Array, None]:
            return block(x, angles, cells, compute), None

        deepstack = []
        for s, depth in enumerate(config.stage_depths):
            if depth:
                x, _ = compute.scan(step, x, getattr(self, f"stage_{s}"))
            if s < len(config.deepstack_layers):
                merger = getattr(self, f"deepstack_{s}")
                deepstack.append(gathered(merger, compute.mesh, compute.dtype)(x))
        merged = gathered(self.merger, compute.mesh, compute.dtype)(x)
        empty = jnp.zeros((0, *merged.shape), dtype)
        return Features(merged, jnp.stack(deepstack) if deepstack else empty)


def joined(computed: Features | None, given: Features) -> Features | None:
    """Features of the tower, then those that were known; None where there is neither."""
    if computed is None:
        return given if given.merged.shape[0] else None
    if not given.merged.shape[0]:
        return computed
    return Features(
        jnp.concatenate([computed.merged, given.merged]),
        jnp.concatenate([computed.deepstack, given.deepstack], axis=1),
    )

"""What a batch costs, roughly: which programs to compile and which to use again hangs on it."""

from __future__ import annotations

from unirank_jax.batch import Bucket
from unirank_jax.config import ModelConfig

SOFTMAX = 64  # multiply-adds in whose time a score is masked, exponentiated and summed: on a CPU,
# eight programs of the default model, timed one by one, took within a tenth of what this says


def multiply_adds(config: ModelConfig, bucket: Bucket) -> float:
    """Multiply-adds of a bucket, roughly: token rows, attention, patches."""
    text, vision = config.text, config.vision
    layer = 4 * text.width * text.heads * text.head_dim + 3 * text.width * text.mlp_width
    if bucket.rows:
        tokens, before = bucket.cells, bucket.outer + bucket.prefix_tokens
        span = sum(n * width * (before + width) for n, width in bucket.blocks.sizes)
    else:
        padded = bucket.prefixes * bucket.prefix_tokens
        tokens = bucket.prefix_cells or padded
        span = padded * (bucket.outer + bucket.prefix_tokens)
    attention = span * text.heads * 2 * (text.head_dim + SOFTMAX)
    decoder = text.depth * (tokens * layer + attention)
    block = vision.width * (4 * vision.width + 2 * vision.mlp_width)
    seen = bucket.images * bucket.patches**2 * 2 * (vision.width + vision.heads * SOFTMAX)
    return float(decoder + vision.depth * (bucket.patch_cells * block + seen))

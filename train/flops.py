"""Products (two per multiply-add) that a network needs for a batch: no padding, nothing twice."""

from __future__ import annotations

from dataclasses import dataclass

from unirank_jax.batch import Bucket
from unirank_jax.config import ModelConfig


@dataclass(frozen=True)
class Products:
    """Of one forward pass."""

    decoder: float
    tower: float  # with the mergers
    decoder_attention: float  # scores and mixing
    tower_attention: float

    @property
    def attention(self) -> float:
        """Of both networks."""
        return self.decoder_attention + self.tower_attention

    @property
    def total(self) -> float:
        """All of them."""
        return self.decoder + self.tower + self.attention


def forward(config: ModelConfig, bucket: Bucket, *, prefixes: bool) -> Products:
    """The products of a bucket that is full, with the query first.

    Every row continues a prefix; its last layer computes keys, values and the label position alone,
    prefixes need keys and values there. prefixes: compute them too, or have them at hand.
    """
    text, vision = config.text, config.vision
    kv = 2 * text.width * text.kv_heads * text.head_dim
    layer = 2 * text.width * text.heads * text.head_dim + 3 * text.width * text.mlp_width + kv
    own = bucket.cells or bucket.rows * bucket.tokens
    asked = bucket.prefixes * bucket.prefix_tokens if prefixes else 0
    decoder = (own + asked) * (layer * (text.depth - 1) + kv) + bucket.rows * (layer - kv)

    def spans(rows: int, tokens: float, before: int) -> float:
        return rows * (tokens * before + tokens * (tokens + 1) / 2)

    length = own / max(bucket.rows, 1)
    seen = spans(bucket.rows, length, bucket.outer + bucket.prefix_tokens)
    if prefixes:
        seen += spans(bucket.prefixes, bucket.prefix_tokens, bucket.outer)
    patches = bucket.patch_cells or bucket.images * bucket.patches
    each = patches / max(bucket.images, 1)
    block = vision.width * (4 * vision.width + 2 * vision.mlp_width)
    joined = vision.width * vision.merge_unit
    mergers = 1 + len(vision.deepstack_layers)
    merging = patches / vision.merge_unit * joined * (joined + vision.out_width) * mergers
    return Products(
        decoder=2.0 * decoder,
        tower=2.0 * (patches * (block * vision.depth + vision.patch_dim * vision.width) + merging),
        decoder_attention=4.0 * seen * text.heads * text.head_dim * (text.depth - 1),
        tower_attention=4.0 * patches * each * vision.width * vision.depth,
    )

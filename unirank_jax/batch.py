"""The static-shape batch: every dynamic size of the input becomes an index array made on the host.

Shape letters: S shards of (data, fsdp); Q prefixes; B candidate rows; T tokens; I image slots;
P patches per slot; N tokens or patches of a shard together; F visual tokens of a shard; G lists;
C candidates of a list.
Each shard holds its own images, so an index never leaves the shard. No JAX here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

Array = Any  # numpy on the host, jax on the device
BLOCKS = (8, 4, 2, 1)  # blocks of rows end at these shares: few are long, many are short
FULL = 0.97  # of the cells are used: computing the padding costs less than leaving it out
WHOLE = 1 << 30  # of a block's tokens: as many as `Bucket.tokens`


class Rows(NamedTuple):
    """Token sequences, padded on the right (causal attention never reads the padding)."""

    tokens: Array  # (S, B, T) int32
    positions: Array  # (S, B, 3, T) int32: M-RoPE time, height, width
    image_index: Array  # (S, B, T) int32: row of the shard's (F, D) features, -1 = a token
    lengths: Array  # (S, B) int32: 0 for a padding row


class Images(NamedTuple):
    """Patches of still images in Qwen's order: the merge_size^2 patches of a token in a row."""

    patches: Array  # (S, I, P, channels * patch^2) uint8
    patch_hw: Array  # (S, I, P, 2) int32: row and column of the patch, for the rotary embedding
    lengths: Array  # (S, I) int32: patches in use, 0 for an empty slot
    pos_index: Array  # (S, I, P, 4) int32: rows of the learned position table
    pos_weight: Array  # (S, I, P, 4) float32: their bilinear weights
    take: Array  # (S, N) int32: places i * P + p of all patches (see cells.py); N = 0: padded


@dataclass(frozen=True)
class Blocks:
    """Consecutive rows that attention pads to a width of their own; static, not an array.

    Short candidates are many and long ones few, and attention pays for the square of the width.
    """

    sizes: tuple[tuple[int, int], ...]  # rows and tokens of each; rows after the last are empty


class Batch(NamedTuple):
    """Rows whose last token is scored, and the prefixes that they continue (length 0 = none).

    With the query first the rows are candidates and each query is the prefix of its list. With the
    document first the rows are queries, each after its own candidate.
    """

    prefix: Rows  # (S, Q, Tq)
    rows: Rows  # (S, B, T); the label is read at lengths - 1
    prefix_index: Array  # (S, B) int32: which prefix a row continues
    images: Images
    take: Array  # (S, N) int32: places b * T + t of the tokens of `rows`; N = 0: padded
    prefix_take: Array  # (S, N') int32: the same for `prefix`
    outer: Rows  # (S, 1, To): what comes before all prefixes; To = 0: nothing
    blocks: Blocks  # of `rows`


class Targets(NamedTuple):
    """Lists over the rows of a batch, for training."""

    label_row: Array  # (S, G, C) int32: the row of each candidate
    mask: Array  # (S, G, C) bool: a judged candidate (grade >= 0)
    grade: Array  # (S, G, C) float32
    rel_min: Array  # (S, G) float32: relevant when grade >= rel_min
    list_id: Array  # (S, G) int32: place in the plan, -1 for a padding list


@dataclass(frozen=True, order=True)
class Bucket:
    """The static sizes of one shard of a batch; one compiled program per bucket."""

    prefixes: int
    prefix_tokens: int
    rows: int
    tokens: int
    images: int
    patches: int
    cells: int = 0  # tokens of all rows together; 0 = the rows are computed with their padding
    patch_cells: int = 0  # patches of all images together; 0 = with padding
    given: int = 0  # visual tokens whose features are known
    outer: int = 0  # tokens of a prefix before the prefixes
    prefix_cells: int = 0  # tokens of all prefixes together; 0 = with padding
    second: int = WHOLE  # tokens of the longest row after the first eighth of the rows, which go
    third: int = WHOLE  # ... from long to short unless these are WHOLE; after the first quarter
    fourth: int = WHOLE  # after the first half

    def __str__(self) -> str:
        """The sizes that say something."""
        told = (f"{name}={size}" for name, size in vars(self).items() if size not in (0, WHOLE))
        return f"Bucket({', '.join(told)})"

    @property
    def blocks(self) -> Blocks:
        """The rows in `BLOCKS`, equal widths together; as one where padding is computed."""
        widths = (self.tokens, self.second, self.third, self.fourth)
        found: list[tuple[int, int]] = []
        for rows, width in zip(_block_rows(self.rows), widths, strict=True):
            width = min(width, self.tokens) if self.cells else self.tokens
            if found and found[-1][1] == width:
                found[-1] = (found[-1][0] + rows, width)
            elif rows and width:
                found.append((rows, width))
        return Blocks(tuple(found))

    @property
    def padded_where_full(self) -> Bucket:
        """This bucket; where there is next to no padding it is computed, which saves gathers."""
        found = self
        if self.patch_cells >= FULL * self.images * self.patches:
            found = replace(found, patch_cells=0)
        if self.cells >= FULL * self.rows * self.tokens and len(self.blocks.sizes) == 1:
            found = replace(found, cells=0)
        return found

    @property
    def block_starts(self) -> tuple[int, int, int]:
        """The rows with which the second, third and last block begin."""
        first, second, third, _ = np.cumsum(_block_rows(self.rows)).tolist()
        return first, second, third

    def width_at(self, row: int) -> int:
        """How many tokens the row at this place may have; WHOLE where rows are in no order."""
        if row >= self.rows:
            return 0
        widths = (self.tokens, self.second, self.third, self.fourth)
        return widths[sum(row >= start for start in self.block_starts)]


def block_tokens(lengths: Sequence[int]) -> dict[str, int]:
    """`tokens`, `second`, `third` and `fourth` of a `Bucket` for rows from long to short.

    They hold in a bucket of more rows, too: there a row is in the same block or an earlier one,
    and no block is narrower than a later one, be it empty.
    """
    starts = np.cumsum([0, *_block_rows(len(lengths))]).tolist()
    names = ("tokens", "second", "third", "fourth")
    return {
        name: int(lengths[start]) if start < len(lengths) else 0
        for name, start in zip(names, starts[:-1], strict=True)
    }


def _block_rows(rows: int) -> list[int]:
    """How many rows each block has."""
    ends = [0, *(-(-rows // share) for share in BLOCKS)]
    return [end - start for start, end in zip(ends[:-1], ends[1:], strict=True)]


def empty_rows(rows: int, tokens: int) -> Rows:
    """Padding rows of shape (1, rows, tokens)."""
    return Rows(
        tokens=np.zeros((1, rows, tokens), np.int32),
        positions=np.zeros((1, rows, 3, tokens), np.int32),
        image_index=np.full((1, rows, tokens), -1, np.int32),
        lengths=np.zeros((1, rows), np.int32),
    )


def empty_images(images: int, patches: int, patch_dim: int, cells: int = 0) -> Images:
    """Empty image slots of shape (1, images, patches, ...); `cells`: patches of all together."""
    return Images(
        patches=np.zeros((1, images, patches, patch_dim), np.uint8),
        patch_hw=np.zeros((1, images, patches, 2), np.int32),
        lengths=np.zeros((1, images), np.int32),
        pos_index=np.zeros((1, images, patches, 4), np.int32),
        pos_weight=np.zeros((1, images, patches, 4), np.float32),
        take=np.zeros((1, cells), np.int32),
    )


def stack_shards(shards: list[Any]) -> Any:
    """Join equal trees of NamedTuples along their leading shard axis S."""
    first = shards[0]
    if isinstance(first, Blocks):
        return first
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        parts = (stack_shards([getattr(shard, name) for shard in shards]) for name in first._fields)
        return type(first)(*parts)
    return np.concatenate(shards, axis=0)

"""From encoded prompts to one static-shape `Batch`: rows, M-RoPE positions, image slots.

Everything that depends on the content (positions, which feature a token reads, how the position
table is interpolated) is computed here in numpy, so that the device sees only shapes. No JAX here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

import numpy as np

from unirank_jax.batch import (
    WHOLE,
    Batch,
    Bucket,
    Images,
    Rows,
    block_tokens,
    empty_images,
    empty_rows,
)
from unirank_jax.config import ModelConfig


class PatchesLike(Protocol):
    """What packing needs of `images.Patches`."""

    @property
    def pixels(self) -> np.ndarray: ...  # (P, channels * patch^2) uint8

    @property
    def grid(self) -> tuple[int, int]: ...  # rows and columns of patches

    @property
    def digest(self) -> bytes: ...


Known = tuple[bytes, int]  # the digest of an image and its visual tokens


class EncodedLike(Protocol):
    """What packing needs of `prompt.Encoded`."""

    @property
    def tokens(self) -> np.ndarray: ...  # (n,) int32

    @property
    def images(self) -> Sequence[PatchesLike]: ...


def rope_positions(
    tokens: np.ndarray, grids: Sequence[tuple[int, int]], config: ModelConfig, start: int
) -> tuple[np.ndarray, int]:
    """M-RoPE positions (3, n) int32 of one sequence, and the position that would come next.

    Text advances one step on all three axes; an image holds its start on the time axis, spreads
    over height and width, and the text after it continues at max + 1 (Qwen2-VL report, 2.1).
    """
    merge = config.vision.merge_size
    out = np.empty((3, len(tokens)), np.int32)
    is_image = np.asarray(tokens) == config.image_token_id
    at, position, remaining = 0, start, list(grids)
    while at < len(tokens):
        if not is_image[at]:
            end = at + 1
            while end < len(tokens) and not is_image[end]:
                end += 1
            out[:, at:end] = np.arange(position, position + end - at)
            position += end - at
        else:
            height, width = (side // merge for side in remaining.pop(0))
            end = at + height * width
            out[0, at:end] = position
            out[1, at:end] = position + np.repeat(np.arange(height), width)
            out[2, at:end] = position + np.tile(np.arange(width), height)
            position += max(height, width)
        at = end
    if remaining or not is_image[:at].sum() == sum(r * c // merge**2 for r, c in grids):
        raise ValueError(
            f"{int(is_image.sum())} image tokens do not match the grids {list(grids)}; "
            "encode the content with unirank_jax.prompt"
        )
    return out, position


@lru_cache(maxsize=512)
def grid_indices(
    grid: tuple[int, int], merge: int, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per patch of a grid, in merge-block order: (row, column), table rows, bilinear weights.

    Returns (P, 2) int32, (P, 4) int32, (P, 4) float32. The learned side x side table is resampled
    with aligned corners (Qwen3-VL: position k of n reads coordinate k * (side - 1) / (n - 1)).
    """
    rows, columns = grid
    raster = np.arange(rows * columns).reshape(rows // merge, merge, columns // merge, merge)
    order = raster.transpose(0, 2, 1, 3).reshape(-1)
    row, column = order // columns, order % columns

    def taps(size: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        where = np.linspace(0, side - 1, size, dtype=np.float32)[at]
        low = where.astype(np.int32)
        high = np.minimum(low + 1, side - 1)
        return low, high, (where - low).astype(np.float32)

    top, bottom, down = taps(rows, row)
    left, right, across = taps(columns, column)
    index = np.stack([a * side + b for a in (top, bottom) for b in (left, right)], axis=-1)
    weight = np.stack([a * b for a in (1 - down, down) for b in (1 - across, across)], axis=-1)
    return np.stack([row, column], -1).astype(np.int32), index.astype(np.int32), weight


class Slots:
    """Image slots of one shard; equal pictures share a slot, those of known features need none."""

    def __init__(self, config: ModelConfig, bucket: Bucket, known: Iterable[Known] = ()) -> None:
        self.config, self.bucket = config, bucket
        self.arrays: Images = empty_images(
            bucket.images, bucket.patches, config.vision.patch_dim, bucket.patch_cells
        )
        self.index: dict[bytes, int] = {}  # picture -> its first feature row
        self.used = self.filled = 0  # slots, patches
        row = visual_rows(config, bucket)
        for digest, tokens in known:
            self.index[digest] = row
            row += tokens

    def place(self, image: PatchesLike) -> int:
        """First feature row of the image, storing it when it is new."""
        if image.digest in self.index:
            return self.index[image.digest]
        bucket, slot, count = self.bucket, self.used, len(image.pixels)
        compact = bucket.patch_cells > 0
        if (
            slot >= bucket.images
            or count > bucket.patches
            or (compact and self.filled + count > bucket.patch_cells)
        ):
            raise ValueError(
                f"image {slot} with {count} patches does not fit {bucket}; "
                "choose the bucket with packing.needs()"
            )
        side = round(self.config.vision.table_size**0.5)
        hw, index, weight = grid_indices(image.grid, self.config.vision.merge_size, side)
        self.arrays.patches[0, slot, :count] = image.pixels
        self.arrays.patch_hw[0, slot, :count] = hw
        self.arrays.pos_index[0, slot, :count] = index
        self.arrays.pos_weight[0, slot, :count] = weight
        self.arrays.lengths[0, slot] = count
        first = slot * bucket.patches
        if compact:
            self.arrays.take[0, self.filled : self.filled + count] = first + np.arange(count)
            first = self.filled
        self.used, self.filled = slot + 1, self.filled + count
        self.index[image.digest] = first // self.config.vision.merge_unit
        return self.index[image.digest]


def visual_rows(config: ModelConfig, bucket: Bucket) -> int:
    """Feature rows that the tower computes for a bucket; those of known images follow them."""
    patches = bucket.patch_cells or bucket.images * bucket.patches
    return patches // config.vision.merge_unit


def fill(
    rows: Rows, at: int, item: EncodedLike, config: ModelConfig, slots: Slots, start: int
) -> int:
    """Write one sequence into row `at`; returns the position that follows it."""
    length = len(item.tokens)
    if length > rows.tokens.shape[2]:
        raise ValueError(
            f"a sequence of {length} tokens does not fit the bucket of {rows.tokens.shape[2]}; "
            "choose the bucket with packing.needs()"
        )
    positions, following = rope_positions(
        item.tokens, [image.grid for image in item.images], config, start
    )
    rows.tokens[0, at, :length] = item.tokens
    rows.positions[0, at, :, :length] = positions
    rows.lengths[0, at] = length
    where = np.flatnonzero(np.asarray(item.tokens) == config.image_token_id)
    if len(where):
        first = [slots.place(image) for image in item.images]
        sizes = [len(image.pixels) // config.vision.merge_unit for image in item.images]
        features = [np.arange(a, a + n) for a, n in zip(first, sizes, strict=True)]
        rows.image_index[0, at, where] = np.concatenate(features)
    return following


def pack(
    config: ModelConfig,
    prefixes: Sequence[EncodedLike],
    rows: Sequence[EncodedLike],
    prefix_index: Sequence[int],
    bucket: Bucket,
    outer: EncodedLike | None = None,
) -> Batch:
    """One shard (S = 1) of a batch. `prefix_index[b]` names the prefix that row b continues.

    outer: what comes before all prefixes. With it, and as many prefixes as rows in the bucket, each
        row continues its own prefix.

    Raises:
        ValueError: something does not fit the bucket.
    """
    each = outer is not None and bucket.prefixes == bucket.rows
    if each and list(prefix_index) != list(range(len(rows))):
        raise ValueError(f"with {bucket} row b continues prefix b, not {list(prefix_index)}")
    slots = Slots(config, bucket)
    before = empty_rows(1, bucket.outer)
    start = 0 if outer is None else fill(before, 0, outer, config, slots, 0)
    starts = [start] * len(prefixes)
    packed, prefix_take, following = pack_prefixes(config, prefixes, starts, bucket, slots)
    first = [following[at] for at in prefix_index]
    packed_rows, take = pack_rows(config, rows, first, bucket, slots)
    index = np.zeros((1, bucket.rows), np.int32)
    index[0, : len(rows)] = prefix_index
    return Batch(packed, packed_rows, index, slots.arrays, take, prefix_take, before, bucket.blocks)


def pack_prefixes(
    config: ModelConfig,
    prefixes: Sequence[EncodedLike],
    starts: Sequence[int],
    bucket: Bucket,
    slots: Slots,
) -> tuple[Rows, np.ndarray, list[int]]:
    """Prefixes from their first positions on, `Batch.prefix_take`, and the position after each.

    Raises:
        ValueError: something does not fit the bucket.
    """
    return _laid_out(
        config,
        prefixes,
        starts,
        (bucket.prefixes, bucket.prefix_tokens, bucket.prefix_cells),
        slots,
    )


def pack_rows(
    config: ModelConfig,
    rows: Sequence[EncodedLike],
    starts: Sequence[int],
    bucket: Bucket,
    slots: Slots,
) -> tuple[Rows, np.ndarray]:
    """Rows from their first positions on, and `Batch.take`.

    Raises:
        ValueError: something does not fit the bucket.
    """
    start = 0
    for count, width in bucket.blocks.sizes:
        some = range(start, min(start + count, len(rows)))
        wide = next((at for at in some if len(rows[at].tokens) > width), None)
        if wide is not None:
            raise ValueError(
                f"row {wide} of {len(rows[wide].tokens)} tokens does not fit the blocks of "
                f"{bucket}; give the longest rows first"
            )
        start += count
    if any(len(row.tokens) for row in rows[start:]):
        raise ValueError(f"{len(rows)} rows do not fit the blocks of {bucket}")
    sizes = (bucket.rows, bucket.tokens, bucket.cells)
    packed, take, _ = _laid_out(config, rows, starts, sizes, slots)
    return packed, take


def _laid_out(
    config: ModelConfig,
    sequences: Sequence[EncodedLike],
    starts: Sequence[int],
    sizes: tuple[int, int, int],
    slots: Slots,
) -> tuple[Rows, np.ndarray, list[int]]:
    """Sequences as (1, rows, tokens) of `sizes` (rows, tokens, cells), the places of their tokens
    where cells are counted, and the position after each."""
    count, width, cells = sizes
    lengths = [len(sequence.tokens) for sequence in sequences]
    if len(sequences) > count or (cells and sum(lengths) > cells):
        raise ValueError(
            f"{len(sequences)} sequences of {sum(lengths)} tokens overfill {slots.bucket}"
        )
    rows = empty_rows(count, width)
    take = np.zeros((1, cells), np.int32)
    following = []
    filled = 0
    for at, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
        following.append(fill(rows, at, sequence, config, slots, start))
        if cells:
            take[0, filled : filled + lengths[at]] = at * width + np.arange(lengths[at])
            filled += lengths[at]
    return rows, take, following


def needs(prefixes: Sequence[EncodedLike], candidates: Sequence[EncodedLike]) -> Bucket:
    """The smallest padded bucket that holds these sequences (equal pictures counted once)."""
    need = compact_needs(prefixes, candidates, lambda digest: 0)
    return replace(
        need, cells=0, patch_cells=0, prefix_cells=0, second=WHOLE, third=WHOLE, fourth=WHOLE
    )


def compact_needs(
    prefixes: Sequence[EncodedLike],
    candidates: Sequence[EncodedLike],
    known: Callable[[bytes], int],
) -> Bucket:
    """The smallest bucket without padding, for candidates from long to short.

    `known(digest)`: the visual tokens of an image whose features are at hand, 0 for others.
    """
    images = {image.digest: image for item in (*prefixes, *candidates) for image in item.images}
    new = [image for digest, image in images.items() if not known(digest)]
    lengths = sorted((len(item.tokens) for item in candidates), reverse=True)
    return Bucket(
        **block_tokens(lengths),
        prefixes=len(prefixes),
        prefix_tokens=max((len(item.tokens) for item in prefixes), default=0),
        rows=len(candidates),
        images=len(new),
        patches=max((len(image.pixels) for image in new), default=0),
        cells=sum(lengths),
        patch_cells=sum(len(image.pixels) for image in new),
        given=sum(map(known, images)),
        prefix_cells=sum(len(item.tokens) for item in prefixes),
    )

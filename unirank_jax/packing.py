"""From encoded prompts to one static-shape `Batch`: rows, M-RoPE positions, image slots.

Everything that depends on the content (positions, which feature a token reads, how the position
table is interpolated) is computed here in numpy, so that the device sees only shapes. No JAX here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from unirank_jax.batch import Batch, Bucket, Images, Rows, empty_images, empty_rows
from unirank_jax.config import ModelConfig


class PatchesLike(Protocol):
    """What packing needs of `images.Patches`."""

    @property
    def pixels(self) -> np.ndarray: ...  # (P, channels * patch^2) uint8

    @property
    def grid(self) -> tuple[int, int]: ...  # rows and columns of patches

    @property
    def digest(self) -> bytes: ...


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
    """Image slots of one shard; equal pictures share a slot."""

    def __init__(self, config: ModelConfig, count: int, patches: int) -> None:
        self.config, self.patches = config, patches
        self.arrays: Images = empty_images(count, patches, config.vision.patch_dim)
        self.index: dict[bytes, int] = {}

    def place(self, image: PatchesLike) -> int:
        """First feature row of the image, storing it when it is new."""
        tokens = self.patches // self.config.vision.merge_unit
        if image.digest in self.index:
            return self.index[image.digest] * tokens
        slot, used = len(self.index), len(image.pixels)
        if slot >= self.arrays.lengths.shape[1] or used > self.patches:
            raise ValueError(
                f"image {slot} with {used} patches does not fit the bucket "
                f"({self.arrays.lengths.shape[1]} slots of {self.patches} patches); "
                "choose the bucket with packing.needs()"
            )
        side = round(self.config.vision.table_size**0.5)
        hw, index, weight = grid_indices(image.grid, self.config.vision.merge_size, side)
        self.arrays.patches[0, slot, :used] = image.pixels
        self.arrays.patch_hw[0, slot, :used] = hw
        self.arrays.pos_index[0, slot, :used] = index
        self.arrays.pos_weight[0, slot, :used] = weight
        self.arrays.lengths[0, slot] = used
        self.index[image.digest] = slot
        return slot * tokens


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
    candidates: Sequence[EncodedLike],
    prefix_index: Sequence[int],
    bucket: Bucket,
) -> Batch:
    """One shard (S = 1) of a batch. `prefix_index[b]` names the prefix that candidate b continues.

    Raises:
        ValueError: something does not fit the bucket.
    """
    if len(prefixes) > bucket.prefixes or len(candidates) > bucket.rows:
        raise ValueError(
            f"{len(prefixes)} prefixes and {len(candidates)} candidates do not fit {bucket}"
        )
    slots = Slots(config, bucket.images, bucket.patches)
    prefix = empty_rows(bucket.prefixes, bucket.prefix_tokens)
    rows = empty_rows(bucket.rows, bucket.tokens)
    index = np.zeros((1, bucket.rows), np.int32)
    starts = [fill(prefix, at, item, config, slots, 0) for at, item in enumerate(prefixes)]
    for at, item in enumerate(candidates):
        index[0, at] = prefix_index[at]
        fill(rows, at, item, config, slots, starts[prefix_index[at]])
    return Batch(prefix=prefix, rows=rows, prefix_index=index, images=slots.arrays)


def needs(prefixes: Sequence[EncodedLike], candidates: Sequence[EncodedLike]) -> Bucket:
    """The smallest bucket that holds these sequences (equal pictures counted once)."""
    images = {image.digest: image for item in (*prefixes, *candidates) for image in item.images}
    return Bucket(
        prefixes=len(prefixes),
        prefix_tokens=max((len(item.tokens) for item in prefixes), default=0),
        rows=len(candidates),
        tokens=max((len(item.tokens) for item in candidates), default=0),
        images=len(images),
        patches=max((len(image.pixels) for image in images.values()), default=0),
    )

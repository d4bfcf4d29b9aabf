"""Images: Qwen's resize rule and patch order. Formats and refusals have files of their own.

Resize and patches are compared bit by bit with transformers' Pillow processor.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import noise
from PIL import Image

from unirank_jax.images import ImageSpec, decode, smart_resize, to_patches, token_count

SPEC = ImageSpec(patch_size=16, merge_size=2, min_visual_tokens=4, max_visual_tokens=1800)
TINY = ImageSpec(patch_size=8, merge_size=2, min_visual_tokens=4, max_visual_tokens=64)


# ---------------------------------------------------------------- transformers


def hugging_face(image: Image.Image, spec: ImageSpec) -> tuple[np.ndarray, tuple[int, int]]:
    """uint8 (P, 3, frames, patch ** 2) and the grid, from transformers' Pillow processor."""
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as module

    processor = module.Qwen2VLImageProcessorPil(
        patch_size=spec.patch_size,
        merge_size=spec.merge_size,
        temporal_patch_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={
            "shortest_edge": spec.min_visual_tokens * spec.factor**2,
            "longest_edge": spec.max_visual_tokens * spec.factor**2,
        },
    )
    output = processor(images=[image], return_tensors="np")
    values = output["pixel_values"].reshape(-1, 3, 2, spec.patch_size**2)
    assert values.dtype == np.float32
    frames, rows, columns = output["image_grid_thw"][0].tolist()
    assert frames == 1
    return values, (rows, columns)


ODD_SIZES = [
    (37, 53), (64, 64), (1, 1), (3, 3), (1, 40), (3, 40), (40, 1), (10, 1000), (200, 1), (333, 517),
    (1000, 31), (16, 16), (48, 80), (100, 101), (1201, 799),
]  # fmt: skip


@pytest.mark.parametrize("spec", [SPEC, TINY], ids=["published", "tiny"])
@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_bit_equal_to_transformers(size: tuple[int, int], spec: ImageSpec) -> None:
    image = Image.fromarray(noise(*size))
    ours = to_patches(image, spec)
    values, grid = hugging_face(image, spec)
    assert ours.grid == grid
    frame = ours.pixels.reshape(-1, 3, 1, spec.patch_size**2)
    back = np.rint((values * 0.5 + 0.5) * 255)
    assert np.array_equal(back, np.broadcast_to(frame, back.shape))
    # The normalised values as well: (x / 255 - 0.5) / 0.5 in float32, the frame twice.
    half = np.float32(0.5)
    normal = (frame.astype(np.float32) / np.float32(255) - half) / half
    assert np.array_equal(values, np.broadcast_to(normal, values.shape))


def test_a_thin_image_stays_in_a_small_budget() -> None:
    """The one departure of the resize rule: transformers gives 22 tokens of at most 16."""
    spec = ImageSpec(patch_size=16, merge_size=2, min_visual_tokens=1, max_visual_tokens=16)
    image = Image.fromarray(noise(1000, 31))
    assert hugging_face(image, spec)[1] == (44, 2)
    assert to_patches(image, spec).grid == (32, 2)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_modes_bit_equal_to_transformers(mode: str) -> None:
    """transformers, too, lays alpha on white."""
    image = Image.fromarray(noise(40, 70, 4)).convert(mode)
    if mode == "P":
        image.info["transparency"] = 3
    values, _ = hugging_face(image, SPEC)
    ours = to_patches(decode(image, "place"), SPEC).pixels.reshape(-1, 3, 256)
    assert np.array_equal(np.rint((values[:, :, 0] * 0.5 + 0.5) * 255), ours)


def test_where_transformers_is_wrong() -> None:
    """It clips 16-bit grey to white, and leaves EXIF rotation aside; we scale and rotate."""
    ramp = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    values, _ = hugging_face(ramp, SPEC)
    theirs = np.rint((values * 0.5 + 0.5) * 255)
    assert np.mean(theirs == 255) > 0.9
    ours = to_patches(decode(ramp, "place"), SPEC).pixels
    assert 120 < ours.mean() < 135


# ---------------------------------------------------------------- resize rule


SPECS = st.builds(
    lambda patch, merge, least, more: ImageSpec(patch, merge, least, least + more),
    st.sampled_from([8, 14, 16]),
    st.sampled_from([1, 2]),
    st.integers(1, 16),
    st.integers(0, 2000),
)


@settings(max_examples=300, deadline=None)
@given(height=st.integers(1, 9000), width=st.integers(1, 9000), spec=SPECS)
def test_resize_properties(height: int, width: int, spec: ImageSpec) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ValueError, match="more than 200 times"):
            smart_resize(height, width, spec)
        return
    rows, columns = (side / spec.factor for side in smart_resize(height, width, spec))
    assert rows.is_integer() and columns.is_integer() and rows >= 1 and columns >= 1
    assert rows * columns <= spec.max_visual_tokens
    if spec.max_visual_tokens > 8 * spec.min_visual_tokens + 200:
        assert rows * columns >= spec.min_visual_tokens
    assert token_count(height, width, spec) == rows * columns
    turned = smart_resize(width, height, spec)
    assert sorted(turned) == sorted(smart_resize(height, width, spec))


@settings(max_examples=300, deadline=None)
@given(height=st.integers(1, 5000), width=st.integers(1, 5000), spec=SPECS)
def test_resize_equals_transformers_inside_the_budget(
    height: int, width: int, spec: ImageSpec
) -> None:
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as module

    if max(height, width) > 200 * min(height, width):
        return
    area = spec.factor**2
    theirs = module.smart_resize(
        height,
        width,
        factor=spec.factor,
        min_pixels=spec.min_visual_tokens * area,
        max_pixels=spec.max_visual_tokens * area,
    )
    if theirs[0] * theirs[1] <= spec.max_visual_tokens * area:
        assert smart_resize(height, width, spec) == theirs
    elif spec.max_visual_tokens >= 200:
        assert spec.max_visual_tokens < 2 * spec.min_visual_tokens + 400


def test_resize_by_hand() -> None:
    assert smart_resize(64, 160, SPEC) == (64, 160)
    assert smart_resize(75, 100, SPEC) == (64, 96)
    assert smart_resize(48, 16, SPEC) == (128, 64)  # round half to even: 2 x 0, then scaled up
    assert smart_resize(4000, 4000, SPEC) == (1344, 1344)
    assert smart_resize(1, 200, SPEC) == (32, 928)
    assert token_count(4000, 4000, SPEC) == 42 * 42


def test_spec_errors_come_together() -> None:
    with pytest.raises(ValueError) as caught:
        ImageSpec(patch_size=0, merge_size=2, min_visual_tokens=9, max_visual_tokens=4)
    assert "patch_size is 0" in str(caught.value)
    assert "min_visual_tokens is 9; give at most max_visual_tokens" in str(caught.value)


# ---------------------------------------------------------------- patches


def test_patch_order_by_definition() -> None:
    """Row of a patch from its place, by loops: token by token, inside a token row by row."""
    spec = ImageSpec(patch_size=4, merge_size=2, min_visual_tokens=1, max_visual_tokens=100)
    values = noise(16, 24)
    patches = to_patches(Image.fromarray(values), spec)
    assert patches.grid == (4, 6) and patches.pixels.shape == (24, 48)
    assert patches.pixels.dtype == np.uint8
    at = 0
    for token_row in range(2):
        for token_column in range(3):
            for inner_row in range(2):
                for inner_column in range(2):
                    y = 4 * (2 * token_row + inner_row)
                    x = 4 * (2 * token_column + inner_column)
                    block = values[y : y + 4, x : x + 4].transpose(2, 0, 1)
                    assert np.array_equal(patches.pixels[at], block.ravel())
                    at += 1


def test_digest_tells_pictures_and_shapes_apart() -> None:
    spec = ImageSpec(patch_size=4, merge_size=2, min_visual_tokens=1, max_visual_tokens=100)
    grey = [to_patches(Image.new("RGB", size, (9, 9, 9)), spec) for size in ((16, 32), (32, 16))]
    assert np.array_equal(grey[0].pixels, grey[1].pixels)
    assert grey[0].digest != grey[1].digest
    same = to_patches(Image.new("RGB", (16, 32), (9, 9, 9)), spec)
    other = to_patches(Image.new("RGB", (16, 32), (9, 9, 8)), spec)
    assert same.digest == grey[0].digest != other.digest


def test_patches_do_not_change_and_need_rgb() -> None:
    patches = to_patches(Image.fromarray(noise(32, 32)), SPEC)
    with pytest.raises(ValueError, match="read-only"):
        patches.pixels[0] = 1
    with pytest.raises(ValueError, match="decode it first"):
        to_patches(Image.new("L", (32, 32)), SPEC)

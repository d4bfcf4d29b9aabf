"""Images: the safe decoder, Qwen's resize rule and patch order, sizes from headers.

Resize and patches are compared bit by bit with transformers' Pillow processor.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile

from unirank_jax import images
from unirank_jax.content import ContentError
from unirank_jax.images import ImageSpec, decode, image_size, smart_resize, to_patches, token_count

SPEC = ImageSpec(patch_size=16, merge_size=2, min_visual_tokens=4, max_visual_tokens=1800)
TINY = ImageSpec(patch_size=8, merge_size=2, min_visual_tokens=4, max_visual_tokens=64)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    generator = np.random.default_rng(height * 1000 + width)
    return generator.integers(0, 256, (height, width, channels)).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(source) -> np.ndarray:
    image = decode(source, "place")
    assert image.mode == "RGB"
    return np.asarray(image)


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


# ---------------------------------------------------------------- formats and modes


LOSSLESS = [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]


@pytest.mark.parametrize(("kind", "options"), LOSSLESS, ids=lambda value: str(value))
def test_lossless_formats(kind: str, options: dict, tmp_path) -> None:
    values = noise(21, 34)
    data = encoded(Image.fromarray(values), kind, **options)
    path = tmp_path / "image"
    path.write_bytes(data)
    for source in (data, str(path), Image.fromarray(values)):
        assert np.array_equal(pixels(source), values)
        assert image_size(source, "place") == (21, 34)


def test_gif_and_jpeg() -> None:
    image = Image.new("RGB", (30, 20), (200, 30, 60))
    for kind in ("GIF", "JPEG"):
        found = pixels(encoded(image, kind))
        assert found.shape == (20, 30, 3)
        assert np.abs(found.astype(int) - (200, 30, 60)).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_alpha_is_laid_on_white(mode: str) -> None:
    """Transparent, half and opaque black: hidden colour stays hidden."""
    values = np.zeros((1, 3, 4), np.uint8)
    values[0, :, 3] = (0, 128, 255)
    base = Image.fromarray(values)
    if mode == "PA":
        image = base.convert("RGB").quantize(2)
        image.putalpha(base.getchannel("A"))
    elif mode in ("La", "RGBa"):
        image = base.convert(mode.upper()).convert(mode)
    else:
        image = base.convert(mode)
    assert image.mode == mode
    assert pixels(image)[0, :, 0].tolist() == [255, 127, 0]


def test_hidden_colour_under_full_transparency() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    for source in (image, encoded(image, "PNG"), encoded(image, "WEBP", lossless=True)):
        assert np.array_equal(pixels(source), np.full((4, 4, 3), 255))


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_a_transparent_colour_becomes_white(mode: str) -> None:
    """The PNG chunk tRNS names one colour (or palette entries) as transparent."""
    image = Image.new("RGB", (2, 1), (0, 0, 0))
    image.putpixel((1, 0), (255, 255, 255) if mode == "1" else (90, 90, 90))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    transparent = {"RGB": (0, 0, 0), "P": image.getpixel((0, 0))}.get(mode, 0)
    data = encoded(image, "PNG", transparency=transparent)
    assert "transparency" in Image.open(io.BytesIO(data)).info
    found = pixels(data)[0, :, 0].tolist()
    assert found == [255, 255 if mode == "1" else 90]


def test_sixteen_bit_grey_is_scaled() -> None:
    levels = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    expected = [0, 0, 1, 1, 128, 254, 255, 255]
    assert expected == np.floor(levels[0] / 257 + 0.5).astype(int).tolist()
    image = Image.fromarray(levels)
    assert image.mode == "I;16"
    big_endian = Image.frombytes("I;16B", (8, 1), levels.astype(">u2").tobytes())
    integers = Image.fromarray(levels.astype(np.int32))
    for source in (image, encoded(image, "PNG"), encoded(image, "TIFF"), big_endian, integers):
        assert pixels(source)[0, :, 1].tolist() == expected


def png(depth: int, colour: int, width: int, height: int, rows: bytes, *more: tuple) -> bytes:
    """A PNG from its chunks, for what Pillow reads and does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    body = b"".join(chunk(name, data) for name, data in more)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + body
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bit_grey_with_a_transparent_level() -> None:
    rows = b"\0" + struct.pack(">2H", 1000, 32768)
    data = png(16, 0, 2, 1, rows, (b"tRNS", struct.pack(">H", 1000)))
    assert pixels(data)[0, :, 0].tolist() == [255, 128]


def test_sixteen_bit_colour() -> None:
    rows = b"\0" + struct.pack(">3H", 0, 32896, 65535)
    assert pixels(png(16, 2, 1, 1, rows))[0, 0].tolist() == [0, 128, 255]


def test_cmyk_and_inverted_cmyk_jpeg() -> None:
    """Adobe JPEGs store inverted CMYK; a red stays red through both."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = encoded(red, "JPEG", quality=100)
    assert b"Adobe" in data[:64] and Image.open(io.BytesIO(data)).mode == "CMYK"
    for source in (red, data, encoded(red, "TIFF")):
        found = pixels(source)[8, 8]
        assert found[0] > 245 and found[1] < 10 and found[2] < 10


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV"])
def test_other_modes_go_through_pillow(mode: str) -> None:
    image = Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode)
    assert pixels(image).min() >= 254


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert pixels(data)[0, 0].tolist() == [250, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(kind: str, orientation: int) -> None:
    """Pixels and header size after rotation; the numpy form is the EXIF table written out."""
    values = np.zeros((20, 30, 3), np.uint8)
    values[:10, :15] = (240, 20, 20)  # top left red
    values[:10, 15:] = (20, 240, 20)  # top right green
    values[10:, :15] = (20, 20, 240)  # bottom left blue
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }[orientation](values)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    options |= {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(values), kind, exif=exif, **options)
    assert image_size(data, "place") == upright.shape[:2]
    lazy = Image.open(io.BytesIO(data))
    assert image_size(lazy, "place") == upright.shape[:2]
    for source in (data, lazy):
        found = pixels(source)
        assert found.shape == upright.shape
        assert np.abs(found[4::8, 4::8].astype(int) - upright[4::8, 4::8]).max() < 30
    assert image_size(lazy, "place") == upright.shape[:2]  # now that its pixels are loaded


def test_exif_behind_the_pixels_of_a_png() -> None:
    """The standard allows metadata after the pixels; the header size agrees with decoding."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    plain = encoded(Image.fromarray(noise(20, 30)), "PNG")
    rotated = encoded(Image.fromarray(noise(20, 30)), "PNG", exif=exif)
    start = rotated.index(b"eXIf") - 4
    chunk = rotated[start : start + 12 + struct.unpack(">I", rotated[start : start + 4])[0]]
    late = plain[:-12] + chunk + plain[-12:]
    assert late.index(b"eXIf") > late.index(b"IDAT")
    assert image_size(late, "place") == (30, 20) == pixels(late).shape[:2]


def test_a_given_image_is_not_changed() -> None:
    image = Image.new("RGBA", (4, 3), (1, 2, 3, 4))
    image.getexif()[ExifTags.Base.Orientation] = 6
    before = (image.mode, image.size, image.tobytes())
    decode(image, "place")
    image_size(image, "place")
    assert (image.mode, image.size, image.tobytes()) == before


# ---------------------------------------------------------------- refusals


def test_the_pixel_limit_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args, **kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    data = png(8, 0, 10000, 5001, b"")
    for call in (decode, image_size):
        with pytest.raises(ContentError, match=r"^c: .*10000 x 5001 .*; scale it down"):
            call(data, "c")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10000, 20000, 2**31 - 1])
def test_decompression_bombs(side: int) -> None:
    with pytest.raises(ContentError, match=r"^c: the image .*pixels.*; scale it down"):
        decode(png(1, 0, side, side, b""), "c")


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_bomb_warning_made_an_error_is_a_content_error() -> None:
    with pytest.raises(ContentError, match="scale it down"):
        decode(png(1, 0, 10000, 10000, b""), "c")


def test_the_limits_themselves_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(noise(20, 30)), "PNG")
    monkeypatch.setattr(images, "MAX_PIXELS", 600)
    monkeypatch.setattr(images, "MAX_BYTES", len(data))
    assert pixels(data).shape == (20, 30, 3)
    monkeypatch.setattr(images, "MAX_BYTES", len(data) - 1)
    with pytest.raises(ContentError, match="encoded bytes"):
        decode(data, "c")
    monkeypatch.setattr(images, "MAX_BYTES", len(data))
    monkeypatch.setattr(images, "MAX_PIXELS", 599)
    with pytest.raises(ContentError, match="30 x 20"):
        decode(data, "c")
    with pytest.raises(ContentError, match="30 x 20"):
        decode(Image.fromarray(noise(20, 30)), "c")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files(kind: str) -> None:
    """Half a file is an error in every format, and nothing here switches that off."""
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    with pytest.raises(ContentError, match=r"^c: the (image|bytes) .*; give a complete"):
        decode(data[: len(data) // 2], "c")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_never_raise_anything_else() -> None:
    """Any byte changed: an image or a ContentError, in every format."""
    generator = np.random.default_rng(0)
    outcomes = set()
    for kind in images.FORMATS:
        data = encoded(Image.fromarray(noise(12, 12)), kind)
        for _ in range(60):
            damaged = bytearray(data)
            for _ in range(3):
                damaged[generator.integers(len(damaged))] = generator.integers(256)
            for call in (decode, image_size):
                try:
                    call(bytes(damaged), "c")
                    outcomes.add((kind, "image"))
                except ContentError:
                    outcomes.add((kind, "error"))
    assert len(outcomes) >= 2 * len(images.FORMATS) - 2


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("PPM", b"P6 1 1 255\n\0\0\0"),
        ("EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n"),
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("PDF", b"%PDF-1.7\n"),
        ("text", b"hello"),
        ("ICO", None),
    ],
)
def test_formats_off_the_list(kind: str, data: bytes | None) -> None:
    if data is None:
        data = encoded(Image.new("RGB", (16, 16)), kind)
    with pytest.raises(ContentError, match=r"^c: the bytes are no image of a known format; give a"):
        decode(data, "c")

"""Images of every format and mode: what the decoder and the reader of sizes make of them."""

import io
import struct

import numpy as np
import pytest
from image_files import encoded, noise, pixels, png
from PIL import ExifTags, Image

from unirank_jax.images import decode, image_size

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

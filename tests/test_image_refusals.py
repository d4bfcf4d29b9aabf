"""What the decoder of images refuses: sizes, damage, formats off the list; never another error."""

import numpy as np
import pytest
from image_files import encoded, noise, pixels, png
from PIL import Image, ImageFile

from unirank_jax import images
from unirank_jax.content import ContentError
from unirank_jax.images import decode, image_size


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

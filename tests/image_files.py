"""Images of noise, their files, and what the decoder makes of them; PNGs written by hand."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from unirank_jax.images import decode


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

"""Small pictures: arrays and SVG become PNGs of few colours, and a cache keeps what was drawn.

Drawing takes minutes, so every package has a cache file under the folder of the downloads. It
is replaced as a whole, under a temporary name first: a build that was stopped goes on from it.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from PIL import Image
from tqdm import tqdm

from unirank_jax.datasets.dataset import SourceError

PIXELS = 96  # side of what is drawn from SVG
COLOURS = 16
SAVE_SECONDS = 30
CHUNK = 16
# Units of old drawings per inch, as far as they give a size only.
_UNITS = {"": 1.0, "px": 1.0, "pt": 1.25, "pc": 15.0, "mm": 3.543307, "cm": 35.43307, "in": 90.0}


def cached_pictures(
    path: Path,
    wanted: Mapping[str, Any],
    draw: Callable[[Any], Any],
    processes: int = 1,
) -> dict[str, Any]:
    """The result of `draw` for every wanted key, from the cache file `path` or made now.

    `draw` takes the value of the key and returns bytes, or whatever msgpack holds, or None where
    the source cannot be drawn; it must be a function of a module, since processes share the work.
    What is done is kept when the build is stopped. Raises SourceError where the file is damaged.
    """
    done = _load(path)
    missing = [key for key in wanted if key not in done]
    if missing:
        saved = time.monotonic()
        values = [wanted[key] for key in missing]
        with ProcessPoolExecutor(processes) if processes > 1 else _Here() as pool:
            results = pool.map(draw, values, chunksize=CHUNK)
            progress = tqdm(missing, desc=path.stem, unit=" drawings", mininterval=1.0)
            try:
                for key, result in zip(progress, results, strict=True):
                    done[key] = result
                    if time.monotonic() - saved > SAVE_SECONDS:
                        _save(path, done)
                        saved = time.monotonic()
            finally:
                _save(path, done)
    return {key: done[key] for key in wanted}


def grey_png(pixels: np.ndarray[Any, Any], levels: int = 16) -> bytes:
    """A PNG of (height, width) uint8 greys, rounded to `levels` (4 or 16) steps."""
    steps = np.round(pixels.astype(np.float32) * ((levels - 1) / 255)).astype(np.uint8)
    image = Image.fromarray(steps, mode="P")
    greys = [round(level * 255 / (levels - 1)) for level in range(levels)]
    image.putpalette([value for grey in greys for value in (grey, grey, grey)])
    return _png(image, bits=2 if levels == 4 else 4)


def colour_png(image: Image.Image) -> bytes:
    """A PNG of at most 16 colours; a picture without colour gets 16 greys instead."""
    rgb = np.asarray(image.convert("RGB"))
    if not np.ptp(rgb.astype(np.int16), axis=-1).any():
        return grey_png(rgb[..., 0])
    indexed = image.convert("RGB").quantize(
        COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    return _png(indexed, bits=4)


def draw_svg(text: str) -> bytes | None:
    """An SVG as PNG on white, PIXELS square, centred; None where it is broken, empty or blank.

    No font of the system is used, so that the result is the same everywhere: text in an SVG
    is left out. Raises SourceError where the package resvg_py is missing.
    """
    try:
        import resvg_py
    except ImportError:
        raise SourceError(
            "package `resvg_py` is missing; pip install unirank-jax[data], or resvg_py"
        ) from None
    try:
        data = resvg_py.svg_to_bytes(
            svg_string=with_view_box(text.replace("currentColor", "black")),
            width=PIXELS,
            height=PIXELS,
            skip_system_fonts=True,
        )
    except Exception:  # resvg raises plain ValueError and, for some files, its panic
        return None
    with Image.open(io.BytesIO(bytes(data))) as drawn:
        image = drawn.convert("RGBA")
    image.thumbnail((PIXELS, PIXELS))
    square = Image.new("RGBA", (PIXELS, PIXELS), "white")
    square.alpha_composite(image, ((PIXELS - image.width) // 2, (PIXELS - image.height) // 2))
    low, high = square.convert("L").getextrema()
    if not isinstance(low, int) or not isinstance(high, int) or high - low < 32:
        return None
    return colour_png(square)


def with_view_box(text: str) -> str:
    """The SVG with a viewBox instead of width and height, which is how it can be scaled."""
    start = re.search(r"<svg\b[^>]*>", text, re.DOTALL)
    if start is None:
        return text
    tag = start[0]
    sizes = [_length(tag, name) for name in ("width", "height")]
    bare = re.sub(r"\s(width|height)\s*=\s*(\"[^\"]*\"|'[^']*')", "", tag)
    if not re.search(r"\sviewBox\s*=", bare):
        if None in sizes:
            return text
        bare = bare.replace("<svg", f'<svg viewBox="0 0 {sizes[0]:g} {sizes[1]:g}"', 1)
    return text[: start.start()] + bare + text[start.end() :]


def _length(tag: str, name: str) -> float | None:
    found = re.search(rf"\s{name}\s*=\s*[\"']\s*([\d.]+)\s*([a-z]*)\s*[\"']", tag)
    if found is None or found[2] not in _UNITS:
        return None
    return float(found[1]) * _UNITS[found[2]]


def _png(image: Image.Image, bits: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", bits=bits, optimize=True)
    return buffer.getvalue()


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(msgpack.unpackb(path.read_bytes(), raw=False))
    except Exception as error:
        raise SourceError(f"{path}: damaged ({error}); remove it and build again") from None


def _save(path: Path, done: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}")
    temporary.write_bytes(msgpack.packb(dict(sorted(done.items())), use_bin_type=True))
    temporary.replace(path)


class _Here:
    """The part of an executor that is used, without another process."""

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def map(self, draw: Callable[[Any], Any], values: list[Any], chunksize: int = 1) -> Any:
        return map(draw, values)

"""Images on the host: a safe decoder, Qwen's resize rule, and patches in Qwen's order.

Bytes come from strangers: the header is checked against a list of formats and a pixel limit
before anything is decoded, and whatever a decoder says about bad bytes becomes a `ContentError`.
"""

import hashlib
import io
import math
import os
import stat
import struct
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from unirank_jax.content import ContentError, ImageSource, content_error

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 50_000_000
MAX_BYTES = 20 * 2**20
MAX_ASPECT_RATIO = 200

_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_TRANSPOSED = (5, 6, 7, 8)  # the EXIF orientations that swap height and width
_PNG_ORIENTATION_MARKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_REMEDY_FILE = "give a complete " + ", ".join(FORMATS[:-1]) + f" or {FORMATS[-1]} file"


@dataclass(frozen=True)
class ImageSpec:
    """How images become patches: sides in pixels, budget in visual tokens of one image.

    One visual token is a square of `merge_size` x `merge_size` patches.
    """

    patch_size: int
    merge_size: int
    min_visual_tokens: int
    max_visual_tokens: int

    def __post_init__(self) -> None:
        errors = [
            f"{name} is {getattr(self, name)}; give at least 1"
            for name in ("patch_size", "merge_size", "min_visual_tokens", "max_visual_tokens")
            if getattr(self, name) < 1
        ]
        if self.min_visual_tokens > self.max_visual_tokens:
            errors.append(
                f"min_visual_tokens is {self.min_visual_tokens}; "
                f"give at most max_visual_tokens, which is {self.max_visual_tokens}"
            )
        if errors:
            raise ValueError("ImageSpec: " + "\n".join(errors))

    @property
    def factor(self) -> int:
        """Side of one visual token in pixels."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True, eq=False)
class Patches:
    """One still image, cut up.

    `pixels` is uint8 (P, 3 * patch_size ** 2): a row is (channel, y, x) of one patch, 0 to 255,
    not normalised. The merge_size ** 2 patches of one visual token follow each other, row by row
    inside the token; tokens run row by row over the image. `grid` is (rows, columns) in patches.
    `digest` is the SHA-256 of shape and pixels.
    """

    pixels: np.ndarray
    grid: tuple[int, int]
    digest: bytes


# ---------------------------------------------------------------- decoding


def decode(source: ImageSource, where: str) -> Image.Image:
    """Decodes a source to an RGB image, upright, with alpha laid on white.

    `source` is encoded bytes, the path of a file, or a PIL image (which is not changed). Bytes
    and files: formats of `FORMATS`, at most `MAX_BYTES` bytes and `MAX_PIXELS` pixels by the
    header, checked before decoding; of an animation the first frame. EXIF rotation is applied,
    16-bit grey is scaled to 8 bits by 1/257, CMYK and the like go through Pillow; colour profiles
    are ignored.

    Raises `ContentError` at `where` for everything else, a truncated file included.
    """
    image, _ = _open(source, where)
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception as error:
        raise _broken(where, error) from error
    return _to_rgb(upright, where)


def image_size(source: ImageSource, where: str) -> tuple[int, int]:
    """(height, width) in pixels that `decode` will give, from the header alone.

    Raises `ContentError` as `decode` does, for what a header shows.
    """
    image, data = _open(source, where)
    width, height = image.size
    try:
        swap = _orientation(image, data) in _TRANSPOSED
    except Exception as error:
        raise _broken(where, error) from error
    return (width, height) if swap else (height, width)


def _open(source: ImageSource, where: str) -> tuple[Image.Image, bytes | None]:
    """The image, its header read and checked, pixels not yet decoded; and its encoded bytes."""
    data = None
    if isinstance(source, Image.Image):
        image = source
    else:
        data = source if isinstance(source, bytes) else _read(source, where)
        image = _read_header(data, where)
    width, height = image.size
    if width < 1 or height < 1:
        raise content_error(where, f"the image is {width} x {height} pixels", "give a real image")
    if width * height > MAX_PIXELS:
        raise content_error(
            where,
            f"the image has {width} x {height} pixels, the limit is {MAX_PIXELS}",
            "scale it down before passing it",
        )
    return image, data


def _read(path: str, where: str) -> bytes:
    try:
        # O_NONBLOCK: opening a pipe must not hang before its type is known.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise content_error(where, f"{path!r} is not a file", "give the path of a file")
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, ContentError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise content_error(
            where, f"cannot read {path!r} ({reason})", "give the path of a readable image file"
        ) from error
    return data


def _read_header(data: bytes, where: str) -> Image.Image:
    if not data:
        raise content_error(where, "the image has no bytes", _REMEDY_FILE)
    if len(data) > MAX_BYTES:
        raise content_error(
            where,
            f"the image has more than {MAX_BYTES // 2**20} MiB of encoded bytes",
            "scale it down or compress it before passing it",
        )
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise content_error(
            where,
            f"the image has more pixels than the limit of {MAX_PIXELS}",
            "scale it down before passing it",
        ) from error
    except UnidentifiedImageError as error:
        raise content_error(
            where, "the bytes are no image of a known format", _REMEDY_FILE
        ) from error
    except Exception as error:  # decoders of untrusted bytes raise about every type there is
        raise _broken(where, error) from error


def _broken(where: str, error: Exception) -> ContentError:
    reason = str(error).strip().rstrip(".") or type(error).__name__
    return content_error(where, f"the image cannot be decoded ({reason})", _REMEDY_FILE)


def _orientation(image: Image.Image, data: bytes | None) -> int:
    """The EXIF orientation that `decode` will apply, found without decoding where possible."""
    if image.format == "TIFF":
        return 1  # Pillow reports the size of a TIFF file as it is after rotation
    if image.format == "PNG" and data is not None and "exif" not in image.info:
        # Pillow decodes a PNG to look for metadata behind the pixels; few files have any.
        if not any(mark in data for mark in _PNG_ORIENTATION_MARKS):
            return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        transparent = image.info.get("transparency")
        values = np.asarray(image).astype(np.uint32)
        return _grey(values, values == transparent if isinstance(transparent, int) else None)
    if image.mode == "I":
        values = np.asarray(image)
        lowest, highest = int(values.min()), int(values.max())
        if lowest < 0 or highest > 65535 or 0 < highest < 256:
            raise content_error(
                where,
                f"32-bit pixels from {lowest} to {highest} have no known scale",
                "convert the image to 8 bits per channel",
            )
        return _grey(values.astype(np.uint32), None)
    if image.mode == "F":
        raise content_error(
            where,
            "floating-point pixels have no known scale",
            "convert the image to 8 bits per channel",
        )
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    try:
        if image.has_transparency_data:
            if image.mode == "La":
                image = image.convert("LA")
            colour = image.convert("RGBA")
            white = Image.new("RGBA", colour.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, colour).convert("RGB")
        return image.convert("RGB")
    except (ValueError, OSError) as error:
        raise content_error(
            where,
            f"pixels of mode {image.mode!r} cannot be converted to RGB ({error})",
            "convert the image to RGB",
        ) from error


def _grey(values: np.ndarray, transparent: np.ndarray | None) -> Image.Image:
    """RGB of 16-bit grey values; 65535 / 257 is 255, so the scale is exact at both ends."""
    scaled = ((values + 128) // 257).astype(np.uint8)
    if transparent is not None:
        scaled[transparent] = 255
    return Image.fromarray(scaled).convert("RGB")


# ---------------------------------------------------------------- resize and patches


def smart_resize(height: int, width: int, spec: ImageSpec) -> tuple[int, int]:
    """Qwen's rule: the (height, width) an image is resized to, both multiples of `spec.factor`.

    Each side goes to the nearest multiple; an image over (under) the budget of visual tokens is
    scaled down (up) with its aspect ratio, sides rounded down (up). As in transformers'
    `smart_resize`, with one addition: where that rule leaves the budget (a thin image, or the
    smallest and largest budget close together), the longer side is cut to the budget, because
    static shapes rely on it. From a largest budget of 200 visual tokens on this cannot happen
    through the aspect ratio.

    Raises `ValueError` when one side is more than `MAX_ASPECT_RATIO` times the other.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(
            f"one side of {width} x {height} pixels is more than {MAX_ASPECT_RATIO} times the other"
        )
    factor = spec.factor
    least, most = spec.min_visual_tokens * factor**2, spec.max_visual_tokens * factor**2
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns > spec.max_visual_tokens:
        scale = math.sqrt(height * width / most)
        rows = max(1, math.floor(height / scale / factor))
        columns = max(1, math.floor(width / scale / factor))
    elif rows * columns < spec.min_visual_tokens:
        scale = math.sqrt(least / (height * width))
        rows = math.ceil(height * scale / factor)
        columns = math.ceil(width * scale / factor)
    while rows * columns > spec.max_visual_tokens:
        if rows > columns:
            rows -= 1
        else:
            columns -= 1
    return rows * factor, columns * factor


def token_count(height: int, width: int, spec: ImageSpec) -> int:
    """Visual tokens of an image of this size in pixels. Raises as `smart_resize`."""
    new_height, new_width = smart_resize(height, width, spec)
    return (new_height // spec.factor) * (new_width // spec.factor)


def to_patches(image: Image.Image, spec: ImageSpec) -> Patches:
    """Resizes an RGB image (bicubic, Pillow) and cuts it into patches.

    The frame is kept once; the published models see a still image as two equal frames, which the
    patch embedding accounts for. Raises `ValueError` as `smart_resize`, and when not RGB.
    """
    if image.mode != "RGB":
        raise ValueError(f"the image has mode {image.mode!r}; decode it first, or convert to RGB")
    height, width = smart_resize(image.height, image.width, spec)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    resized = np.asarray(image)
    patch, merge, factor = spec.patch_size, spec.merge_size, spec.factor
    blocks = resized.reshape(
        height // factor, merge, patch, width // factor, merge, patch, 3
    ).transpose(0, 3, 1, 4, 6, 2, 5)
    pixels = np.ascontiguousarray(blocks).reshape(-1, 3 * patch * patch)
    pixels.flags.writeable = False
    grid = (height // patch, width // patch)
    hashed = hashlib.sha256(struct.pack("<4q", *grid, *pixels.shape))
    hashed.update(pixels.data)
    return Patches(pixels, grid, hashed.digest())

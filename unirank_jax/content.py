"""What a query or a candidate may be, and its check: content in, a tuple of parts out.

A `str` is always text, never a path or an address; an image comes only in an explicit type.
Every error is a `ContentError` whose message starts with the place and ends with the remedy.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, get_args

from PIL import Image

Modality = Literal["text", "image", "mixed"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
ImageSource = bytes | str | Image.Image

_KEYS = ("text", "image")
_REMEDY = (
    "pass a str, a PIL image, encoded image bytes, {'image': path, bytes or PIL image}, "
    "{'text': ..., 'image': ...} or a list of such parts"
)


class ContentError(ValueError):
    """Content that cannot be scored: `"candidates[1].image: <what is wrong>; <remedy>"`."""


def content_error(where: str, problem: str, remedy: str) -> ContentError:
    """The error at `where`, for example `candidates[1].image`, in the common form."""
    return ContentError(f"{where}: {problem}; {remedy}")


@dataclass(frozen=True)
class TextPart:
    """A piece of text."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """An image: encoded bytes, the path of a file, or a PIL image.

    `place` is where the image stands inside its content; errors append it to the content's place.
    """

    source: ImageSource
    place: str = field(default=".image", compare=False)


Part = TextPart | ImagePart


def parse(content: Any, where: str) -> tuple[Part, ...]:
    """Checks one query or candidate and returns its parts, in the given order.

    Accepts `str` (text), a PIL image, encoded image bytes, `{"text": str}`,
    `{"image": path | bytes | PIL image}`, `{"text": ..., "image": ...}` (in the order of the
    dict), or a list of `str`, PIL image, bytes, `{"text"}` and `{"image"}`. Lists do not nest.
    No file is opened and no image is decoded here.

    Raises `ContentError`, with `where` as the place, on any other type, on an address, on text
    that is not valid Unicode and on empty content (no part, or nothing but white space).
    """
    if isinstance(content, dict):
        parts = _from_dict(content, where)
    elif isinstance(content, list | tuple):
        parts = _from_list(content, where)
    else:
        parts = [_part(content, where, "")]
    if not any(isinstance(part, ImagePart) or part.text.strip() for part in parts):
        raise content_error(
            where, "the text is empty or only white space", "give some text or an image"
        )
    return tuple(parts)


def modality(parts: Sequence[Part]) -> Modality:
    """`"text"`, `"image"` or `"mixed"`: which kinds of parts there are."""
    kinds = {isinstance(part, ImagePart) for part in parts}
    if not kinds:
        raise ValueError("content without parts has no modality; parse the content first")
    if len(kinds) == 2:
        return "mixed"
    return "image" if True in kinds else "text"


def _from_list(content: Sequence[Any], where: str) -> list[Part]:
    if not content:
        raise content_error(where, "the list of parts is empty", "give at least one part")
    parts: list[Part] = []
    for index, item in enumerate(content):
        place = f"[{index}]"
        if isinstance(item, list | tuple):
            raise content_error(
                where + place, "a list inside a list", "flatten the parts into one list"
            )
        if not isinstance(item, dict):
            parts.append(_part(item, where, place))
            continue
        if len(item) > 1 and set(item) <= set(_KEYS):
            raise content_error(
                where + place,
                "a part of a list holds both 'text' and 'image'",
                "split it into {'text': ...} and {'image': ...}, in the order they should be read",
            )
        parts.extend(_from_dict(item, where, place))
    return parts


def _from_dict(content: dict[Any, Any], where: str, place: str = "") -> list[Part]:
    for key in content:
        if key not in _KEYS:
            near = get_close_matches(str(key), _KEYS, n=1)
            raise content_error(
                where + place,
                f"unknown key {key!r}",
                f"write {near[0]!r}" if near else "the keys are 'text' and 'image'",
            )
    if not content:
        raise content_error(where + place, "an empty dict", "give 'text', 'image' or both")
    parts: list[Part] = []
    for key, value in content.items():
        inner = f"{place}.{key}"
        if value is None:
            raise content_error(where + inner, "the value is None", f"leave {key!r} out")
        if key == "image":
            parts.append(_image(value, where, inner))
        elif isinstance(value, str):
            parts.append(_text(value, where, inner))
        else:
            raise content_error(
                where + inner, f"the text is a {type(value).__name__}", "give a str"
            )
    return parts


def _part(value: Any, where: str, place: str) -> Part:
    if isinstance(value, str):
        return _text(value, where, place)
    if isinstance(value, os.PathLike):
        raise content_error(
            where + place, "a bare path", "write {'image': path} if the file is an image"
        )
    return _image(value, where, place)


def _text(text: str, where: str, place: str) -> TextPart:
    if not text:
        raise content_error(where + place, "the text is empty", "give some text or leave it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise content_error(
            where + place,
            f"the text is not valid Unicode (a lone surrogate at character {error.start})",
            "decode the original bytes as UTF-8 with errors='replace'",
        ) from None
    return TextPart(text)


def _image(value: Any, where: str, place: str) -> ImagePart:
    if isinstance(value, Image.Image):
        return ImagePart(value, place)
    if isinstance(value, bytes | bytearray | memoryview):
        if not len(value):
            raise content_error(
                where + place, "the image has no bytes", "give the bytes of an encoded image file"
            )
        return ImagePart(bytes(value), place)
    if isinstance(value, str | os.PathLike) and place.endswith(".image"):
        path = os.fspath(value)
        if isinstance(path, bytes):
            raise content_error(where + place, "the path is of type bytes", "give a str path")
        if not path.strip():
            raise content_error(
                where + place, "the path is empty", "give the path of an image file"
            )
        if path[:5].lower() == "data:":
            raise content_error(
                where + place, "a data: address", "decode the base64 text and pass the bytes"
            )
        if "://" in path:
            raise content_error(
                where + place,
                f"{path[:80]!r} is an address; nothing is fetched",
                "download the file and pass its bytes or its path",
            )
        return ImagePart(path, place)
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        raise content_error(
            where + place, "an array is not an image", "wrap it with PIL.Image.fromarray"
        )
    raise content_error(where + place, f"cannot read a {type(value).__name__}", _REMEDY)

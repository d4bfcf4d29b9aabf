"""The fields of one record as ids, grades and content; every violation becomes a problem.

A text is always text, never a path or an address. An image is a path below the dataset's folder,
encoded bytes, or Hugging Face's {"bytes", "path"}. Text and image stand in the order of their
fields.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unirank_jax.content import ContentError, ImagePart, Part, TextPart, modality, parse
from unirank_jax.datasets.formats.problems import Problems, kind_of, shown
from unirank_jax.datasets.jsonl_line import DEFAULT_DOMAIN, DEFAULT_LICENCE, DEFAULT_SOURCE
from unirank_jax.datasets.records import Item, Query, dup_id_of

_IMAGE_ADDRESS = re.compile(
    r"\s*(https?://\S+\.(png|jpe?g|webp|gif|bmp|tiff?)|data:image/\S+)\s*$", re.I
)


class Fields:
    """One record with its place; the methods return None (or ()) after they told a problem."""

    def __init__(self, record: dict[str, Any], where: str, root: Path, problems: Problems):
        self.record, self.where, self.root, self.problems = record, where, root, problems

    def problem(self, field: str, problem: str, remedy: str) -> None:
        """Tells a problem of a field of this record."""
        self.problems.add(self.where, field, problem, remedy)

    def first(self, names: Sequence[str]) -> str | None:
        """The first of the names that has a value."""
        return next((name for name in names if self.record.get(name) is not None), None)

    def identifier(self, names: Sequence[str], required: bool = True) -> str | None:
        """The id in the first of the fields that is there."""
        name = self.first(names)
        if name is not None:
            return self.as_identifier(self.record[name], name)
        if required:
            self.problem(names[0], "missing", "give every record an id")
        return None

    def as_identifier(self, value: Any, field: str) -> str | None:
        """An id: a text or an integer (which becomes its digits)."""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            self.problem(field, f"{kind_of(value)}, not a text", "give a text or an integer")
        elif not value.strip():
            self.problem(field, "empty", "give every record an id")
        elif any(character < " " or "\ud800" <= character <= "\udfff" for character in value):
            self.problem(field, f"{shown(value)} has control characters", "use printable ids")
        else:
            return value
        return None

    def grade(self, value: Any, field: str) -> int | None:
        """A grade: an integer from -1 (unjudged) to 999; true, false and 1.0 count as integers."""
        number = int(value) if isinstance(value, bool) else value
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if not isinstance(number, int):
            remedy = "give 0, 1, ... (-1 = unjudged); scores between them are no grades"
            self.problem(field, f"{shown(value)} is not an integer", remedy)
        elif not -1 <= number < 1000:
            self.problem(
                field, f"{shown(number)} is out of range", "give an integer from -1 to 999"
            )
        else:
            return number
        return None

    def listed(self, name: str) -> list[Any] | None:
        """The list in a field, which is there."""
        value = self.record[name]
        if isinstance(value, list):
            return value
        self.problem(name, f"{kind_of(value)}, not a list", "put it in [ ]")
        return None

    def plain_text(self, name: str) -> str | None:
        """An optional text field: None where it is absent, null or blank."""
        value = self.record.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        part = self.text(value, name)
        return part.text if part else None

    def text(self, value: Any, field: str) -> TextPart | None:
        """A text with something in it."""
        if not isinstance(value, str):
            self.problem(field, f"{kind_of(value)}, not a text", "give a text")
            return None
        if _IMAGE_ADDRESS.match(value):
            self.problem(
                field,
                f"{shown(value)} is the address of an image; nothing is fetched",
                "download the file and give its path as an image",
            )
            return None
        try:
            (part,) = parse(value, f"{self.where}: {field}")
        except ContentError as error:
            place, _, told = str(error).removeprefix(f"{self.where}: ").partition(": ")
            problem, _, remedy = told.rpartition("; ")
            self.problem(place, problem, remedy)
            return None
        assert isinstance(part, TextPart)
        return part

    def image(self, value: Any, field: str) -> ImagePart | None:
        """An image: a path below the root, bytes, or {"bytes", "path"} (bytes win)."""
        if isinstance(value, dict) and value and set(value) <= {"bytes", "path"}:
            if value.get("bytes") is not None:
                return self.image(value["bytes"], f"{field}.bytes")
            if value.get("path") is None:
                self.problem(field, "neither bytes nor path", "give one of them")
                return None
            return self.image(value["path"], f"{field}.path")
        if isinstance(value, bytes):
            if value:
                return ImagePart(value)
            self.problem(field, "the image has no bytes", "give the bytes of an image file")
            return None
        if not isinstance(value, str):
            self.problem(field, f"{kind_of(value)}, not an image", "give the path of an image file")
            return None
        found = path_below(self.root, value)
        if isinstance(found, Path):
            return ImagePart(str(found))
        self.problem(field, *found)
        return None

    def element(self, value: Any, field: str) -> tuple[Part, ...]:
        """Content in one field: a text, {"text", "image"}, or an image with bytes."""
        if isinstance(value, bytes) or (isinstance(value, dict) and "bytes" in value):
            image = self.image(value, field)
            return (image,) if image else ()
        if not isinstance(value, dict):
            text = self.text(value, field)
            return (text,) if text else ()
        unknown = sorted(map(str, value.keys() - {"text", "image"}))
        if unknown:
            self.problem(f"{field}.{unknown[0]}", "unknown field", "known: text, image")
            return ()
        given = {key: one for key, one in value.items() if one is not None and one != ""}
        if not given:
            self.problem(field, "no content", "give 'text', 'image' or both")
            return ()
        parts = [
            self.text(one, f"{field}.text") if key == "text" else self.image(one, f"{field}.image")
            for key, one in given.items()
        ]
        return tuple(part for part in parts if part) if all(parts) else ()

    def dup_id(self, parts: Sequence[Part]) -> str:
        """A short hash of the content; image files count by their path below the root."""
        root = self.root.resolve()
        contents: list[str | bytes] = []
        for part in parts:
            if isinstance(part, TextPart):
                contents.append(part.text)
            elif isinstance(part.source, bytes):
                contents.append(part.source)
            else:
                contents.append(Path(str(part.source)).relative_to(root).as_posix().encode())
        return dup_id_of(*contents)


def path_below(root: Path, value: str) -> Path | tuple[str, str]:
    """The file that a path names below `root`, or (problem, remedy)."""
    if not value.strip():
        return "the path is empty", "give the path of an image file"
    if value[:5].lower() == "data:":
        return "a data: address", "save the image as a file and give its path"
    if "://" in value:
        return f"{shown(value)} is an address; nothing is fetched", "download it, give its path"
    if Path(value).is_absolute():
        return f"{shown(value)} is absolute", "give a path below the folder of the data"
    try:
        target, base = (root / value).resolve(), root.resolve()
        if not target.is_relative_to(base):
            return f"{shown(value)} leaves the folder of the data", "copy the image into it"
        if target.is_file():
            return target
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, a loop of links
        pass
    return f"no file {shown(value)}", "correct the path or add the image"


def make_query(
    qid: str, parts: tuple[Part, ...], dup_id: str, split_id: str, instruction: str | None = None
) -> Query:
    """A query of other people's data: what the format does not say has its default."""
    return Query(
        qid=qid,
        parts=placed(parts),
        instruction=instruction,
        domain=DEFAULT_DOMAIN,
        kind=modality(parts),
        unit_id=qid,
        split_id=split_id,
        dup_id=dup_id,
    )


def make_item(did: str, parts: tuple[Part, ...], dup_id: str, split_id: str) -> Item:
    """A candidate of other people's data."""
    return Item(
        did=did,
        parts=placed(parts),
        modality=modality(parts),
        unit_id=did,
        family=split_id,
        kind=modality(parts),
        split_id=split_id,
        dup_id=dup_id,
        source=DEFAULT_SOURCE,
        licence=DEFAULT_LICENCE,
    )


def placed(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Parts whose images know their place, for the messages of the decoder."""
    if len(parts) == 1:
        return parts
    return tuple(
        replace(part, place=f"[{number}].image") if isinstance(part, ImagePart) else part
        for number, part in enumerate(parts)
    )

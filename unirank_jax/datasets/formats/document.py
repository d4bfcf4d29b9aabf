"""How one record of a query or document table becomes content: which field is what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unirank_jax.content import ImagePart, Part, TextPart, modality
from unirank_jax.datasets.formats.fields import Fields
from unirank_jax.datasets.formats.problems import shown

_MODALITY_WORDS = {
    "text": {"text"},
    "image": {"image"},
    "mixed": {"text", "image"},
    "multimodal": {"text", "image"},
    "interleaved": {"text", "image"},
}


@dataclass(frozen=True)
class RecordFields:
    """The names of the fields of a table. Several texts (title, text) are joined by a space.

    `images` are the names of image fields; "image 1", "image_2" and so on follow by themselves.
    """

    id_meaning: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    images: tuple[str, ...] = ("image",)
    modality: str = "modality"
    instruction: str | None = None
    also: tuple[tuple[str, str], ...] = ()  # fields that are read elsewhere, and what they mean

    def meaning(self) -> Mapping[str, str]:
        """What each field is read as."""
        table = {name: self.id_meaning for name in self.ids}
        table |= {name: "text" for name in self.texts}
        table |= {name: "image" for name in (*self.images, *(f"image {n}" for n in range(1, 100)))}
        table[self.modality] = "checked against the content"
        if self.instruction:
            table[self.instruction] = "instruction"
        return table | dict(self.also)

    def instruction_of(self, fields: Fields) -> str | None:
        """The instruction of a query, where the table has one."""
        return fields.plain_text(self.instruction) if self.instruction else None

    def parts_of(self, fields: Fields) -> tuple[Part, ...]:
        """The content of a record: text and images in the order of their fields; () if bad."""
        before = len(fields.problems.found)
        parts: list[Part] = []
        text_place: int | None = None
        for name, value in fields.record.items():
            if name in self.texts:
                if value is None or (isinstance(value, str) and not value.strip()):
                    continue
                text = fields.text(value, name)
                if text and text_place is not None:  # title and text are one text
                    first = parts[text_place]
                    assert isinstance(first, TextPart)
                    words = [first.text, text.text]
                    if self.texts.index(name) == 0:
                        words.reverse()
                    parts[text_place] = TextPart(" ".join(words))
                elif text:
                    text_place = len(parts)
                    parts.append(text)
            elif name in self.images or re.fullmatch(r"image[ _]?\d+", name):
                parts += self._images(fields, name, value)
        if len(fields.problems.found) > before:
            return ()
        if not parts:
            there = [name for name in reversed(self.texts) if name in fields.record]
            names = f"{self.texts[-1]!r} or {self.images[0]!r}"
            field = there[0] if there else self.texts[-1]
            fields.problem(field, "no content", f"give {names}, or remove the record")
            return ()
        self._check_modality(fields, parts)
        return () if len(fields.problems.found) > before else tuple(parts)

    def _images(self, fields: Fields, name: str, value: Any) -> list[Part]:
        if value is None or value == "" or value == {"bytes": None, "path": None}:
            return []
        values = value if isinstance(value, list) else [value]
        images: list[ImagePart | None] = [
            fields.image(one, name if len(values) == 1 else f"{name}[{number}]")
            for number, one in enumerate(values)
        ]
        return [image for image in images if image]

    def _check_modality(self, fields: Fields, parts: list[Part]) -> None:
        value = fields.record.get(self.modality)
        if value is None or value == "":
            return
        words = (
            set(re.split(r"[\s,+_\-]+", value.lower())) - {""} if isinstance(value, str) else {""}
        )
        if not words or not words <= _MODALITY_WORDS.keys():
            remedy = "give 'text', 'image' or 'image,text'"
            fields.problem(self.modality, f"{shown(value)} is not a modality", remedy)
            return
        said = set().union(*(_MODALITY_WORDS[word] for word in words))
        found = modality(parts)
        if said != _MODALITY_WORDS[found]:
            told = f"says {shown(value)}, the record's content is {found}"
            fields.problem(self.modality, told, "correct it or add what is missing")

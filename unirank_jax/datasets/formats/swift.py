"""ms-swift messages: a query with positive and negative messages, <image> tags and image lists.

Reranker lines have positive_messages and negative_messages; embedding lines may have a label
instead of negatives. An <image> tag stands for the next image of the list beside its messages. A
system message is the instruction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from unirank_jax.content import ImagePart, Part
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.formats.fields import Fields
from unirank_jax.datasets.formats.problems import WriteError, kind_of, shown
from unirank_jax.datasets.formats.rows import ParsedRow, RowFormat
from unirank_jax.datasets.formats.writing import (
    Losses,
    examples,
    json_line,
    new_folder,
    note_list_losses,
    save_image,
)

NAME = "ms-swift messages"
TAG = "<image>"
OTHER_MEDIA = ("videos", "audios", "positive_videos", "negative_videos")
_MEANING = {
    "messages": "query (system: instruction)",
    "images": "images of the query",
    "positive_messages": "candidates of grade 1 (or of the label)",
    "positive_images": "images of these candidates",
    "negative_messages": "candidates of grade 0",
    "negative_images": "images of these candidates",
    "label": "grade",
}


def detect(names: Collection[str]) -> bool:
    """True for records with messages."""
    return "messages" in names


def parse(fields: Fields) -> ParsedRow | None:
    """One line; None where something is wrong with it."""
    for name in OTHER_MEDIA:
        if fields.record.get(name):
            fields.problem(name, "only texts and images can be read", "leave the line out")
    if fields.record.get("messages") is None:
        fields.problem("messages", "missing", 'add [{"role": "user", "content": "the query"}]')
        return None
    instruction, query = _messages(
        fields, fields.record["messages"], fields.record.get("images"), "messages", "images"
    )
    positives = _candidates(fields, "positive")
    negatives = _candidates(fields, "negative")
    label = fields.record.get("label")
    if not positives:
        if fields.record.get("positive_messages") in (None, []):
            remedy = 'add [[{"role": "assistant", "content": "a relevant document"}]]'
            fields.problem("positive_messages", "missing", remedy)
        return None
    grades = [1] * len(positives) + [0] * len(negatives)
    if label is not None and len(grades) > 1:
        remedy = "label goes with one positive message and no negative ones"
        fields.problem("label", f"one label for {len(grades)} candidates", remedy)
    elif label is not None:
        grades = [fields.grade(label, "label") or 0]
    if not query:
        return None
    contents = (*positives, *negatives)
    return ParsedRow(query, contents, tuple(grades), instruction, pair=label is not None)


FORMAT = RowFormat(NAME, parse, _MEANING.get)


def _candidates(fields: Fields, side: str) -> list[tuple[Part, ...]]:
    name, images_name = f"{side}_messages", f"{side}_images"
    if fields.record.get(name) is None:
        return []
    lists = fields.listed(name) or []
    given = fields.record.get(images_name)
    images: list[Any] = [None] * len(lists)
    if given is not None:
        if not isinstance(given, list) or len(given) != len(lists):
            told = f"{len(given)} lists" if isinstance(given, list) else kind_of(given)
            remedy = f"give one list of images for each of the {len(lists)} {name}"
            fields.problem(images_name, told, remedy)
            return []
        images = given
    return [
        _messages(fields, one, images[n], f"{name}[{n}]", f"{images_name}[{n}]")[1]
        for n, one in enumerate(lists)
    ]


def _messages(
    fields: Fields, messages: Any, images: Any, place: str, images_place: str
) -> tuple[str | None, tuple[Part, ...]]:
    """(system text, content) of one list of messages; a problem gives ()."""
    if not isinstance(messages, list):
        remedy = 'write [{"role": ..., "content": ...}]'
        fields.problem(place, f"{kind_of(messages)}, not a list", remedy)
        return None, ()
    system: str | None = None
    contents: list[tuple[str, str]] = []
    for number, message in enumerate(messages):
        field = f"{place}[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            remedy = 'write {"role": "user", "content": "text"}'
            fields.problem(field, "no message with a text as content", remedy)
            return None, ()
        role, text = message.get("role"), message["content"]
        if role == "system" and number == 0 and text.strip():
            system = text
        elif role in ("user", "assistant"):
            contents.append((f"{field}.content", text))
        else:
            remedy = "use system (first), user or assistant"
            fields.problem(f"{field}.role", f"{shown(role)} in this place", remedy)
            return None, ()
    if len(contents) != 1:
        told = f"{len(contents)} messages with content"
        fields.problem(place, told, "write the whole content into one message")
        return None, ()
    return system, _tagged(fields, *contents[0], images, images_place)


def _tagged(
    fields: Fields, field: str, text: str, images: Any, images_place: str
) -> tuple[Part, ...]:
    """A text with its <image> tags replaced by the images, in order."""
    pieces = text.split(TAG)
    given = [] if images is None else [images] if isinstance(images, str) else images
    if not isinstance(given, list) or len(given) != len(pieces) - 1:
        told = f"{len(given)} images" if isinstance(given, list) else kind_of(given)
        fields.problem(images_place, f"{told} for {len(pieces) - 1} tags", "give one for each tag")
        return ()
    parts: list[Part] = []
    for number, piece in enumerate(pieces):
        if number:
            image = fields.image(given[number - 1], f"{images_place}[{number - 1}]")
            if image is None:
                return ()
            parts.append(image)
        if piece and (piece.strip() or len(pieces) > 1):
            part = fields.text(piece, field)
            if part is None:
                return ()
            parts.append(part)
    if not parts:
        fields.problem(field, "empty", "give a text or an image")
    return tuple(parts)


def write_swift(dataset: Dataset, out: Path) -> tuple[str, ...]:
    """Write {split}.jsonl in the reranker layout; return what the format cannot say.

    Parts of a content keep their order. Raises WriteError for a text that holds the tag itself.
    """
    losses = Losses()
    with new_folder(out) as folder:
        for split, example in examples(dataset):
            query, where = example.query, f"query {example.query.qid}"
            note_list_losses(example, losses, keeps_instruction=True)
            losses.add("ids of queries and candidates are not kept", where)
            if example.missing:
                losses.add("relevant documents missing from the list are not kept", where)
            sides: dict[str, list[tuple[str, list[str]]]] = {"positive": [], "negative": []}
            for item, grade in zip(example.candidates, example.grades, strict=True):
                if grade < 0:
                    losses.add("unjudged candidates are left out", where)
                    continue
                if grade > 1 or 0 < grade < query.rel_min:
                    losses.add("grades become relevant or not", where)
                side = sides["positive" if grade >= query.rel_min else "negative"]
                side.append(_content(item.parts, folder, f"item {item.did}", losses))
            if not sides["positive"]:
                losses.add("lists without a relevant candidate are left out", where)
                continue
            system = [{"role": "system", "content": query.instruction}] if query.instruction else []
            text, images = _content(query.parts, folder, where, losses)
            line: dict[str, Any] = {"messages": [*system, {"role": "user", "content": text}]}
            line |= {"images": images} if images else {}
            for name, contents in sides.items():
                line[f"{name}_messages"] = [
                    [{"role": "assistant", "content": text}] for text, _ in contents
                ]
                if any(images for _, images in contents):
                    line[f"{name}_images"] = [images for _, images in contents]
            if example.grades != tuple(sorted(example.grades, reverse=True)):
                losses.add("the order of candidates is not kept: positives come first", where)
            with open(folder / f"{split}.jsonl", "a", encoding="utf-8") as file:
                file.write(json_line(line))
    return losses.warnings()


def _content(
    parts: Sequence[Part], folder: Path, where: str, losses: Losses
) -> tuple[str, list[str]]:
    """A text with tags, and the image files."""
    text, images = "", []
    for before, part in zip((None, *parts), parts, strict=False):
        if isinstance(part, ImagePart):
            images.append(save_image(part, folder, where))
            text += TAG
            continue
        if TAG in part.text:
            raise WriteError(f"{where}: the text holds {TAG}, which is a tag; replace it")
        if before is not None and not isinstance(before, ImagePart):
            losses.add("neighbouring texts become one text", where)
        text += part.text
    return text, images

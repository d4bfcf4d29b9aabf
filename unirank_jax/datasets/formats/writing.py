"""What all writers share: a folder that appears whole or not at all, image files, and the losses.

What a format cannot say is counted in `Losses` and told to the person as warnings; what would make
the data wrong is a WriteError instead.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unirank_jax.content import ImagePart, Part, TextPart
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.formats.base import FormatDataset
from unirank_jax.datasets.formats.problems import WriteError
from unirank_jax.datasets.records import SPLITS, Example, Item

IMAGE_FOLDER = "images"
_MAGIC = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8", "jpg"),
    (b"RIFF", "webp"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II", "tiff"),
    (b"MM", "tiff"),
)


class Losses:
    """Counts what a format cannot say, by kind, with the first place of each."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, what: str, where: str) -> None:
        """One thing at `where` that is lost."""
        count, first = self._found.get(what, (0, where))
        self._found[what] = (count + 1, first)

    def warnings(self) -> tuple[str, ...]:
        """One line for each kind of loss."""
        return tuple(
            f"{what} ({count} times, first {first})" if count > 1 else f"{what} ({first})"
            for what, (count, first) in self._found.items()
        )


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that takes its name when all went well and vanishes otherwise.

    Raises WriteError where `path` is there already and is not an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise WriteError(f"{path}: is there already; give a new folder or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.writing-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_image(part: ImagePart, folder: Path, where: str) -> str:
    """Writes an image file below `folder` once and returns its path there; bytes stay as they are.

    Raises WriteError where the image cannot be read.
    """
    if isinstance(part.source, bytes):
        data = part.source
    elif isinstance(part.source, str):
        try:
            data = Path(part.source).read_bytes()
        except OSError as error:
            raise WriteError(f"{where}: {part.source} cannot be read ({error.strerror})") from None
    else:
        raise WriteError(f"{where}: an image to be stored must be encoded bytes or a file")
    ending = next((ending for magic, ending in _MAGIC if data.startswith(magic)), "image")
    name = f"{IMAGE_FOLDER}/{hashlib.sha256(data).hexdigest()[:24]}.{ending}"
    if not (folder / name).is_file():
        (folder / IMAGE_FOLDER).mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return name


def text_and_image(
    parts: Sequence[Part], folder: Path, where: str, losses: Losses
) -> dict[str, str]:
    """Content as {"text", "image"} in the order of its parts, the image as a written file.

    Raises WriteError for several images: such a form has place for one.
    """
    images = [part for part in parts if isinstance(part, ImagePart)]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    if len(images) > 1:
        raise WriteError(
            f"{where}: {len(images)} images in one content, the format has place for one; "
            "convert to jsonl or ms-swift"
        )
    if len(parts) > 2 or len(texts) > 1:
        losses.add("texts of one content are joined, the image's place among them is lost", where)
    content: dict[str, str] = {}
    for part in parts:
        if isinstance(part, ImagePart):
            content["image"] = save_image(part, folder, where)
        else:
            content["text"] = "\n".join(texts)
    return content


def examples(dataset: Dataset) -> Iterator[tuple[str, Example]]:
    """(split, example) of all lists of a dataset, one at a time."""
    for split in dataset.splits:
        for number in range(len(dataset.lists(split))):
            yield split, dataset.example(split, number)


def all_items(dataset: Dataset) -> Iterator[Item]:
    """Every item once, those included that are in no list."""
    if isinstance(dataset, FormatDataset):
        yield from dataset.all_items()
        return
    seen: set[str] = set()
    for split in SPLITS:
        for item in dataset.items_of(split):
            if item.did not in seen:
                seen.add(item.did)
                yield item
    for name in dataset.splits:  # a list may name an item of another split
        for ranked in dataset.lists(name):
            for did in ranked.dids:
                if did not in seen:
                    seen.add(did)
                    yield dataset.item(did)


def note_list_losses(example: Example, losses: Losses, *, keeps_instruction: bool) -> None:
    """The losses of a format that knows queries, candidates and grades only."""
    query, where = example.query, f"query {example.query.qid}"
    if query.instruction and not keeps_instruction:
        losses.add("instructions are not kept", where)
    if query.rel_min != 1:
        losses.add("rel_min is not kept: every grade above 0 will count as relevant", where)
    if query.domain != "user" or query.split_id != query.qid:
        losses.add("domain, kind, split_id, unit_id, source and licence are not kept", where)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file whole or not at all; compressed where its name ends in .gz.

    Equal lines give equal bytes.
    """
    data = "".join(lines).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, compresslevel=6, mtime=0)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def json_line(record: dict[str, Any]) -> str:
    """One line of a JSON lines file."""
    return json.dumps(record, ensure_ascii=False) + "\n"

"""What a dataset is made of: items, queries and ranked lists, as plain frozen records.

An item is a unit of content stored once; a query asks; a list names the candidates of one
query with their grades. `split_of` is the only place that decides train, valid or test.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Literal

from unirank_jax.content import Part

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class Item:
    """One candidate: its content and what is known about where it comes from.

    `unit_id` names the object that several items show (drawing, name and card of one
    molecule), `family` the neighbourhood in which hard negatives live (formula, document),
    `split_id` decides the split, and items with the same `dup_id` have the same content.
    An image read from an ArrayRecord folder is encoded bytes; one of a JSONL file is a path.
    """

    did: str
    parts: tuple[Part, ...]
    modality: str
    unit_id: str
    family: str
    kind: str
    split_id: str
    dup_id: str
    source: str
    licence: str


@dataclass(frozen=True)
class Query:
    """One question. `rel_min` is the lowest grade that counts as relevant in Hit and Recall."""

    qid: str
    parts: tuple[Part, ...]
    instruction: str | None
    domain: str
    kind: str
    unit_id: str
    split_id: str
    dup_id: str
    rel_min: int = 1


@dataclass(frozen=True)
class RankList:
    """The candidates of one query by id, with one grade and one origin per candidate.

    Grades are 0 or more; -1 means unjudged. `neg_types` says how a candidate came into the
    list ("positive", "isomer", "random", ...); it is for analysis, never an input of a model.
    `missing` holds the grades of relevant candidates that a first stage did not put on the list.
    """

    qid: str
    dids: tuple[str, ...]
    grades: tuple[int, ...]
    neg_types: tuple[str, ...]
    missing: tuple[int, ...] = ()


@dataclass(frozen=True)
class Example:
    """A list with its query and its candidates resolved; images are not decoded."""

    query: Query
    candidates: tuple[Item, ...]
    grades: tuple[int, ...]
    neg_types: tuple[str, ...]
    missing: tuple[int, ...] = ()


@dataclass(frozen=True)
class ContentSize:
    """Length of a content, known without reading it: characters and (height, width) per image."""

    text_characters: int
    images: tuple[tuple[int, int], ...]


def split_of(split_id: str) -> Split:
    """The split of everything that carries `split_id`: CRC-32 mod 20; 0-1 test, 2-3 valid."""
    bucket = zlib.crc32(split_id.encode("utf-8")) % 20
    if bucket < 2:
        return "test"
    return "valid" if bucket < 4 else "train"


def held_out_id(name: str) -> str:
    """The name with the first number that puts it into the test split."""
    number = 0
    while split_of(f"{name}#{number}") != "test":
        number += 1
    return f"{name}#{number}"


def normalized_text(text: str) -> str:
    """Lower case with single spaces: two texts that differ only here count as the same."""
    return " ".join(text.lower().split())


def dup_id_of(*contents: str | bytes) -> str:
    """A short hash of the content; texts are normalised, bytes are taken as they are."""
    digest = hashlib.sha256()
    for content in contents:
        data = content if isinstance(content, bytes) else normalized_text(content).encode()
        digest.update(b"b" if isinstance(content, bytes) else b"t")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def hash_number(*words: str) -> int:
    """A number that depends only on the words: the source of every deterministic choice."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:8], "little")

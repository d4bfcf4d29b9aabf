"""Batches for the pretraining: objects that have an image and texts, grouped with look-alikes.

Half of a batch comes in families (isomers, figures of one document), so that the negatives of the
contrast are hard. What is drawn is a pure function of (seed, batch number). No JAX here.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from train.moving import moved
from unirank_jax.batch import Bucket, empty_rows
from unirank_jax.config import ModelConfig
from unirank_jax.content import ImagePart, Part, TextPart
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.records import Item, Query, normalized_text
from unirank_jax.images import Patches, decode, to_patches
from unirank_jax.packing import Slots, fill
from unirank_jax.prompt import Encoded, Prompt

ALIKE_BY_SPLIT = ("molecule",)  # domains whose split groups hold objects that look alike


@dataclass(frozen=True)
class Unit:
    """One object: its images, what is written about it by kind (the defining text first), and
    the queries' instruction."""

    domain: str
    images: tuple[ImagePart, ...]
    texts: dict[str, str]
    family: str
    group: int  # objects of one group cannot be told apart: neither right nor wrong for each other
    instruction: str | None


@dataclass(frozen=True)
class PairSettings:
    """Static sizes and sampling of a pretraining batch."""

    units: int  # per shard
    family_size: int  # look-alikes drawn together
    family_share: float  # of a batch that comes in families
    image_query_share: float
    query_tokens: int
    caption_tokens: int
    text_tokens: int
    patches: int
    turn: float  # degrees: drawings are turned by up to this much either way ...
    zoom: float  # ... scaled by a factor of up to 1 +- zoom ...
    shift: float  # ... and moved by up to this share of their side, so that places do not matter
    alike_share: float  # of the wrong candidates that are look-alikes where there are some


def units_of(dataset: Dataset, split: str) -> list[Unit]:
    """Every object of a split that has an image, a text, and lists that ask about it.

    The texts are those of its queries (a title that no candidate shows is one of them), then
    those of its items; their kinds are what stands before the arrow of the query's kind, and the
    items' kinds.
    """
    texts: dict[str, dict[str, str]] = defaultdict(dict)
    asked: dict[str, Query] = {}
    for ranked in dataset.lists(split):
        query = dataset.query(ranked.qid)
        asked.setdefault(query.unit_id, query)
        if all(isinstance(part, TextPart) for part in query.parts):
            _add(texts[query.unit_id], query.kind.partition("->")[0], query.parts)
    images: dict[str, list[Item]] = defaultdict(list)
    for item in dataset.items_of(split):
        if item.modality == "image":
            images[item.unit_id].append(item)
        elif item.modality == "text":
            _add(texts[item.unit_id], item.kind, item.parts)
    return [
        Unit(
            domain=asked[unit_id].domain,
            images=tuple(part for i in items for part in i.parts if isinstance(part, ImagePart)),
            texts=texts[unit_id],
            family=items[0].family,
            group=_group(items[0], asked[unit_id].domain, texts[unit_id]),
            instruction=asked[unit_id].instruction,
        )
        for unit_id, items in images.items()
        if unit_id in asked and texts[unit_id]
    ]


def _add(texts: dict[str, str], kind: str, parts: Sequence[Part]) -> None:
    """A text under its kind, unless it is there already."""
    text = "\n".join(part.text for part in parts if isinstance(part, TextPart))
    if text not in texts.values():
        texts.setdefault(kind, text)


def _group(item: Item, domain: str, texts: dict[str, str]) -> int:
    """A number for what cannot be told apart: stereoisomers, and objects of the same name."""
    name = (
        item.split_id if domain in ALIKE_BY_SPLIT else normalized_text(next(iter(texts.values())))
    )
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


class PairSampler:
    """Draws and encodes pretraining batches; `arrays(n)` is the n-th batch of one shard."""

    def __init__(
        self,
        pools: Sequence[tuple[Sequence[Unit], int]],
        prompt: Prompt,
        config: ModelConfig,
        settings: PairSettings,
        seed: int,
    ) -> None:
        """pools: objects of one domain with how many of them go into every batch."""
        self.prompt, self.config, self.settings, self.seed = prompt, config, settings, seed
        self.pools = [(list(units), count) for units, count in pools]
        if sum(count for _, count in self.pools) != settings.units:
            raise ValueError(f"the pools must give {settings.units} objects together")
        self.families = [_families(units, settings.family_size) for units, _ in self.pools]
        several = any(len(unit.images) > 1 for units, _ in self.pools for unit in units)
        self.query_images = round(settings.units * settings.image_query_share) if several else 0
        instructions = {unit.instruction for units, _ in self.pools for unit in units}
        self.statics = {i: prompt.static(i) for i in sorted(instructions, key=str)}
        self.image = lru_cache(maxsize=65536)(lambda part: decode(part.source, "image"))

    def draw(self, number: int) -> list[Unit]:
        """The objects of batch `number`."""
        rng = np.random.default_rng([self.seed, number])
        chosen: list[Unit] = []
        for (units, count), families in zip(self.pools, self.families, strict=True):
            indices: list[int] = []
            wanted = int(count * self.settings.family_share) if families else 0
            while len(indices) < wanted:
                members = families[rng.integers(len(families))]
                some = rng.permutation(members)[: self.settings.family_size]
                indices += [i for i in some if i not in indices]
            while len(indices) < count:
                i = int(rng.integers(len(units)))
                if i not in indices:
                    indices.append(i)
            chosen += [units[i] for i in indices[:count]]
        return chosen

    def arrays(self, number: int) -> dict[str, Any]:
        """Fields of `PretrainBatch` for one shard, as numpy arrays with S = 1."""
        sizes, prompt = self.settings, self.prompt
        rng = np.random.default_rng([self.seed, number, 1])
        units = self.draw(number)
        count = len(units)
        images = count + self.query_images
        slots = Slots(self.config, Bucket(0, 0, 0, 0, images, sizes.patches))
        static = empty_rows(len(self.statics), max(len(s.tokens) for s in self.statics.values()))
        starts = {}
        for at, (instruction, encoded) in enumerate(self.statics.items()):
            starts[instruction] = (at, fill(static, at, encoded, self.config, slots, 0))
        pair = empty_rows(count, sizes.query_tokens + sizes.text_tokens)
        caption = empty_rows(count, sizes.caption_tokens)
        text = empty_rows(count, sizes.text_tokens)
        index, image_query = np.zeros((1, count), np.int32), np.zeros((1, count), bool)
        query_length, image_length, text_length = np.zeros((3, 1, count), np.int32)
        spoken = np.zeros((1, count, sizes.caption_tokens), bool)
        own, echoed = np.zeros((1, count), bool), np.zeros((1, count, sizes.text_tokens), bool)
        shown = [int(rng.integers(len(unit.images))) for unit in units]
        moved = [self._patches(u.images[i], rng) for u, i in zip(units, shown, strict=True)]
        room = self.query_images
        for at, (unit, patches) in enumerate(zip(units, moved, strict=True)):
            order = [list(unit.texts)[i] for i in rng.permutation(len(unit.texts))]
            by_image = bool(rng.random() < sizes.image_query_share)
            rest = [image for i, image in enumerate(unit.images) if i != shown[at]]
            other_image = by_image and room > 0 and len(rest) > 0
            asked: Part | Patches = patches if by_image else TextPart(unit.texts[order[0]])
            if other_image:  # another drawing of the object asks for this one
                asked, room = self._patches(rest[rng.integers(len(rest))], rng), room - 1
            others = order if by_image else order[1:]
            index[0, at], start = starts[unit.instruction]
            image_query[0, at] = by_image and not other_image
            asking = self._query(asked, unit.instruction)
            if len(asking.tokens) > sizes.query_tokens:
                raise ValueError(
                    f"pairs.query_tokens: {sizes.query_tokens}, a query takes "
                    f"{len(asking.tokens)}; raise it or lower max_query_tokens"
                )
            same_image = bool(image_query[0, at])
            by_text = len(others) > 0 and (same_image or bool(rng.random() < 0.5))
            kind = others[0] if by_text else None
            owner = self._owner(units, at, kind, rng)
            own[0, at] = owner == at
            offered: Part | Patches = (
                moved[owner] if kind is None else TextPart(units[owner].texts[kind])
            )
            row = prompt.candidate([offered], "candidate", 0)
            row = _shorten(row, sizes.text_tokens, prompt.suffix_length)
            query_length[0, at] = len(asking.tokens)
            if kind is not None and owner == at:
                echoed[0, at, 1 : len(row.tokens) - prompt.suffix_length + 1] = True
            fill(pair, at, _join(asking, row), self.config, slots, start)
            defining = TextPart(next(iter(unit.texts.values())))
            row = prompt.candidate([patches, defining], "caption", 0)
            row = _shorten(row, sizes.caption_tokens, prompt.suffix_length)
            fill(caption, at, row, self.config, slots, 0)
            end = int(np.flatnonzero(row.tokens == self.config.vision_end_id)[0])
            image_length[0, at] = end + 1
            spoken[0, at, end + 1 : len(row.tokens) - prompt.suffix_length + 1] = True
            if len(others):
                row = prompt.candidate([TextPart(unit.texts[others[0]])], "text", 0)
                row = _shorten(row, sizes.text_tokens, prompt.suffix_length)
                fill(text, at, row, self.config, slots, 0)
                text_length[0, at] = len(row.tokens) - prompt.suffix_length
        return {
            "images": slots.arrays,
            "static": static,
            "static_index": index,
            "pair": pair,
            "query_length": query_length,
            "own": own,
            "echoed": echoed,
            "caption": caption,
            "image_length": image_length,
            "spoken": spoken,
            "text": text,
            "text_length": text_length,
            "label_ids": np.array([prompt.label_ids], np.int32),
            "image_query": image_query,
            "group": np.array([[unit.group for unit in units]], np.int32),
        }

    def _owner(
        self, units: Sequence[Unit], at: int, kind: str | None, rng: np.random.Generator
    ) -> int:
        """Whose candidate follows query `at`: its own object's half of the time, else another's.

        `kind` is that of the text that is offered, None for the image.
        """
        unit = units[at]
        others = [
            i
            for i, other in enumerate(units)
            if other.domain == unit.domain
            and other.group != unit.group
            and (kind is None or kind in other.texts)
        ]
        alike = [i for i in others if units[i].family == unit.family]
        if not others or rng.random() < 0.5:
            return at
        if self.settings.alike_share < 1 and rng.random() >= self.settings.alike_share:
            alike = []
        return int(rng.choice(alike or others))

    def _query(self, part: Part | Patches, instruction: str | None) -> Encoded:
        """The query's own tokens: what follows the static part of its prefix."""
        return self.prompt.query([part], instruction)

    def _patches(self, image: ImagePart, rng: np.random.Generator) -> Patches:
        return to_patches(self._move(self.image(image), rng), self.prompt.spec)

    def _move(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        sizes = self.settings
        return moved(image, rng, sizes.turn, sizes.zoom, sizes.shift)


def _families(units: Sequence[Unit], least: int) -> list[list[int]]:
    members: dict[str, list[int]] = defaultdict(list)
    for i, unit in enumerate(units):
        members[unit.family].append(i)
    return [found for _, found in sorted(members.items()) if len(found) >= least]


def _join(first: Encoded, second: Encoded) -> Encoded:
    """One sequence after the other."""
    return Encoded(
        np.concatenate([first.tokens, second.tokens]),
        (*first.images, *second.images),
        first.truncated or second.truncated,
        first.where,
    )


def _shorten(row: Encoded, limit: int, suffix: int) -> Encoded:
    """Cut a row to `limit` tokens, keeping its last `suffix` ones."""
    if len(row.tokens) <= limit:
        return row
    tokens = np.concatenate([row.tokens[: limit - suffix], row.tokens[-suffix:]])
    return Encoded(tokens, row.images, True, row.where)

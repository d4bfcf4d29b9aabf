"""The candidates of a dataset in one form: as they are, all as images, or all as texts.

Two baselines of native hybrid scoring. "image" draws every text (`typeset`), "text" puts a
stand-in (`stand_ins`) in the place of every image; queries keep their form. An item that does not
exist in a form takes its lists along: those are left out and can be counted, never filled up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, get_args

from unirank_jax.content import ImagePart, TextPart
from unirank_jax.datasets import stand_ins
from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.formats.base import Lazy
from unirank_jax.datasets.records import ContentSize, Example, Item, Query, RankList
from unirank_jax.datasets.typeset import spell, typeset
from unirank_jax.images import ImageSpec, decode

Form = Literal["native", "image", "text"]
FORMS: tuple[Form, ...] = get_args(Form)
DRAWING_VERSION = 1  # count up when texts are drawn differently: it is part of the fingerprint


def in_form(dataset: Dataset, form: Form, spec: ImageSpec) -> Dataset:
    """The dataset with its candidates in a form, drawn for a model's images; native: as it is."""
    return dataset if form == "native" else FormDataset(dataset, form, spec)


class FormDataset(Dataset):
    """A view of a dataset in one form.

    A converted item keeps its ids and its modality, which is that of the original: metrics are
    sliced by it. Pictures of texts are PIL images, made when they are asked for.

    Args:
        form: what candidates look like.
        spec: the image budget to draw for; needed for form "image" alone.
        within: further forms that every candidate of a list must exist in.

    Raises DatasetError for form "text" where the dataset has no stand-ins.
    """

    def __init__(
        self,
        dataset: Dataset,
        form: Form,
        spec: ImageSpec | None = None,
        within: Sequence[Form] = (),
    ):
        if form == "image" and spec is None:
            raise ValueError("form 'image' needs the image budget of the model that will read it")
        self.dataset, self.form, self.spec, self.within = dataset, form, spec, tuple(within)
        self.path = dataset.path
        self._needed = {form, *within}
        self._stand_ins = stand_ins.read(dataset) if "text" in self._needed else {}
        self._exists: dict[str, bool] = {}
        self._rows: dict[str, list[int]] = {}

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.dataset, self.form, self.spec, self.within)

    @cached_property
    def fingerprint(self) -> str:
        """That of the dataset together with what the form adds to it."""
        digest = hashlib.sha256(self.dataset.fingerprint.encode())
        if self.form == "image":
            digest.update(f"{DRAWING_VERSION} {self.spec}".encode())
        for did, text in sorted(self._stand_ins.items()):
            digest.update(f"\0{did}\0{text}".encode())
        digest.update(f"\0{self.form} {sorted(self._needed)}".encode())
        return digest.hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        return self.dataset.splits

    def lists(self, split: str) -> Sequence[RankList]:
        rows, lists = self._kept(split), self.dataset.lists(split)
        return lists if len(rows) == len(lists) else Lazy(rows, lists.__getitem__)

    def left_out(self, split: str) -> int:
        """How many lists of a split have a candidate that does not exist in a needed form."""
        return len(self.dataset.lists(split)) - len(self._kept(split))

    def query(self, qid: str) -> Query:
        return self.dataset.query(qid)

    def item(self, did: str) -> Item:
        return self.convert(self.dataset.item(did))

    def items_of(self, split: str) -> Sequence[Item]:
        items = self.dataset.items_of(split)
        if self.form == "native":
            return items
        rows = [row for row, item in enumerate(items) if self._is_in(item, self.form)]
        return Lazy(rows, lambda row: self.convert(items[row]))

    def pool(self, split: str) -> Collection[str]:
        pool = self.dataset.pool(split)
        if self.form == "native":
            return pool
        return tuple(did for did in pool if self._is_in(self.dataset.item(did), self.form))

    def size(self, did: str) -> ContentSize:
        return self.dataset.size(did) if self.form == "native" else super().size(did)

    def example(self, split: str, index: int) -> Example:
        return self.convert_example(self.dataset.example(split, self._kept(split)[index]))

    def convert_example(self, example: Example) -> Example:
        """A list of the dataset in this form. Raises DatasetError as `convert`."""
        return replace(example, candidates=tuple(self.convert(x) for x in example.candidates))

    def convert(self, item: Item) -> Item:
        """An item of the dataset in this form.

        Raises DatasetError where it does not exist in it, ContentError where an image is broken.
        """
        if self.form == "native":
            return item
        if not self._is_in(item, self.form):
            why = "there is no stand-in" if self.form == "text" else "the font lacks its script"
            raise DatasetError(
                f"item {item.did}: cannot be shown as {self.form}, {why}; leave its lists out "
                "(FormDataset.lists does)"
            )
        if self.form == "text":
            return replace(item, parts=self._as_text(item))
        return replace(item, parts=self._as_image(item))

    def _as_text(self, item: Item) -> tuple[TextPart | ImagePart, ...]:
        """One text: the item's own, with the stand-in where its first image is."""
        if item.modality == "text":
            return item.parts
        lines: list[str] = []
        for part in item.parts:
            line = self._stand_ins[item.did] if isinstance(part, ImagePart) else part.text
            if not isinstance(part, ImagePart) or line not in lines:
                lines.append(line)
        return (TextPart("\n".join(lines)),)

    def _as_image(self, item: Item) -> tuple[TextPart | ImagePart, ...]:
        """One picture: the item's images and below them its text; images alone stay as they are."""
        texts = [part.text for part in item.parts if isinstance(part, TextPart)]
        if not texts:
            return item.parts
        assert self.spec is not None
        images = [
            decode(part.source, f"item {item.did}{part.place}")
            for part in item.parts
            if isinstance(part, ImagePart)
        ]
        return (ImagePart(typeset("\n".join(texts), images, self.spec)),)

    def _is_in(self, item: Item, form: Form) -> bool:
        if form == "text":
            return item.modality == "text" or item.did in self._stand_ins
        if form == "image":
            return not any(spell(p.text)[1] for p in item.parts if isinstance(p, TextPart))
        return True

    def _has_forms(self, item: Item) -> bool:
        if item.did not in self._exists:
            self._exists[item.did] = all(self._is_in(item, form) for form in self._needed)
        return self._exists[item.did]

    def _kept(self, split: str) -> list[int]:
        """The lists whose candidates all exist in the needed forms, found on first use.

        Raises DatasetError where that leaves none.
        """
        if split not in self._rows:
            lists = self.dataset.lists(split)
            kept = [row for row, ranked in enumerate(lists) if self._complete(ranked)]
            if len(lists) and not kept:
                raise DatasetError(
                    f"{self.path}: in every list of split {split!r} a candidate does not exist in "
                    f"the form {' or '.join(sorted(self._needed - {'native'}))}; there is nothing "
                    "to compare"
                )
            self._rows[split] = kept
        return self._rows[split]

    def _complete(self, ranked: RankList) -> bool:
        return all(
            self._exists[did] if did in self._exists else self._has_forms(self.dataset.item(did))
            for did in ranked.dids
        )

"""Models that see the candidates of the same lists in different forms, and what each form costs.

A model is named with its form as `PATH:image` or `PATH:text`; lists that do not exist in a form
that some model needs are left out for all. Costs are tokens per candidate, as they are scored. No
JAX here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from unirank_jax.content import TextPart
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.forms import FORMS, Form, FormDataset
from unirank_jax.datasets.records import Example, Item
from unirank_jax.prompt import Prompt

COST_LISTS = 200  # lists on which tokens are counted, evenly spaced
EVERYTHING = "all"
# Texts by their length: name -> below how many characters.
LENGTHS = {"text < 50": 50, "text < 100": 100, "text < 200": 200, "text >= 200": None}
GROUPS = (EVERYTHING, "text", *LENGTHS, "image", "mixed")


@dataclass(frozen=True)
class Cost:
    """Mean tokens of the candidates of some lists; `prefix` is what a list's candidates share.

    `groups` has, for all candidates and by what they are in the dataset, their number and their
    mean text tokens (with the few of the prompt's frame) and visual tokens.
    """

    lists: int
    prefix: float
    groups: dict[str, dict[str, float]]


def split_form(spec: str) -> tuple[str, Form | None]:
    """`runs/b:image` -> ("runs/b", "image"); None where the end names no form."""
    path, _, end = spec.rpartition(":")
    found = next((form for form in FORMS if form == end), None)
    return (path, found) if path and found else (spec, None)


def form_of_run(workdir: str) -> Form:
    """The form that a run of `train.sft` was trained on; native for everything else."""
    path = Path(workdir) / "config.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return stored.get("config", {}).get("data", {}).get("form", "native")


class Shown:
    """One dataset as several models see it.

    Args:
        dataset: the data as it is.
        forms: model -> form of its candidates.

    Attributes:
        dataset: the data as it is, without the lists that some form lacks.
        costs: model -> its cost, known when it has seen the examples.

    Raises DatasetError where a form is not to be had.
    """

    def __init__(self, dataset: Dataset, forms: Mapping[str, Form]):
        others = sorted(set(forms.values()) - {"native"})
        self.forms = dict(forms)
        self.costs: dict[str, Cost] = {}
        self.dataset = FormDataset(dataset, "native", within=others) if others else dataset

    def to(self, model: str, examples: Sequence[Example], prompt: Prompt) -> Sequence[Example]:
        """The examples as a model sees them, converted when they are read; notes their cost."""
        seen = FormedExamples(self.dataset, self.forms[model], examples, prompt)
        self.costs[model] = cost(examples, seen, prompt)
        return seen

    def left_out(self, split: str) -> int:
        """How many lists of a split are left out. Raises DatasetError where none is left."""
        return self.dataset.left_out(split) if isinstance(self.dataset, FormDataset) else 0

    def notes(self, split: str) -> list[str]:
        """What readers should know about the lists, in a sentence; nothing where all are there."""
        count = self.left_out(split)
        told = (
            f"{count} of {len(self.dataset.lists(split)) + count} lists are left out for all: a "
            "candidate does not exist in a form that some model needs."
        )
        return [told] if count else []

    def about(self, split: str) -> dict[str, Any]:
        """What a report should tell: forms, costs, and how many lists were left out."""
        tokens = {
            name: {"form": self.forms[name], **vars(found)} for name, found in self.costs.items()
        }
        return {"tokens": tokens, "lists_left_out": self.left_out(split)}


class FormedExamples(Sequence[Example]):
    """Examples in a form, each converted when it is read: pictures of texts take memory."""

    def __init__(
        self, dataset: Dataset, form: Form, examples: Sequence[Example], prompt: Prompt
    ) -> None:
        self._examples = examples
        self._view = None if form == "native" else FormDataset(dataset, form, prompt.spec)

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        example = self._examples[index]
        return example if self._view is None else self._view.convert_example(example)


def cost(
    examples: Sequence[Example], seen: Sequence[Example], prompt: Prompt, limit: int = COST_LISTS
) -> Cost:
    """Tokens of the lists in `seen`, grouped by what their candidates are in `examples`.

    Counted from sizes, on at most `limit` lists. Candidates that cannot be read are not counted.
    """
    count = min(limit, len(examples))
    prefixes: list[int] = []
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for number in range(count):
        place = number * len(examples) // count
        original, example = examples[place], seen[place]
        query = original.query
        prefix = prompt.query_length(query.parts, query.instruction, f"query {query.qid}")
        prefixes.append(prefix.tokens)
        for item, shown in zip(original.candidates, example.candidates, strict=True):
            try:
                length = prompt.candidate_length(shown.parts, item.did, prefix.tokens)
            except ValueError:  # the scorer tells of it, or counts it as last
                continue
            visual = sum(length.patches) // prompt.spec.merge_size**2
            for group in _groups(item):
                for at, value in enumerate((1, length.tokens - visual, visual)):
                    sums[group][at] += value
    groups = {
        group: dict(zip(("candidates", "text", "visual"), (n, text / n, visual / n), strict=True))
        for group in GROUPS
        for n, text, visual in ([sums[group]] if group in sums else [])
    }
    return Cost(count, sum(prefixes) / max(1, count), groups)


def _groups(item: Item) -> Iterator[str]:
    """All, its modality, and for a text its length."""
    yield EVERYTHING
    yield item.modality
    if item.modality == "text":
        characters = sum(len(part.text) for part in item.parts if isinstance(part, TextPart))
        yield next(name for name, most in LENGTHS.items() if most is None or characters < most)

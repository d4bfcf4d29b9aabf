"""What is scored in the benchmark: real words, synthetic pictures, four shapes of reranking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from unirank_jax.content import TextPart
from unirank_jax.datasets.dataset import sample


@dataclass(frozen=True)
class Workload:
    """Queries with their candidates, as `Reranker.logits_many` takes them."""

    name: str
    queries: list[Any]
    lists: list[list[Any]]

    @property
    def pairs(self) -> int:
        return sum(map(len, self.lists))


def short_lists(rng: np.random.Generator) -> Workload:
    """32 candidates: half images of 160 to 320 pixels a side, half passages of 40 to 160 words."""
    candidates: list[Any] = [passage(rng, int(n)) for n in rng.integers(40, 161, 16)]
    candidates += [picture(rng, *rng.integers(160, 321, 2)) for _ in range(16)]
    return Workload(
        "short lists", [passage(rng, 25)], [[candidates[i] for i in rng.permutation(32)]]
    )


def pages(rng: np.random.Generator) -> Workload:
    """16 page images of about 1,000 visual tokens each."""
    return Workload(
        "page images", [passage(rng, 25)], [[picture(rng, 1120, 912) for _ in range(16)]]
    )


def image_query(rng: np.random.Generator) -> Workload:
    """An image of 256 visual tokens against 32 short texts."""
    lists = [[passage(rng, int(n)) for n in rng.integers(8, 25, 32)]]
    return Workload("image query", [picture(rng, 512, 512)], lists)


def repeated_corpus(rng: np.random.Generator) -> Workload:
    """The same 50 images under 5 queries."""
    corpus = [picture(rng, *rng.integers(160, 321, 2)) for _ in range(50)]
    return Workload("repeated corpus", [passage(rng, 25) for _ in range(5)], [corpus] * 5)


WORKLOADS: dict[str, Callable[[np.random.Generator], Workload]] = {
    "short": short_lists,
    "image-query": image_query,
    "pages": pages,
    "corpus": repeated_corpus,
}


def passage(rng: np.random.Generator, count: int) -> str:
    """So many words that occur in real captions and passages, in random order."""
    words = vocabulary()
    return " ".join(words[i] for i in rng.integers(0, len(words), count))


def picture(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Smooth random colours: sizes matter here, contents do not."""
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)


@cache
def vocabulary() -> list[str]:
    """Words of the embedded sample's figure texts."""
    texts = [
        part.text
        for item in sample("sci").items_of("train")
        if item.kind in ("caption", "passage")
        for part in item.parts
        if isinstance(part, TextPart)
    ]
    return [word for text in texts for word in text.split() if word.isalpha()]

"""Lists that ask for a picture by the same picture, turned, scaled and shifted.

What `train.cloze` is for words: nothing but likeness counts. Half of the other pictures are of the
same family (other icons of a set, isomers), where there are enough.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from train.moving import moved
from unirank_jax.content import ImagePart, ImageSource
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.images import decode

TURN, ZOOM, SHIFT = 25.0, 0.15, 0.1  # as in the visual pretraining


@dataclass(frozen=True)
class Picture:
    """A picture of the pool, and what must not stand beside it."""

    source: ImageSource
    unit: str
    same: str  # dup_id: pictures that are equal
    family: str


def pictures_of(dataset: Dataset, split: str) -> list[Picture]:
    """Items of a split's pool that are one picture."""
    found = []
    for did in dataset.pool(split):
        item = dataset.item(did)
        if len(item.parts) == 1 and isinstance(part := item.parts[0], ImagePart):
            found.append(Picture(part.source, item.unit_id, item.dup_id, item.family))
    return found


def lists_of(
    pictures: Sequence[Picture],
    count: int,
    size: int,
    rng: np.random.Generator,
    name: str,
    folder: Path,
) -> Iterator[dict[str, Any]]:
    """`count` lists of one relevant and size - 1 other pictures, which go to `folder`/images;
    their ids begin with `name`."""
    family: dict[str, list[int]] = defaultdict(list)
    for i, picture in enumerate(pictures):
        family[picture.family].append(i)
    album = Album(folder)
    for number in tqdm(range(count), desc=f"pictures {name}", unit="list"):
        place = int(rng.integers(len(pictures)))
        one = pictures[place]
        near = rng.permutation(family[one.family])[: size // 2]
        others: list[int] = []
        for i in (*near, *rng.permutation(len(pictures))):
            if len(others) == size - 1:
                break
            other = pictures[int(i)]
            taken = {one.same, *(pictures[j].same for j in others)}
            if other.unit != one.unit and other.same not in taken:
                others.append(int(i))
        image = decode(one.source, f"{name} picture {place}")
        yield {
            "qid": f"{name}-picture-{number}",
            "kind": "picture",
            "query": {"image": album.add(moved(image, rng, TURN, ZOOM, SHIFT))},
            "candidates": [
                {
                    "did": f"{name}-picture-{number}-{at}",
                    "image": album.add(decode(pictures[i].source, f"{name} picture {i}")),
                    "grade": int(at == 0),
                }
                for at, i in enumerate((place, *others))
            ],
        }


class Album:
    """Pictures as PNG files named by their content, each written once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "images"
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, image: Image.Image) -> str:
        """The path of a picture, relative to the lists."""
        pixels = hashlib.sha256(str((image.mode, image.size)).encode() + image.tobytes())
        path = self.folder / f"{pixels.hexdigest()[:20]}.png"
        if not path.exists():
            encoded = BytesIO()
            image.save(encoded, "PNG")
            temporary = path.with_suffix(".part")
            temporary.write_bytes(encoded.getvalue())
            temporary.replace(path)
        return f"images/{path.name}"

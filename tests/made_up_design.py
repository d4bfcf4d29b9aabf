"""What the tests of the design dataset share: a cube, pictures, and things of every domain."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image

from unirank_jax.datasets import (
    design,
    emoji,
    furniture_views,
    graded,
    icons,
    pictures,
)
from unirank_jax.datasets.graded import Thing, item_maker
from unirank_jax.datasets.records import split_of

CUBE = """\
o wooden_Box.001
usemtl darkOak
v -1 -1 -1
v 1 -1 -1
v 1 1 -1
v -1 1 -1
v -1 -1 1
v 1 -1 1
v 1 1 1
v -1 1 1
f 1/1 2/2 3/3 4/4
f 5 6 7 8
f 1 2 6 5
f 4 3 7 8
f 1 4 8 5
f -7 -6 -2 -3
"""


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("L"))


@cache
def dot(number: int) -> bytes:
    """A picture that differs from number to number, in a place of its own."""
    image = np.full((112, 112), 255, np.uint8)
    row, column = divmod(number * 37 % 28**2, 28)
    image[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] = 0
    for bit in range(20):
        image[111, 5 * bit : 5 * bit + 4] = 0 if number >> bit & 1 else 255
    return pictures.grey_png(image)


def made_up_things(domain: str, count: int = 60, split: str = "test") -> list[Thing]:
    """Things of a domain with all kinds of items, four to a family, all in one split."""
    things, number, place = [], 0, 0
    while len(things) < count:
        number += 1
        split_id = f"{domain} {number}"
        if split_of(split_id) != split:
            continue
        item = item_maker(f"{domain[0]}{number}", f"family {len(things) // 4}", split_id)
        kinds = {
            "furniture": tuple(furniture_views.VIEWS),
            "emoji": tuple(emoji.VENDORS),
            "icon": tuple(icons.VENDORS),
            "clipart": ("picture",),
        }[domain]
        texts = {
            "furniture": ("card", "description"),
            "emoji": ("label", "tags"),
            "icon": ("name", "tags"),
            "clipart": ("title", "keywords"),
        }[domain]
        origin = ("made up", "MIT")
        items = []
        for kind in kinds:
            place += 1
            items.append(item(kind, origin, dot(place)))
            items.append(item(f"{kind}+{texts[0]}", origin, dot(place), f"c {number}"))
            items.append(item(f"{kind}+{texts[1]}", origin, dot(place), f"d {number}"))
        items += [item(kind, origin, f"{domain} {kind} {number}") for kind in texts]
        things.append(
            Thing(
                unit_id=f"{domain[0]}{number}",
                family=f"family {len(things) // 4}",
                split_id=split_id,
                items={one.kind: one for one in items},
                labels=frozenset({f"label {len(things) // 2}"}),
                category=f"category {len(things) // 12}",
                asks={x: f"{x} {number}" for x in ("title", "title-de", "label-de")},
            )
        )
    return things


def lists_of(domain: str, things: list[Thing]):
    (near, most), (far, more) = design.STEPS[domain]
    nearest = graded.neighbours_by(
        things, ((near, lambda x: x.family, most), (far, lambda x: x.category, more))
    )
    return list(
        graded.make_graded_lists(domain, "Find it.", things, design.DRAFTS[domain], nearest)
    )

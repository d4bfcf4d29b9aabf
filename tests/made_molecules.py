"""Made-up molecules with pictures, and a small dataset of them, for the tests of datasets."""

from __future__ import annotations

import io

from PIL import Image

from unirank_jax.datasets import molecules, sci
from unirank_jax.datasets.lists import (
    Unit,
    by_kind,
    make_lists,
    molecule_neighbours,
)
from unirank_jax.datasets.molecules import Molecule
from unirank_jax.datasets.records import (
    split_of,
)
from unirank_jax.datasets.writer import write_dataset

LICENCES = {molecules.SOURCE: molecules.LICENCE}


def picture(number: int) -> bytes:
    """A small PNG that differs from number to number."""
    image = Image.new("L", (12 + number % 5, 9), number % 251)
    image.putpixel((0, 0), number // 251)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def skeletons(split: str, count: int) -> list[str]:
    """The first names S0, S1, ... that fall into the split."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        if split_of(f"S{number}") == split:
            found.append(f"S{number}")
        number += 1
    return found


def molecule_units(split: str, count: int) -> list[Unit]:
    """Made-up molecules, seven of each formula, every tenth pair with a common skeleton."""
    names = skeletons(split, count)
    units = []
    for number in range(count):
        skeleton = names[number - 1] if number % 10 == 1 else names[number]
        molecule = Molecule(
            number=f"{split}{number}",
            cas=f"{number}-00-0",
            formula=f"C{number // 7 + 3}H8",
            mass=40.0 + 12 * (number // 7),
            smiles="",
            skeleton=skeleton,
            name=f"{split} systematic name {number}",
            synonym=f"{split} trivial {number}",
        )
        items = by_kind(molecules.molecule_items(molecule, picture(number)))
        units.append(Unit(molecule.unit_id, molecule.formula, skeleton, items, molecule.mass))
    return units


def make_dataset(path, count=30):
    units = {split: molecule_units(split, count) for split in ("train", "test")}
    queries, lists = [], {}
    for split, members in units.items():
        made = list(
            make_lists(
                "molecule",
                "Find it.",
                sci.shares(sci.MOLECULE_KINDS, "open", split),
                members,
                molecule_neighbours(members),
            )
        )
        queries += [query for query, _ in made]
        lists[split] = [ranked for _, ranked in made]
    items = [item for split in units.values() for unit in split for item in unit.items.values()]
    meta = write_dataset(path, items, queries, lists, name="sci-open", licences=LICENCES)
    return items, queries, lists, meta

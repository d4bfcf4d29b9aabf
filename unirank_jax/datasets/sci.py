"""The `sci` dataset: molecules and captioned figures as units, and the lists built from them.

Every list has 20 candidates, half of them images, one or two relevant, all of one split.
Choices are made by hashes of ids, so the same sources give the same dataset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from unirank_jax.datasets import figures as figure_source
from unirank_jax.datasets import molecules as molecule_source
from unirank_jax.datasets import stand_ins
from unirank_jax.datasets.dataset import Dataset, SourceError
from unirank_jax.datasets.figures import Figure
from unirank_jax.datasets.lists import (
    ListKind,
    Unit,
    by_kind,
    figure_neighbours,
    make_lists,
    molecule_neighbours,
    without_shared_content,
)
from unirank_jax.datasets.molecules import Molecule
from unirank_jax.datasets.records import SPLITS, Query, RankList, hash_number, split_of
from unirank_jax.datasets.sources import lock
from unirank_jax.datasets.writer import write_dataset

INSTRUCTIONS = {
    "molecule": "Given a compound, retrieve its structure drawing or its record.",
    "figure": "Given a description or a figure of a manual, retrieve what belongs to it.",
}
CHANGES = """\
What this data was made from, and what was changed.

Names, identifiers and structures of molecules: package chemicals, unchanged; a selection of its
table. The drawings were made from the structures, the sentences of the cards were added.
Figures, captions and passages: HTML manuals in the Debian packages named below. Figures were
scaled down onto a white square and compressed, texts were cut to 600 characters, figure numbers
were removed, and the title of the page was put before captions that occur several times.

"""
MIXED_QUESTION = "Which record gives the name and the CAS number of this compound?"

# The embedded sample: molecules per split (whole formula families first, so that lists find
# isomers), and which kinds of list a molecule of the split gets.
SAMPLE_MOLECULES = {"train": 3000, "valid": 400, "test": 1000}


MOLECULE_KINDS = (
    *(
        ListKind(
            name,
            asks="name",
            positives=positives,
            texts=("card",),
            images=("drawing",),
            one_in=1,
            sample_one_in=2,
        )
        for name, positives in (
            ("name->drawing", ("drawing",)),
            ("name->card", ("card",)),
            ("name->drawing+card", ("drawing", "card")),
        )
    ),
    ListKind(
        "drawing->name/card",
        asks="drawing",
        positives=("name", "card"),
        texts=("name", "card"),
        images=("drawing",),
        one_in=1,
        sample_one_in=2,
        either=True,
    ),
    ListKind(
        "name->mixed",
        asks="name",
        positives=("mixed",),
        texts=("card",),
        images=("drawing", "mixed"),
        one_in=1,
        sample_one_in=2,
    ),
    ListKind(
        "drawing+question->card",
        asks="drawing",
        positives=("card",),
        texts=("card",),
        images=("drawing",),
        one_in=4,
        sample_one_in=8,
        question=MIXED_QUESTION,
    ),
)
FIGURE_KINDS = tuple(
    ListKind(
        name,
        asks=asks,
        positives=positives,
        texts=texts,
        images=("figure",),
        one_in=1,
        sample_one_in=1,
        either=either,
    )
    for name, asks, positives, texts, either in (
        ("caption->figure", "caption", ("figure",), ("caption", "passage"), False),
        ("caption->figure+passage", "caption", ("figure", "passage"), ("passage",), False),
        ("passage->figure", "passage", ("figure",), ("caption", "passage"), False),
        ("passage->figure+caption", "passage", ("figure", "caption"), ("caption",), False),
        ("figure->caption/passage", "figure", ("caption", "passage"), ("caption", "passage"), True),
    )
)


def build(scale: str, out: Path, raw: Path, processes: int, limit: int | None) -> dict[str, Any]:
    """Build the dataset folder `out` and return its meta.json.

    `scale` is "open" (everything that may be passed on) or "sample" (the embedded subset of
    it); `limit` keeps only that many molecules, for quick trials. Raises SourceError where a
    source or a system tool is missing.
    """
    figures = figure_source.read_figures(raw)
    molecules = molecule_source.read_molecules()[:limit]
    drawings = molecule_source.draw_molecules(molecules, processes)
    molecule_units = without_shared_content(molecule_units_of(molecules, drawings))
    figure_units = without_shared_content(
        [
            Unit(one.unit_id, one.page, one.page, by_kind(figure_source.figure_items(one)))
            for one in figures
        ]
    )
    if scale == "sample":
        molecule_units = choose_sample(molecule_units)
    units = molecule_units + figure_units
    queries: list[Query] = []
    lists: dict[str, list[RankList]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for domain, kinds, members, neighbours in (
            ("molecule", MOLECULE_KINDS, molecule_units, molecule_neighbours),
            ("figure", FIGURE_KINDS, figure_units, figure_neighbours),
        ):
            chosen = [unit for unit in members if split_of(unit.split_id) == split]
            instruction = INSTRUCTIONS[domain]
            for query, ranked in make_lists(
                domain, instruction, shares(kinds, scale, split), chosen, neighbours(chosen)
            ):
                queries.append(query)
                lists[split].append(ranked)
    items = [item for unit in units for item in unit.items.values()]
    licences = {item.source: item.licence for item in items}
    notices = licence_notices(raw)
    return write_dataset(
        out,
        items,
        queries,
        lists,
        name=f"sci-{scale}",
        licences=licences,
        extra_files={"LICENSES": notices},
        stand_in_texts=stand_ins.of_items(items, stand_in_texts(molecules, figures)),
    )


def add_stand_ins(path: Path, raw: Path) -> dict[str, Any]:
    """Write the stand-ins of a dataset that was built without them; returns its meta.json.

    Records and content hash stay. Raises SourceError and DatasetError as `build` does.
    """
    dataset = Dataset.open(path)
    molecules, figures = molecule_source.read_molecules(), figure_source.read_figures(raw)
    return stand_ins.add(dataset, stand_in_texts(molecules, figures))


def stand_in_texts(molecules: Sequence[Molecule], figures: Sequence[Figure]) -> dict[str, str]:
    """unit_id -> what stands for the image of a unit, where there is something."""
    of_molecules = {one.unit_id: molecule_source.stand_in_text(one) for one in molecules}
    found = {unit_id: text for unit_id, text in of_molecules.items() if text is not None}
    return figure_source.stand_in_texts(figures) | found


def molecule_units_of(
    molecules: Sequence[Molecule], drawings: Sequence[bytes | None]
) -> list[Unit]:
    """One unit per molecule that could be drawn."""
    units: list[Unit] = []
    for molecule, drawing in zip(molecules, drawings, strict=True):
        if drawing is None:
            continue
        items = by_kind(molecule_source.molecule_items(molecule, drawing))
        units.append(
            Unit(molecule.unit_id, molecule.formula, molecule.skeleton, items, molecule.mass)
        )
    return units


def choose_sample(units: Sequence[Unit]) -> list[Unit]:
    """The embedded part of the molecules: families with isomers first, in the order of a hash."""
    chosen: set[str] = set()
    for split, count in SAMPLE_MOLECULES.items():
        families: dict[str, list[Unit]] = defaultdict(list)
        for unit in units:
            if split_of(unit.split_id) == split:
                families[unit.family].append(unit)

        def order(family: str) -> tuple[bool, int]:
            return len(families[family]) < 4, hash_number("sample", family)  # noqa: B023

        picked: list[str] = []
        for family in sorted(families, key=order):
            picked += [unit.unit_id for unit in families[family][:24]]
        chosen.update(picked[:count])
    return [unit for unit in units if unit.unit_id in chosen]


def shares(kinds: Sequence[ListKind], scale: str, split: str) -> list[tuple[ListKind, int]]:
    """Each kind with N, where one unit in N gets such a list; held-out samples get them all."""
    if scale == "open":
        return [(kind, kind.one_in) for kind in kinds]
    return [(kind, kind.sample_one_in if split == "train" else 1) for kind in kinds]


def licence_notices(raw: Path) -> str:
    """The notices that must accompany the data: one section per source."""
    files = distribution("chemicals").files or []
    names = [file for file in files if file.name.upper().startswith("LICENSE")]
    if not names:
        raise SourceError("chemicals carries no licence file; reinstall it")
    sections = [("chemicals " + molecule_source.PINNED_VERSION, names[0].read_text())]
    sections += [
        (lock()[package.name].file, figure_source.licence_text(package, raw))
        for package in figure_source.PACKAGES
    ]
    rule = "=" * 78
    return CHANGES + "\n".join(
        f"{rule}\n{title}\n{rule}\n{text.strip()}\n" for title, text in sections
    )

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

from tqdm import tqdm

from unirank_jax.content import TextPart
from unirank_jax.datasets import figures as figure_source
from unirank_jax.datasets import molecules as molecule_source
from unirank_jax.datasets import stand_ins
from unirank_jax.datasets.arrayrecord import ArrayRecordDataset
from unirank_jax.datasets.articles import ARTICLES, FONTS, TOOLS, check_poppler, read_articles
from unirank_jax.datasets.dataset import Dataset, DatasetError, SourceError
from unirank_jax.datasets.figures import Figure, figure_items, unique_figures
from unirank_jax.datasets.finish import finish
from unirank_jax.datasets.likeness import Likeness
from unirank_jax.datasets.lists import (
    ListKind,
    Neighbours,
    Unit,
    by_kind,
    figure_neighbours,
    make_lists,
    molecule_neighbours,
    without_shared_content,
)
from unirank_jax.datasets.manuals import COPYLEFT, OPEN, read_manuals
from unirank_jax.datasets.molecules import Molecule
from unirank_jax.datasets.notices import notices
from unirank_jax.datasets.records import SPLITS, Query, RankList, hash_number, split_of
from unirank_jax.datasets.sources import preflight

SCALES = ("sample", "open", "full")
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
were removed, and a title of the page was put before captions that occur several times.

"""
FULL_CHANGES = """\
Figures, tables, captions and passages of the packages r-cran-*: cut out of the PDF articles that
they contain, drawn with the fonts of fonts-urw-base35 where an article brings none. References to
figures by number were removed from passages or replaced by words.
Packages under GPL, LGPL, GFDL and CC BY-SA: what is made from them may only be passed on under
these terms; the licence of every item is stored with it.

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

# In the full set: caption and figure as one candidate, and a figure with a question.
FULL_FIGURE_KINDS = (
    *FIGURE_KINDS,
    ListKind(
        "passage->both",
        asks="passage",
        positives=("both",),
        texts=("caption",),
        images=("figure", "both"),
        one_in=1,
        sample_one_in=1,
    ),
    ListKind(
        "figure+question->passage",
        asks="figure",
        positives=("passage",),
        texts=("caption", "passage"),
        images=("figure",),
        one_in=1,
        sample_one_in=1,
        question="Which passage explains this?",
    ),
)


def build(scale: str, out: Path, raw: Path, processes: int, limit: int | None) -> dict[str, Any]:
    """Build the dataset folder `out` and return its meta.json.

    `scale` is "full", "open" (the part that may be passed on freely) or "sample" (the embedded
    subset of it); `limit` keeps only that many molecules, for quick trials. Raises SourceError
    where a source or a system tool is missing.
    """
    figures = read_figures(scale, raw, processes)
    molecules = molecule_source.read_molecules()[:limit]
    drawings = molecule_source.draw_molecules(molecules, raw, processes)
    molecule_units = without_shared_content(molecule_units_of(molecules, drawings))
    figure_units = without_shared_content(figure_units_of(figures, with_both=scale == "full"))
    if scale == "sample":
        molecule_units = choose_sample(molecule_units)
    figure_kinds = FULL_FIGURE_KINDS if scale == "full" else FIGURE_KINDS
    queries: list[Query] = []
    lists: dict[str, list[RankList]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for domain, kinds, members in (
            ("molecule", MOLECULE_KINDS, molecule_units),
            ("figure", figure_kinds, figure_units),
        ):
            chosen = [unit for unit in members if split_of(unit.split_id) == split]
            nearest = neighbours_of(domain, scale, chosen)
            shown = tqdm(chosen, f"{domain} lists, {split}", unit=" units", mininterval=1, delay=2)
            for query, ranked in make_lists(
                domain, INSTRUCTIONS[domain], shares(kinds, scale, split), shown, nearest
            ):
                queries.append(query)
                lists[split].append(ranked)
    items = [item for unit in molecule_units + figure_units for item in unit.items.values()]
    texts = licence_notices(scale, raw)
    name, with_sheet = f"sci-{scale}", scale != "sample"
    by_unit = stand_in_texts(molecules, figures)
    return finish(name, out, items, queries, lists, texts, by_unit, with_sheet=with_sheet)


def read_figures(scale: str, raw: Path, processes: int) -> list[Figure]:
    """The figures of a scale, each image once; those of the open scale come first in the full.

    Raises SourceError where a package or a system tool is missing.
    """
    manuals = OPEN + COPYLEFT * (scale == "full")
    packages = [name for one in manuals for name in {one.name: 0, one.notice: 0}]
    if scale == "full":
        preflight([*packages, *ARTICLES, FONTS], raw, TOOLS)
        check_poppler()
    else:
        preflight(packages, raw)
    figures = unique_figures(read_manuals(OPEN, raw, processes))
    if scale != "full":
        return figures
    known = {figure.unit_id for figure in figures}
    more = unique_figures([*read_manuals(COPYLEFT, raw, processes), *read_articles(raw, processes)])
    return figures + [figure for figure in more if figure.unit_id not in known]


def figure_units_of(figures: Sequence[Figure], with_both: bool) -> list[Unit]:
    """One unit per figure; `with_both` gives it an item of figure and caption together."""
    return [
        Unit(one.unit_id, one.page, one.split_id, by_kind(figure_items(one, with_both)))
        for one in figures
    ]


def neighbours_of(domain: str, scale: str, units: Sequence[Unit]) -> Neighbours:
    """Where the negatives of units of one split come from."""
    if domain == "molecule":
        return molecule_neighbours(units)
    if scale != "full":
        return figure_neighbours(units)
    texts = {unit.unit_id: " ".join(_texts(unit)) for unit in units}
    sources = {unit.unit_id: unit.items["figure"].source for unit in units}
    return figure_neighbours(units, Likeness(texts, sources))


def _texts(unit: Unit) -> list[str]:
    items = [unit.items[kind] for kind in ("caption", "passage") if kind in unit.items]
    return [part.text for item in items for part in item.parts if isinstance(part, TextPart)]


def add_stand_ins(scale: str, path: Path, raw: Path, processes: int) -> dict[str, Any]:
    """Write the stand-ins of a dataset that was built without them; returns its meta.json.

    Records and content hash stay. Raises DatasetError where the dataset is not sci of that scale
    (the figures of another one would leave images without a text), and SourceError as `build`.
    """
    dataset = Dataset.open(path)
    name = dataset.meta["name"] if isinstance(dataset, ArrayRecordDataset) else "another format"
    if name != f"sci-{scale}":
        raise DatasetError(f"{path}: {name}, not sci-{scale}; give the --scale it was built with")
    figures, molecules = read_figures(scale, raw, processes), molecule_source.read_molecules()
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
    if scale != "sample":
        return [(kind, kind.one_in) for kind in kinds]
    return [(kind, kind.sample_one_in if split == "train" else 1) for kind in kinds]


def licence_notices(scale: str, raw: Path) -> str:
    """The notices that must accompany the data: one section per source."""
    files = distribution("chemicals").files or []
    names = [file for file in files if file.name.upper().startswith("LICENSE")]
    if not names:
        raise SourceError("chemicals carries no licence file; reinstall it")
    credits = {f"chemicals {molecule_source.PINNED_VERSION}": names[0].read_text()}
    packages = [package.notice for package in OPEN]
    if scale == "full":
        packages += [*(package.notice for package in COPYLEFT), *ARTICLES]
    return notices(CHANGES + FULL_CHANGES * (scale == "full"), packages, raw, credits)

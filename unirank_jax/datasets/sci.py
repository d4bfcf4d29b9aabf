"""The `sci` dataset: molecules and captioned figures as units, and the lists built from them.

Every list has 20 candidates, half of them images, one or two relevant, all of one split.
Choices are made by hashes of ids, so the same sources give the same dataset.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unirank_jax.content import ImagePart, Part, TextPart
from unirank_jax.datasets import figures as figure_source
from unirank_jax.datasets import molecules as molecule_source
from unirank_jax.datasets.arrayrecord import write_dataset
from unirank_jax.datasets.molecules import Molecule, hash_number
from unirank_jax.datasets.records import SPLITS, Item, Query, RankList, dup_id_of, split_of

LIST_LENGTH = 20
IMAGES_PER_LIST = 10
MAX_ISOMERS, MAX_NEAR, NEAR_WINDOW = 8, 5, 40
MAX_SAME_DOCUMENT = 8
INSTRUCTIONS = {
    "molecule": "Given a compound, retrieve its structure drawing or its record.",
    "figure": "Given a description or a figure of a manual, retrieve what belongs to it.",
}
MIXED_QUESTION = "Which record gives the name and the CAS number of this compound?"

# The embedded sample: molecules per split (whole formula families first, so that lists find
# isomers), and which kinds of list a molecule of the split gets.
SAMPLE_MOLECULES = {"train": 3000, "valid": 400, "test": 1000}


@dataclass(frozen=True)
class ListKind:
    """One type of query: the kind of the asking item and the kinds of the relevant ones.

    `either` means that one of `positives` is relevant, by hash, instead of all of them.
    `texts` are the kinds that text candidates of other units may have. The share of units
    that get such a list is one in `one_in`, in the full set and in the sample.
    """

    name: str
    asks: str
    positives: tuple[str, ...]
    texts: tuple[str, ...]
    images: tuple[str, ...]
    one_in: int
    sample_one_in: int
    either: bool = False
    question: str | None = None


MOLECULE_KINDS = (
    ListKind("name->drawing", "name", ("drawing",), ("card",), ("drawing",), 1, 2),
    ListKind("name->card", "name", ("card",), ("card",), ("drawing",), 1, 2),
    ListKind("name->drawing+card", "name", ("drawing", "card"), ("card",), ("drawing",), 1, 2),
    ListKind(
        "drawing->name/card",
        "drawing",
        ("name", "card"),
        ("name", "card"),
        ("drawing",),
        1,
        2,
        either=True,
    ),
    ListKind("name->mixed", "name", ("mixed",), ("card",), ("drawing", "mixed"), 1, 2),
    ListKind(
        "drawing+question->card",
        "drawing",
        ("card",),
        ("card",),
        ("drawing",),
        4,
        8,
        question=MIXED_QUESTION,
    ),
)
_FIGURE_TEXTS = ("caption", "passage")
FIGURE_KINDS = (
    ListKind("caption->figure", "caption", ("figure",), _FIGURE_TEXTS, ("figure",), 1, 1),
    ListKind(
        "caption->figure+passage", "caption", ("figure", "passage"), ("passage",), ("figure",), 1, 1
    ),
    ListKind("passage->figure", "passage", ("figure",), _FIGURE_TEXTS, ("figure",), 1, 1),
    ListKind(
        "passage->figure+caption", "passage", ("figure", "caption"), ("caption",), ("figure",), 1, 1
    ),
    ListKind(
        "figure->caption/passage",
        "figure",
        ("caption", "passage"),
        _FIGURE_TEXTS,
        ("figure",),
        1,
        1,
        either=True,
    ),
)


@dataclass
class Unit:
    """The items of one molecule or figure by kind, and where its hard negatives are."""

    unit_id: str
    family: str
    split_id: str
    items: dict[str, Item]
    mass: float = 0.0
    dup_ids: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.dup_ids = frozenset(item.dup_id for item in self.items.values())


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
            Unit(figure.unit_id, figure.page, figure.page, by_kind(figure_source.figure_items(figure)))
            for figure in figures
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
            for query, ranked in make_lists(domain, kinds, chosen, neighbours, scale == "sample"):
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
    )


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


def by_kind(items: Sequence[Item]) -> dict[str, Item]:
    """Items of one unit by their kind."""
    return {item.kind: item for item in items}


def without_shared_content(units: Sequence[Unit]) -> list[Unit]:
    """Drop what would show the same content in two splits: first come, first kept.

    A passage that two pages share is dropped alone; any other item takes its unit along.
    """
    owner: dict[str, str] = {}
    kept: list[Unit] = []
    for unit in units:
        split = split_of(unit.split_id)
        clashes = {
            kind
            for kind, item in unit.items.items()
            if owner.get(item.dup_id, split) != split
        }
        if clashes - {"passage"}:
            continue
        items = {kind: item for kind, item in unit.items.items() if kind not in clashes}
        for item in items.values():
            owner[item.dup_id] = split
        kept.append(Unit(unit.unit_id, unit.family, unit.split_id, items, unit.mass))
    return kept


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


Neighbours = Callable[[Unit, Sequence[Unit], random.Random], Iterator[tuple[str, Unit]]]


def make_lists(
    domain: str,
    kinds: Sequence[ListKind],
    units: Sequence[Unit],
    neighbours: Callable[[Sequence[Unit]], Callable[[Unit, random.Random], list[tuple[str, Unit]]]],
    sample: bool,
) -> Iterator[tuple[Query, RankList]]:
    """All lists of the units of one domain and one split, unit by unit."""
    nearest = neighbours(units)
    for unit in units:
        for kind in kinds:
            one_in = kind.sample_one_in if sample and split_of(unit.split_id) == "train" else None
            share = one_in or (kind.one_in if not sample else 1)
            if hash_number(unit.unit_id, kind.name, "share") % share:
                continue
            made = make_list(domain, kind, unit, nearest)
            if made is not None:
                yield made


def make_list(
    domain: str,
    kind: ListKind,
    unit: Unit,
    nearest: Callable[[Unit, random.Random], list[tuple[str, Unit]]],
) -> tuple[Query, RankList] | None:
    """One query with its list; None where the unit lacks an item that the kind needs."""
    available = [name for name in kind.positives if name in unit.items]
    if kind.asks not in unit.items or not available:
        return None
    if not kind.either and len(available) < len(kind.positives):
        return None
    qid = f"{unit.unit_id}:{kind.name}"
    rng = random.Random(hash_number("list", qid))
    if kind.either:
        available = [rng.choice(available)]
    asking = unit.items[kind.asks]
    parts: tuple[Part, ...] = asking.parts
    if kind.question is not None:
        parts = (*parts, TextPart(kind.question))
    chosen: list[tuple[Item, int, str]] = [(unit.items[x], 1, "positive") for x in available]
    taken = {item.dup_id for item in unit.items.values()}
    wanted = {True: IMAGES_PER_LIST, False: LIST_LENGTH - IMAGES_PER_LIST}
    for item, _, _ in chosen:
        wanted[item.modality != "text"] -= 1
    # Take neighbours in turn: the kind of each is drawn from the modality that still has room.
    for origin, other in nearest(unit, rng):
        if not any(wanted.values()):
            break
        if other.split_id == unit.split_id and domain == "molecule" or other.dup_ids & unit.dup_ids:
            continue
        image = rng.random() * sum(wanted.values()) < wanted[True]
        kinds = [name for name in (kind.images if image else kind.texts) if name in other.items]
        if not kinds:
            continue
        item = other.items[rng.choice(kinds)]
        if item.dup_id in taken:
            continue
        taken.add(item.dup_id)
        wanted[image] -= 1
        chosen.append((item, 0, origin))
    rng.shuffle(chosen)
    query = Query(
        qid=qid,
        parts=parts,
        instruction=INSTRUCTIONS[domain],
        domain=domain,
        kind=kind.name,
        unit_id=unit.unit_id,
        split_id=unit.split_id,
        dup_id=dup_id_of(*(p.source if isinstance(p, ImagePart) else p.text for p in parts)),  # type: ignore[arg-type]
    )
    return query, RankList(
        qid=qid,
        dids=tuple(item.did for item, _, _ in chosen),
        grades=tuple(grade for _, grade, _ in chosen),
        neg_types=tuple(origin for _, _, origin in chosen),
    )


def molecule_neighbours(
    units: Sequence[Unit],
) -> Callable[[Unit, random.Random], list[tuple[str, Unit]]]:
    """Isomers, then molecules of about the same mass, then any, for the units of one split."""
    families: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        families[unit.family].append(unit)
    by_mass = sorted(units, key=lambda unit: (unit.mass, unit.unit_id))
    masses = [unit.mass for unit in by_mass]

    def nearest(unit: Unit, rng: random.Random) -> list[tuple[str, Unit]]:
        isomers = [other for other in families[unit.family] if other.split_id != unit.split_id]
        middle = bisect_left(masses, unit.mass)
        window = by_mass[max(0, middle - NEAR_WINDOW) : middle + NEAR_WINDOW]
        near = [other for other in window if other.family != unit.family]
        near = rng.sample(near, min(MAX_NEAR, len(near)))
        anything = rng.sample(units, min(3 * LIST_LENGTH, len(units)))
        ordered = [("isomer", x) for x in rng.sample(isomers, min(MAX_ISOMERS, len(isomers)))]
        ordered += [("near", other) for other in near]
        ordered += [("random", other) for other in anything if other.family != unit.family]
        return ordered

    return nearest


def figure_neighbours(
    units: Sequence[Unit],
) -> Callable[[Unit, random.Random], list[tuple[str, Unit]]]:
    """Figures of the same document, then of other documents, for the units of one split."""
    families: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        families[unit.family].append(unit)

    def nearest(unit: Unit, rng: random.Random) -> list[tuple[str, Unit]]:
        same = [other for other in families[unit.family] if other.unit_id != unit.unit_id]
        same = rng.sample(same, min(MAX_SAME_DOCUMENT, len(same)))
        others = [other for other in units if other.family != unit.family]
        others = rng.sample(others, min(4 * LIST_LENGTH, len(others)))
        ordered = [("same_document", other) for other in same]
        return ordered + [("other_document", other) for other in others]

    return nearest


def licence_notices(raw: Path) -> str:
    """The notices that must accompany the data: one section per source."""
    from importlib.metadata import distribution

    files = distribution("chemicals").files or []
    names = [file for file in files if file.name.upper().startswith("LICENSE")]
    if not names:
        raise molecule_source.SourceError("chemicals carries no licence file; reinstall it")
    sections = [("chemicals " + molecule_source.PINNED_VERSION, names[0].read_text())]
    sections += [
        (package.archive, figure_source.licence_text(package, raw))
        for package in figure_source.PACKAGES
    ]
    return "\n".join(f"{'=' * 78}\n{title}\n{'=' * 78}\n{text.strip()}\n" for title, text in sections)

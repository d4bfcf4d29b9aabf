"""Ranked lists made from units: who asks, what is relevant, and which neighbours compete.

A unit is one object shown by several items (a molecule, a figure). Every choice is made by a
hash of ids, so the same units give the same lists.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from unirank_jax.content import ImagePart, Part, TextPart
from unirank_jax.datasets.likeness import Likeness
from unirank_jax.datasets.records import (
    Item,
    Query,
    RankList,
    dup_id_of,
    hash_number,
    split_of,
)

LIST_LENGTH = 20
IMAGES_PER_LIST = 10
MAX_ISOMERS, MAX_NEAR, NEAR_WINDOW = 8, 5, 40
MAX_SAME_DOCUMENT, MAX_SAME_PACKAGE = 8, 6


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


@dataclass(frozen=True)
class Unit:
    """The items of one molecule or figure by kind, and where its hard negatives are."""

    unit_id: str
    family: str
    split_id: str
    items: dict[str, Item]
    mass: float = 0.0

    @cached_property
    def dup_ids(self) -> frozenset[str]:
        """The content of all items; units that share some are never each other's negatives."""
        return frozenset(item.dup_id for item in self.items.values())


# For a unit, other units with the reason why they are chosen, the most wanted first.
Neighbours = Callable[[Unit, random.Random], list[tuple[str, Unit]]]


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
            kind for kind, item in unit.items.items() if owner.get(item.dup_id, split) != split
        }
        if clashes - {"passage"}:
            continue
        items = {kind: item for kind, item in unit.items.items() if kind not in clashes}
        for item in items.values():
            owner[item.dup_id] = split
        kept.append(Unit(unit.unit_id, unit.family, unit.split_id, items, unit.mass))
    return kept


def make_lists(
    domain: str,
    instruction: str,
    shares: Sequence[tuple[ListKind, int]],
    units: Sequence[Unit],
    nearest: Neighbours,
) -> Iterator[tuple[Query, RankList]]:
    """All lists of the units of one domain and one split, unit by unit.

    `shares` pairs a kind with N: one unit in N gets such a list, by hash.
    """
    for unit in units:
        for kind, one_in in shares:
            if hash_number(unit.unit_id, kind.name, "share") % one_in:
                continue
            made = make_list(domain, instruction, kind, unit, nearest)
            if made is not None:
                yield made


def make_list(
    domain: str,
    instruction: str,
    kind: ListKind,
    unit: Unit,
    nearest: Neighbours,
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
    wanted = room(kind)
    wanted.subtract(item.kind for item, _, _ in chosen)
    add_negatives(chosen, wanted, taken, unit, nearest(unit, rng), rng)
    rng.shuffle(chosen)
    query = Query(
        qid=qid,
        parts=parts,
        instruction=instruction,
        domain=domain,
        kind=kind.name,
        unit_id=unit.unit_id,
        split_id=unit.split_id,
        dup_id=dup_id_of(*contents_of(parts)),
    )
    return query, rank_list(qid, chosen)


def rank_list(qid: str, chosen: Sequence[tuple[Item, int, str]]) -> RankList:
    """A list from items with grade and origin, in their order."""
    dids, grades, origins = zip(*((i.did, g, o) for i, g, o in chosen), strict=True)
    return RankList(qid, dids, grades, origins)


def add_negatives(
    chosen: list[tuple[Item, int, str]],
    wanted: Counter[str],
    taken: set[str],
    unit: Unit,
    neighbours: Iterable[tuple[str, Unit]],
    rng: random.Random,
) -> None:
    """Append candidates of other units to `chosen` until no kind is wanted any more.

    Neighbours are taken in turn: the kind of each is drawn from those that still have room, and
    a neighbour that lacks it is passed over, so that no kind gives the answer away by being
    rare. `taken` holds the contents (dup_id) that may not come (again).
    """
    for origin, other in neighbours:
        if other.dup_ids & unit.dup_ids:
            continue
        left = [name for name, count in wanted.items() for _ in range(count)]
        if not left:
            break
        name = rng.choice(left)
        item = other.items.get(name)
        if item is None or item.dup_id in taken:
            continue
        taken.add(item.dup_id)
        wanted[name] -= 1
        chosen.append((item, 0, origin))


def room(kind: ListKind) -> Counter[str]:
    """How many candidates of each kind a list has: half of them images, both halves even."""
    texts = even(*kind.texts, length=LIST_LENGTH - IMAGES_PER_LIST)
    return Counter(even(*kind.images, length=IMAGES_PER_LIST) | texts)


def even(*kinds: str, length: int = LIST_LENGTH) -> dict[str, int]:
    """Places shared out evenly among kinds, so that none of them gives the answer away."""
    return {
        kind: length // len(kinds) + (place < length % len(kinds))
        for place, kind in enumerate(kinds)
    }


def molecule_neighbours(units: Sequence[Unit]) -> Neighbours:
    """Isomers, then molecules of about the same mass, then any, for the units of one split.

    Molecules of the same skeleton are no negatives: stereoisomers are drawn almost alike.
    """
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
        return [pair for pair in ordered if pair[1].split_id != unit.split_id]

    return nearest


def figure_neighbours(units: Sequence[Unit], alike: Likeness | None = None) -> Neighbours:
    """Figures of the same document, then of other documents, for the units of one split.

    With `alike`, those of the same package whose texts are most alike come between the two.
    """
    families: dict[str, list[Unit]] = defaultdict(list)
    by_id = {unit.unit_id: unit for unit in units}
    for unit in units:
        families[unit.family].append(unit)

    @lru_cache(maxsize=1)  # all lists of a unit are made in turn
    def outside(family: str) -> list[Unit]:
        return [other for other in units if other.family != family]

    def nearest(unit: Unit, rng: random.Random) -> list[tuple[str, Unit]]:
        same = [other for other in families[unit.family] if other.unit_id != unit.unit_id]
        same = rng.sample(same, min(MAX_SAME_DOCUMENT, len(same)))
        others = outside(unit.family)
        others = rng.sample(others, min(4 * LIST_LENGTH, len(others)))
        ordered = [("same_document", other) for other in same]
        if alike is not None:
            found = (by_id[name] for name in alike.nearest(unit.unit_id))
            near = [other for other in found if other.family != unit.family]
            ordered += [("same_package", other) for other in near[:MAX_SAME_PACKAGE]]
        return ordered + [("other_document", other) for other in others]

    return nearest


def contents_of(parts: Sequence[Part]) -> list[str | bytes]:
    """Texts and encoded images of stored parts."""
    contents: list[str | bytes] = []
    for part in parts:
        content = part.source if isinstance(part, ImagePart) else part.text
        if not isinstance(content, str | bytes):
            raise TypeError("an image to be stored must be encoded bytes")
        contents.append(content)
    return contents

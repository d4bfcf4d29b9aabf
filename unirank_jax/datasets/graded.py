"""Lists with grades, made from things that many items show: views, vendors, texts, languages.

`lists.ListKind` has one asking item and one grade; here a source drafts each query with its own
relevant items and says how many candidates of each kind there are. Choices are hashes of ids.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tqdm import tqdm

from unirank_jax.content import ImagePart, Part, TextPart, modality
from unirank_jax.datasets.lists import Unit, add_negatives, contents_of, even, rank_list
from unirank_jax.datasets.records import (
    Item,
    Query,
    RankList,
    dup_id_of,
    hash_number,
    split_of,
)

MAX_RANDOM = 4000  # neighbours tried at random for one list


@dataclass(frozen=True)
class Thing(Unit):
    """A unit with what its lists need: labels, a category, and texts that only ask.

    Things that share a label are no negatives of each other for queries in words. `asks` are
    texts by name (title, title in German, ...) that are queries and never candidates. `stand_in`
    is what stands for its drawings where texts only are seen ("": nothing).
    """

    labels: frozenset[str] = frozenset()
    category: str = ""
    asks: dict[str, str] = field(default_factory=dict)
    stand_in: str = ""


@dataclass(frozen=True)
class Draft:
    """One query before it has negatives.

    `relevant` pairs items of the thing itself with a grade (0: its wrong view would be one),
    `kinds` says how many candidates of each kind the list has, the relevant ones included.
    `by_words` keeps things with the same label out of the negatives.
    """

    kind: str
    parts: tuple[Part, ...]
    relevant: tuple[tuple[Item, int], ...]
    kinds: dict[str, int]
    by_words: bool = True
    rel_min: int = 1


# Drafts of the queries about one thing; the generator depends on the thing's id alone.
Drafter = Callable[[Thing, random.Random], Iterator[Draft]]
# For a thing, other things with the reason why they are chosen, the most wanted first.
Nearest = Callable[[Thing, random.Random], Iterator[tuple[str, Thing]]]


class ItemMaker(Protocol):
    """Makes items of one unit: kind, (source, licence), and texts or encoded images."""

    def __call__(self, kind: str, origin: tuple[str, str], *contents: str | bytes) -> Item: ...


def item_maker(unit_id: str, family: str, split_id: str) -> ItemMaker:
    """A maker of the items of one unit; an item's id is the unit's id, a dot and its kind."""

    def make(kind: str, origin: tuple[str, str], *contents: str | bytes) -> Item:
        parts = tuple(TextPart(x) if isinstance(x, str) else ImagePart(x) for x in contents)
        return Item(
            did=f"{unit_id}.{kind}",
            parts=parts,
            modality=modality(parts),
            unit_id=unit_id,
            family=family,
            kind=kind,
            split_id=split_id,
            dup_id=dup_id_of(*contents),
            source=origin[0],
            licence=origin[1],
        )

    return make


def one_of(
    thing: Thing,
    rng: random.Random,
    kind: str,
    parts: tuple[Part, ...],
    names: Sequence[str],
    by_words: bool = True,
) -> Draft:
    """A draft with one relevant item, whose kind is drawn from `names`; all are equally common."""
    chosen = thing.items[rng.choice(names)]
    return Draft(kind, parts, ((chosen, 1),), even(*shuffled(names, rng)), by_words)


def all_of(
    thing: Thing,
    rng: random.Random,
    kind: str,
    parts: tuple[Part, ...],
    names: Sequence[str],
    by_words: bool = True,
) -> Draft:
    """A draft with one relevant item of each kind in `names`; all are equally common."""
    relevant = tuple((thing.items[name], 1) for name in names)
    return Draft(kind, parts, relevant, even(*shuffled(names, rng)), by_words)


def shuffled(names: Sequence[str], rng: random.Random) -> list[str]:
    """A copy in random order."""
    return rng.sample(list(names), len(names))


def make_graded_lists(
    domain: str, instruction: str, things: Sequence[Thing], drafts: Drafter, nearest: Nearest
) -> Iterator[tuple[Query, RankList]]:
    """The lists of all things of one domain and one split; lists that stay short are left out."""
    for thing in tqdm(things, desc=f"{domain} lists", unit=" things", mininterval=1.0):
        rng = random.Random(hash_number("drafts", thing.unit_id))
        for draft in drafts(thing, rng):
            made = complete(domain, instruction, thing, draft, nearest)
            if made is not None:
                yield made


def complete(
    domain: str, instruction: str, thing: Thing, draft: Draft, nearest: Nearest
) -> tuple[Query, RankList] | None:
    """The query of a draft and its list with negatives; None where there are not enough of them."""
    qid = f"{thing.unit_id}:{draft.kind}"
    rng = random.Random(hash_number("list", qid))
    query = Query(
        qid=qid,
        parts=draft.parts,
        instruction=instruction,
        domain=domain,
        kind=draft.kind,
        unit_id=thing.unit_id,
        split_id=thing.split_id,
        dup_id=dup_id_of(*contents_of(draft.parts)),
        rel_min=draft.rel_min,
    )
    chosen = [
        (item, grade, "positive" if grade >= draft.rel_min else "wrong_view")
        for item, grade in draft.relevant
    ]
    wanted = Counter(draft.kinds)
    wanted.subtract(item.kind for item, _, _ in chosen)
    taken = {item.dup_id for item in thing.items.values()} | {query.dup_id}
    neighbours = (
        (origin, other)
        for origin, other in nearest(thing, rng)
        if not (draft.by_words and other.labels & thing.labels)
    )
    add_negatives(chosen, wanted, taken, thing, neighbours, rng)
    if any(wanted.values()):
        return None
    rng.shuffle(chosen)
    return query, rank_list(qid, chosen)


def neighbours_by(
    things: Sequence[Thing], steps: Sequence[tuple[str, Callable[[Thing], str], int]]
) -> Nearest:
    """Neighbours that share something, step by step, then any; for the things of one split.

    A step is the origin to record, what must be equal (empty: nothing to share), and how many
    are taken at most. No thing comes twice.
    """
    tables: list[dict[str, list[Thing]]] = []
    for _, key, _ in steps:
        table: dict[str, list[Thing]] = defaultdict(list)
        for thing in things:
            table[key(thing)].append(thing)
        tables.append(table)

    def nearest(thing: Thing, rng: random.Random) -> Iterator[tuple[str, Thing]]:
        seen = {thing.unit_id}
        for (origin, key, most), table in zip(steps, tables, strict=True):
            sharing = table[key(thing)] if key(thing) else []
            for other in _some(sharing, most + len(seen), rng):
                if other.unit_id not in seen and most > 0:
                    seen.add(other.unit_id)
                    most -= 1
                    yield origin, other
        for other in _some(things, MAX_RANDOM, rng):
            if other.unit_id not in seen:
                seen.add(other.unit_id)
                yield "random", other

    return nearest


def without_clashes(things: Iterable[Thing]) -> list[Thing]:
    """Drop items whose content another split has: first come, first kept."""
    owner: dict[str, str] = {}
    kept: list[Thing] = []
    for thing in things:
        split = split_of(thing.split_id)
        items = {
            kind: item
            for kind, item in thing.items.items()
            if owner.setdefault(item.dup_id, split) == split
        }
        kept.append(replace(thing, items=items))
    return kept


def chosen_by_hash(names: Iterable[str], limit: int | None) -> list[str]:
    """All names in order, or the `limit` first ones in the order of a hash."""
    ordered = sorted(names)
    if limit is None:
        return ordered
    return sorted(sorted(ordered, key=lambda name: hash_number("limit", name))[:limit])


def shares(thing: Thing, kind: str, one_in: int) -> bool:
    """Whether this thing is the one in `one_in` that gets a list of a kind, by hash."""
    return hash_number(thing.unit_id, kind, "share") % one_in == 0


def text_of(text: str) -> tuple[Part, ...]:
    """A query of one text."""
    return (TextPart(text),)


def _some(things: Sequence[Thing], count: int, rng: random.Random) -> Iterator[Any]:
    """Up to `count` different members in random order, lazily where there are many."""
    if len(things) <= 4 * count:
        yield from rng.sample(things, min(count, len(things)))
        return
    seen: set[int] = set()
    while len(seen) < count:
        place = rng.randrange(len(things))
        if place not in seen:
            seen.add(place)
            yield things[place]

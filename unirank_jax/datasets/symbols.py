"""The `symbols` dataset: line symbols of QElectroTech, held out for evaluation.

All of it is in the test split and none may be used for training, mining or tuning. Names,
translations and folders are real; the drawings are made from the elements' lines.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unirank_jax.datasets.finish import finish
from unirank_jax.datasets.graded import (
    Draft,
    Thing,
    all_of,
    chosen_by_hash,
    item_maker,
    make_graded_lists,
    neighbours_by,
    one_of,
    text_of,
)
from unirank_jax.datasets.labels import label_key, without_words, words
from unirank_jax.datasets.notices import notices
from unirank_jax.datasets.pictures import cached_pictures
from unirank_jax.datasets.records import hash_number, held_out_id
from unirank_jax.datasets.sources import cache_path, preflight, unpack
from unirank_jax.datasets.symbol_drawing import draw_symbol
from unirank_jax.datasets.xmltext import parse_xml

PACKAGE = "qelectrotech-data"
ORIGIN = (PACKAGE, "CC-BY-3.0")
DRAWING_VERSION = 1
INSTRUCTION = "Given a name or a drawing of a symbol, retrieve its drawing or its name."
SKIPPED = "manufacturers"  # folders of articles: names are order numbers
QUERY_LANGUAGES = ("de", "fr")
CARD_LANGUAGES = ("de", "fr", "es", "it", "nl")
MAX_NAME = 80
CHANGES = """\
What this data was made from, and what was changed.

Symbols: the elements in the Debian package qelectrotech-data, by the QElectroTech team
(https://qelectrotech.org), licence CC BY 3.0 (https://creativecommons.org/licenses/by/3.0/).
Their lines were drawn as small pictures without text and terminals; names and names of folders
are unchanged, a selection.

"""


@dataclass(frozen=True)
class Symbol:
    """One element: path, English name, names in other languages, English names of its folders."""

    path: str
    name: str
    names: dict[str, str]
    folders: tuple[str, ...]
    drawing: bytes

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


def build(out: Path, raw: Path, processes: int, limit: int | None) -> dict[str, Any]:
    """Build the dataset folder `out` and return its meta.json; `limit`: so many symbols at most.

    Raises SourceError where the package or a system tool is missing.
    """
    preflight([PACKAGE], raw)
    symbols = {symbol.path: symbol for symbol in read_symbols(raw, processes)}
    chosen = [symbols[path] for path in chosen_by_hash(symbols, limit)]
    things = symbol_things(chosen)
    nearest = neighbours_by(
        things,
        (
            ("same_folder", lambda thing: thing.family, 8),
            ("same_section", lambda thing: thing.category, 5),
        ),
    )
    made = list(make_graded_lists("symbol", INSTRUCTION, things, symbol_drafts, nearest))
    queries = [query for query, _ in made]
    lists = {"train": [], "valid": [], "test": [ranked for _, ranked in made]}
    items = [item for thing in things for item in thing.items.values()]
    texts = {thing.unit_id: thing.stand_in for thing in things}
    licences = notices(CHANGES, [PACKAGE], raw)
    return finish("symbols", out, items, queries, lists, licences, texts)


def read_symbols(raw: Path, processes: int) -> list[Symbol]:
    """The elements with an English name that can be drawn, without manufacturers' articles."""
    root = unpack(PACKAGE, raw) / "usr/share/qelectrotech/elements"
    files = {
        path.relative_to(root).as_posix(): str(path)
        for path in sorted(root.rglob("*.elmt"))
        if SKIPPED not in path.relative_to(root).as_posix()
    }
    cache = cache_path(PACKAGE, raw, "symbols", DRAWING_VERSION)
    read = cached_pictures(cache, files, read_element, processes)
    titles: dict[Path, str] = {}
    symbols: list[Symbol] = []
    for path, element in read.items():
        if element is None:
            continue
        parents = [root / parent for parent in reversed(Path(path).parents[:-1])]
        for parent in parents:
            if parent not in titles:
                titles[parent] = folder_title(parent)
        names = dict(element["names"])
        symbols.append(
            Symbol(
                path=path,
                name=names.pop("en"),
                names=names,
                folders=tuple(titles[parent] for parent in parents),
                drawing=element["drawing"],
            )
        )
    return symbols


def read_element(path: str) -> dict[str, Any] | None:
    """Names by language and the drawing of one file; None without English name or drawing."""
    try:
        root = parse_xml(Path(path).read_text(encoding="utf-8", errors="replace"))
        names = names_of(root)
        description = root.find("description")
        drawing = None if description is None else draw_symbol(description)
    except ValueError:
        return None
    if drawing is None or not label_key(names.get("en", "")) or len(names["en"]) > MAX_NAME:
        return None
    return {"names": names, "drawing": drawing}


def names_of(root: Any) -> dict[str, str]:
    """The names of an element or a folder by language, without empty ones."""
    names: dict[str, str] = {}
    for name in root.iterfind("names/name"):
        text = " ".join((name.text or "").split())
        if text:
            names.setdefault(name.get("lang", ""), text)
    return names


def folder_title(folder: Path) -> str:
    """The English name of a folder of elements, else the name of the folder itself."""
    try:
        text = (folder / "qet_directory").read_text(encoding="utf-8", errors="replace")
        title = names_of(parse_xml(text)).get("en")
    except (OSError, ValueError):
        title = None
    return title or " ".join(words(folder.name))


def symbol_things(symbols: Sequence[Symbol]) -> list[Thing]:
    """One thing per symbol; the first one of each name also carries the queries by name."""
    seen: set[str] = set()
    things: list[Thing] = []
    for symbol in symbols:
        key = label_key(symbol.name)
        things.append(symbol_thing(symbol, first=key not in seen))
        seen.add(key)
    return things


def symbol_thing(symbol: Symbol, first: bool) -> Thing:
    """The drawing, the English name, and a card of folder and translations where there are any."""
    unit_id = f"s{hash_number('symbol', symbol.path) % 16**10:010x}"
    family = f"symbol: {symbol.folder}"
    split_id = held_out_id(symbol.path)
    item = item_maker(unit_id, family, split_id)
    key = label_key(symbol.name)
    others = {code: x for code, x in symbol.names.items() if label_key(x) not in ("", key)}
    items = [item("drawing", ORIGIN, symbol.drawing), item("name", ORIGIN, symbol.name)]
    known = [others[code] for code in CARD_LANGUAGES if code in others]
    if known:
        card = f"{symbol.folders[-1]}. {', '.join(dict.fromkeys(known))}."
        items.append(item("card", ORIGIN, card))
        items.append(item("drawing+card", ORIGIN, symbol.drawing, card))
    asks = {f"name-{code}": others[code] for code in QUERY_LANGUAGES if code in others}
    return Thing(
        unit_id=unit_id,
        family=family,
        split_id=split_id,
        items={one.kind: one for one in items},
        labels=frozenset({key}),
        category="/".join(symbol.path.split("/")[:2]),
        asks=asks | {"name": symbol.name} if first else {},
        stand_in=stand_in_text(symbol),
    )


def stand_in_text(symbol: Symbol) -> str:
    """The titles of the folders that a symbol lies in, without words of its names."""
    asked = " ".join([symbol.name, *symbol.names.values()])
    return ", ".join(without_words(symbol.folders, asked))


def symbol_drafts(thing: Thing, rng: random.Random) -> Iterator[Draft]:
    """One query per distinct name and language, and one per drawing."""
    card = "card" in thing.items
    drawing, name = thing.items["drawing"].parts, thing.items["name"].parts
    yield one_of(thing, rng, "drawing->name", drawing, ["name"])
    if "name" in thing.asks:
        yield one_of(thing, rng, "name->drawing", name, ["drawing"])
    if "name" in thing.asks and card:
        yield all_of(thing, rng, "name->drawing+card", name, ["drawing", "card"])
        forms = ["drawing", "card", "drawing+card"]
        yield one_of(thing, rng, "name->drawing/card/both", name, forms)
    for code in QUERY_LANGUAGES:
        if f"name-{code}" in thing.asks:
            asked = text_of(thing.asks[f"name-{code}"])
            yield one_of(thing, rng, f"name-{code}->drawing/name", asked, ["drawing", "name"])
    if "name-de" in thing.asks:
        both = (*drawing, *text_of(thing.asks["name-de"]))
        yield one_of(thing, rng, "drawing+name-de->name", both, ["name"])

"""Icons of six vendors: drawings with names, and with tags where the vendor gives some.

Icons of the same name (apart from the order of its words and words of style) are one thing.
Brand icons are left out: they are trademarks.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unirank_jax.content import TextPart
from unirank_jax.datasets.emoji import iconify_svg
from unirank_jax.datasets.graded import Thing, item_maker
from unirank_jax.datasets.labels import label_key, without_words, words
from unirank_jax.datasets.pictures import cached_pictures, draw_svg
from unirank_jax.datasets.records import Item, hash_number
from unirank_jax.datasets.sources import cache_path, unpack

DRAWING_VERSION = 1
# Vendor -> package and licence; the order decides whose name and tags a thing has.
VENDORS = {
    "tabler": ("@tabler/icons", "MIT"),
    "lucide": ("lucide-static", "ISC"),
    "phosphor": ("@phosphor-icons/core", "MIT"),
    "mdi": ("@mdi/svg", "Apache-2.0"),
    "health": ("healthicons", "MIT"),
    "game": ("@iconify-json/game-icons", "CC-BY-3.0"),
}
PACKAGES = tuple(package for package, _ in VENDORS.values())
MIN_TAGS, MAX_TAGS = 3, 8
_PHOSPHOR = re.compile(
    r'name:\s*"([^"]+)",\s*pascal_name:[^{}]*?categories:\s*\[([^\]]*)\]'
    r"[^{}]*?tags:\s*\[([^\]]*)\]"
)


@dataclass(frozen=True)
class Icon:
    """One icon of a vendor; `place` is the file (relative to its package) or the name in it."""

    vendor: str
    name: str
    tags: tuple[str, ...]
    category: str
    place: str

    @property
    def key(self) -> str:
        return label_key(self.name)

    @property
    def head(self) -> str:
        """The first word of the name: icons that begin alike share a split."""
        return "icon:" + words(self.name)[0]


def read_icons(raw: Path) -> list[Icon]:
    """The icons of all vendors but brands; of each vendor the first one per key."""
    found: dict[tuple[str, str], Icon] = {}
    for vendor, (package, _) in VENDORS.items():
        for icon in sorted(READERS[vendor](unpack(package, raw)), key=lambda one: len(one.name)):
            if icon.key:
                found.setdefault((vendor, icon.key), icon)
    return list(found.values())


def draw_icons(icons: Sequence[Icon], raw: Path, processes: int) -> dict[tuple[str, str], bytes]:
    """(vendor, key) -> PNG; icons that cannot be drawn are left out."""
    drawn: dict[tuple[str, str], bytes] = {}
    for vendor, (package, _) in VENDORS.items():
        folder = unpack(package, raw)
        chosen = {icon.place: icon for icon in icons if icon.vendor == vendor}
        wanted: dict[str, str] = {}
        table = _json(folder / "icons.json") if vendor == "game" else {}
        for place in chosen:
            svg = iconify_svg(table, place) if vendor == "game" else _read(folder / place)
            if svg is not None:
                wanted[place] = svg
        cache = cache_path(package, raw, f"icons-{vendor}", DRAWING_VERSION)
        for place, picture in cached_pictures(cache, wanted, draw_svg, processes).items():
            if picture is not None:
                drawn[vendor, chosen[place].key] = picture
    return drawn


def same_names(icons: Sequence[Icon]) -> dict[str, dict[str, Icon]]:
    """Key -> vendor -> icon, for all vendors."""
    table: dict[str, dict[str, Icon]] = defaultdict(dict)
    for icon in icons:
        table[icon.key][icon.vendor] = icon
    return dict(table)


def icon_thing(
    key: str, icons: Mapping[str, Icon], drawn: Mapping[tuple[str, str], bytes], split_id: str
) -> Thing | None:
    """The drawings and texts of one name; None where no vendor's icon could be drawn.

    `tags` are those of the first vendor that has at least MIN_TAGS without words of the name.
    """
    unit_id = f"i{hash_number('icon', key) % 16**10:010x}"
    present = [vendor for vendor in VENDORS if (vendor, key) in drawn and vendor in icons]
    if not present:
        return None
    first = icons[present[0]]
    family = f"icon: {words(first.name)[0]}"
    item = item_maker(unit_id, family, split_id)
    items = [item(vendor, VENDORS[vendor], drawn[vendor, key]) for vendor in present]
    items.append(item("name", VENDORS[present[0]], " ".join(words(first.name))))
    for vendor in present:
        tags = without_words(icons[vendor].tags, first.name)
        if len(tags) >= MIN_TAGS:
            text = ", ".join(tags[:MAX_TAGS]).lower()
            items.append(item("tags", VENDORS[vendor], text))
            items.append(item(f"{vendor}+tags", VENDORS[vendor], drawn[vendor, key], text))
            break
    return Thing(
        unit_id=unit_id,
        family=family,
        split_id=split_id,
        items={one.kind: one for one in items},
        labels=frozenset({key}),
        category=next((icons[vendor].category for vendor in present if icons[vendor].category), ""),
        stand_in=stand_in_text([icons[vendor] for vendor in present], items),
    )


def stand_in_text(icons: Sequence[Icon], items: Sequence[Item]) -> str:
    """Categories and tags that are in no text of the thing: what other vendors than its own say."""
    told = " ".join(p.text for item in items for p in item.parts if isinstance(p, TextPart))
    known = [icon.category for icon in icons] + [tag for icon in icons for tag in icon.tags]
    return ", ".join(without_words(known, told)[:MAX_TAGS]).lower()


def _tabler(folder: Path) -> Iterator[Icon]:
    for name, entry in _json(folder / "icons.json").items():
        if entry["category"] != "Brand" and "outline" in entry["styles"]:
            tags = tuple(str(tag) for tag in entry["tags"])
            yield Icon("tabler", name, tags, entry["category"], f"icons/outline/{name}.svg")


def _lucide(folder: Path) -> Iterator[Icon]:
    for name, tags in _json(folder / "tags.json").items():
        yield Icon("lucide", name, tuple(tags), "", f"icons/{name}.svg")


def _phosphor(folder: Path) -> Iterator[Icon]:
    for found in _PHOSPHOR.finditer(_read(folder / "dist/index.mjs") or ""):
        if "BRAND" in found[2] or found[1].endswith("-logo"):
            continue
        tags = tuple(tag for tag in re.findall(r'"([^"]+)"', found[3]) if "*" not in tag)
        categories = re.findall(r"\.(\w+)", found[2])
        category = categories[0].lower() if categories else ""
        yield Icon("phosphor", found[1], tags, category, f"assets/regular/{found[1]}.svg")


def _mdi(folder: Path) -> Iterator[Icon]:
    for entry in _json(folder / "meta.json"):
        if not entry["deprecated"] and "Brand / Logo" not in entry["tags"]:
            category = entry["tags"][0] if entry["tags"] else ""
            tags = (*entry["aliases"], *entry["tags"])
            yield Icon("mdi", entry["name"], tags, category, f"svg/{entry['name']}.svg")


def _health(folder: Path) -> Iterator[Icon]:
    for entry in _json(folder / "public/icons/meta-data.json"):
        tags = tuple(tag for tag in entry["tags"] if ":" not in tag)
        place = f"public/icons/svg/outline/{entry['path']}.svg"
        yield Icon("health", entry["title"], tags, entry["category"], place)


def _game(folder: Path) -> Iterator[Icon]:
    for name in _json(folder / "icons.json")["icons"]:
        yield Icon("game", name, (), "", name)


READERS = {
    "tabler": _tabler,
    "lucide": _lucide,
    "phosphor": _phosphor,
    "mdi": _mdi,
    "health": _health,
    "game": _game,
}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None

"""Emoji: the same concept drawn by several vendors, with names and tags in several languages.

Names and tags are those of Unicode's CLDR as packed by emojibase; drawings are the vendors',
made smaller and reduced to 16 colours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unirank_jax.datasets.graded import Thing, item_maker
from unirank_jax.datasets.labels import label_key, without_words, words
from unirank_jax.datasets.pictures import cached_pictures, draw_svg
from unirank_jax.datasets.sources import cache_path, unpack

TEXTS = "emojibase-data"
LANGUAGES = ("de", "fr", "es", "it")
DRAWING_VERSION = 1
# Vendor -> package and licence of its drawings. `openmoji-line` holds the lines of `openmoji`.
VENDORS = {
    "openmoji-line": ("openmoji", "CC-BY-SA-4.0"),
    "openmoji": ("openmoji", "CC-BY-SA-4.0"),
    "twemoji": ("@twemoji/svg", "CC-BY-4.0"),
    "noto": ("@iconify-json/noto", "Apache-2.0"),
    "fluent": ("@iconify-json/fluent-emoji-flat", "MIT"),
    "fluent-line": ("@iconify-json/fluent-emoji-high-contrast", "MIT"),
}
PACKAGES = (TEXTS, *sorted({package for package, _ in VENDORS.values()}))
SKIPPED_GROUPS = {"flags", "component", "extras-openmoji", "extras-unicode"}
# Emoji that differ in these words alone must share a split.
PEOPLE = frozenset("man men woman women person people boy girl male female".split())
MIN_TAGS, MAX_TAGS = 2, 8


@dataclass(frozen=True)
class Concept:
    """One emoji: code points, English name and tags, group, subgroup, names in other languages.

    `other_tags` are those of the vendor OpenMoji.
    """

    code: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    names: dict[str, str]
    other_tags: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return label_key(self.label)

    @property
    def head(self) -> str:
        """What is left of the name without words for people: the group that shares a split."""
        return "emoji:" + (" ".join(w for w in words(self.label) if w not in PEOPLE) or self.label)


def read_concepts(raw: Path) -> list[Concept]:
    """All emoji without skin tones, flags and parts. Raises SourceError where a package lacks."""
    texts, drawn = unpack(TEXTS, raw), unpack("openmoji", raw)
    english = _by_code(_json(texts / "en/data.json"))
    others = {code: _by_code(_json(texts / code / "data.json")) for code in LANGUAGES}
    concepts: dict[str, Concept] = {}
    for entry in _json(drawn / "data/openmoji.json"):
        code = plain_code(entry["hexcode"])
        if entry["skintone"] or entry["group"] in SKIPPED_GROUPS or code not in english:
            continue
        label = english[code]["label"]
        translated = {name: table[code]["label"] for name, table in others.items() if code in table}
        concepts[code] = Concept(
            code=code,
            label=label,
            tags=tuple(english[code].get("tags", ())),
            group=entry["group"],
            subgroup=entry["subgroups"],
            names={x: y for x, y in translated.items() if label_key(y) != label_key(label)},
            other_tags=tuple(f"{entry['tags']},{entry['openmoji_tags']}".split(",")),
        )
    return [concepts[code] for code in sorted(concepts)]


def plain_code(code: str) -> str:
    """Code points in lower case without the variation selector FE0F: how vendors are joined."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def draw_concepts(
    concepts: Sequence[Concept], raw: Path, processes: int
) -> dict[str, dict[str, bytes]]:
    """Code -> vendor -> PNG, for every vendor that has the emoji."""
    drawn: dict[str, dict[str, bytes]] = {concept.code: {} for concept in concepts}
    for vendor, (package, _) in VENDORS.items():
        svgs = vendor_svgs(vendor, unpack(package, raw))
        wanted = {code: svgs[code] for code in drawn if code in svgs}
        cache = cache_path(package, raw, f"emoji-{vendor}", DRAWING_VERSION)
        for code, picture in cached_pictures(cache, wanted, draw_svg, processes).items():
            if picture is not None:
                drawn[code][vendor] = picture
    return drawn


def vendor_svgs(vendor: str, folder: Path) -> dict[str, str]:
    """Code -> SVG source of one vendor, from the unpacked package."""
    if vendor.startswith("openmoji"):
        files = sorted((folder / ("black" if "line" in vendor else "color") / "svg").glob("*.svg"))
        return {plain_code(path.stem): path.read_text("utf-8") for path in files}
    if vendor == "twemoji":
        return {plain_code(path.stem): path.read_text("utf-8") for path in folder.glob("*.svg")}
    icons, names = _json(folder / "icons.json"), _json(folder / "chars.json")
    found = {plain_code(code): iconify_svg(icons, name) for code, name in names.items()}
    return {code: svg for code, svg in found.items() if svg is not None}


def iconify_svg(icons: Mapping[str, Any], name: str) -> str | None:
    """One icon of an iconify package as SVG; None where it has no such icon.

    Format: `icons` name -> body (and size), `aliases` name -> parent, sizes of the set.
    """
    alias = icons.get("aliases", {}).get(name)
    icon = icons["icons"].get(alias["parent"] if alias is not None else name)
    if icon is None:
        return None
    width, height = (icon.get(name, icons.get(name, 16)) for name in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="{box}">{icon["body"]}</svg>'


def concept_thing(concept: Concept, drawings: Mapping[str, bytes], split_id: str) -> Thing:
    """The drawings, the name, the tags (without its words), and one drawing together with them."""
    unit_id = f"e{concept.code}"
    family = f"emoji: {concept.subgroup}"
    item = item_maker(unit_id, family, split_id)
    texts = (TEXTS, "MIT")
    items = [
        item(vendor, (package, licence), drawings[vendor])
        for vendor, (package, licence) in VENDORS.items()
        if vendor in drawings
    ]
    items.append(item("label", texts, concept.label))
    title = " ".join([concept.label, *concept.names.values()])
    telling = without_words(concept.tags, title)
    if len(telling) >= MIN_TAGS:
        tags = ", ".join(telling[:MAX_TAGS])
        items.append(item("tags", texts, tags))
        if "noto" in drawings:
            items.append(item("noto+tags", VENDORS["noto"], drawings["noto"], tags))
    return Thing(
        unit_id=unit_id,
        family=family,
        split_id=split_id,
        items={one.kind: one for one in items},
        labels=frozenset({concept.key}),
        category=concept.group,
        asks={f"label-{language}": name for language, name in concept.names.items()},
        stand_in=stand_in_text(concept),
    )


def stand_in_text(concept: Concept) -> str:
    """Groups and the other vendor's tags without the words of any query's text."""
    asked = " ".join([concept.label, *concept.names.values(), *concept.tags])
    known = (concept.group, concept.subgroup, *concept.other_tags)
    return ", ".join(without_words(known, asked)[:MAX_TAGS])


def _by_code(entries: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {plain_code(entry["hexcode"]): entry for entry in entries}


def _json(path: Path) -> Any:
    return json.loads(re.sub(r"^\ufeff", "", path.read_text(encoding="utf-8")))

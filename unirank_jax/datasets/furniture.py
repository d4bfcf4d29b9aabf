"""Furniture designs: the catalogues of Debian's sweethome3d-furniture and drawings of its models.

A catalogue is a zip file with one properties file per language and one OBJ model per design.
Names, tags, categories, sizes and part names are real; the drawings, the layout of the texts
and the sentence that asks for a view are ours.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unirank_jax.datasets.dataset import SourceError
from unirank_jax.datasets.furniture_views import draw_views, parse_obj
from unirank_jax.datasets.graded import Thing, item_maker
from unirank_jax.datasets.labels import label_key, without_words, words
from unirank_jax.datasets.pictures import cached_pictures
from unirank_jax.datasets.records import hash_number
from unirank_jax.datasets.sources import cache_path, unpack

PACKAGE = "sweethome3d-furniture"
DRAWING_VERSION = 1  # count up when the renderer draws differently: names the cache file
LIBRARIES = {
    "BlendSwap-CC-0": "CC0-1.0",
    "BlendSwap-CC-BY": "CC-BY-3.0",
    "KatorLegaz": "CC-BY-3.0-US",
    "Reallusion": "CC-BY-3.0-US",
    "Scopia": "CC-BY-3.0",
}
LANGUAGES = ("de", "fr", "es", "it")
MAX_PARTS = 6
MIN_INK = 220.0  # black pixels; a carpet from the side is one line, which shows nothing
VENDOR_TAGS = {"Blend Swap", "SCPTS", "Adjustable"}
# What 3-D programs call things by themselves says nothing about a part.
NO_PART = frozenset(
    "cube plane cylinder circle mesh material sphere none default group object sweethome hinge "
    "opening color colour texture shape curve path torus cone line face polygon curves".split()
)


@dataclass(frozen=True)
class Design:
    """One entry of a catalogue; `names` are translations, `size` is width, depth, height in cm."""

    library: str
    archive: Path
    key: str
    name: str
    names: dict[str, str]
    category: str
    tags: tuple[str, ...]
    size: tuple[float, float, float]
    creator: str
    model: str
    rotation: tuple[float, ...]

    @property
    def source(self) -> str:
        return f"{PACKAGE}/{self.library}"

    @property
    def measures(self) -> str:
        return " x ".join(f"{side:g}" for side in self.size) + " cm"


def read_designs(raw: Path) -> list[Design]:
    """All designs of all libraries, in the order of the catalogues.

    Raises SourceError where the package cannot be had or holds other libraries.
    """
    folder = unpack(PACKAGE, raw) / "usr/share/sweethome3d/furniture"
    paths = sorted(folder.glob("*.sh3f"))
    if [path.stem for path in paths] != sorted(LIBRARIES):
        raise SourceError(f"{folder}: not the libraries {', '.join(LIBRARIES)}; unpack it again")
    return [design for path in paths for design in read_catalogue(path)]


def read_catalogue(path: Path) -> list[Design]:
    """The designs of one .sh3f file. Raises SourceError where it is no such file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _numbered(archive.read("PluginFurnitureCatalog.properties"))
            translated = {
                language: _numbered(archive.read(f"PluginFurnitureCatalog_{language}.properties"))
                for language in LANGUAGES
                if f"PluginFurnitureCatalog_{language}.properties" in archive.namelist()
            }
    except (zipfile.BadZipFile, KeyError) as error:
        raise SourceError(f"{path}: no furniture catalogue ({error}); fetch it again") from None
    designs: list[Design] = []
    for number, entry in sorted(entries.items()):
        if "model" not in entry or "name" not in entry:
            continue
        names = {
            language: other[number]["name"]
            for language, other in translated.items()
            if label_key(other.get(number, {}).get("name", ""))
            not in ("", label_key(entry["name"]))
        }
        tags = [tag.strip() for tag in entry.get("tags", "").split(",")]
        designs.append(
            Design(
                library=path.stem,
                archive=path,
                key=entry.get("id", f"#{number}").partition("#")[2],
                name=entry["name"],
                names=names,
                category=entry.get("category", ""),
                tags=tuple(tag for tag in tags if tag and tag not in VENDOR_TAGS),
                size=(_number(entry, "width"), _number(entry, "depth"), _number(entry, "height")),
                creator=entry.get("creator", ""),
                model=entry["model"].lstrip("/"),
                rotation=tuple(float(x) for x in entry.get("modelRotation", "").split()),
            )
        )
    return designs


def parse_properties(data: bytes) -> dict[str, str]:
    """The entries of a Java properties file: Latin-1 with \\uXXXX, comments, continued lines."""
    text = re.sub(r"\\\r?\n[ \t]*", "", data.decode("latin-1"))
    entries: dict[str, str] = {}
    for line in text.splitlines():
        found = re.match(r"\s*([^#!\s=:][^\s=:]*)\s*[=:\s]\s*(.*)", line)
        if found is not None:
            value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), found[2])
            entries[found[1]] = re.sub(r"\\(.)", r"\1", value).strip()
    return entries


def draw_designs(
    designs: Sequence[Design], raw: Path, processes: int
) -> dict[str, dict[str, Any] | None]:
    """By source/key: the seven views as PNGs and the names of the parts; None: cannot be drawn."""
    cache = cache_path(PACKAGE, raw, "furniture", DRAWING_VERSION)
    jobs = {
        f"{one.source}/{one.key}": (str(one.archive), one.model, one.rotation) for one in designs
    }
    return cached_pictures(cache, jobs, draw_design, processes)


def draw_design(job: tuple[str, str, Sequence[float]]) -> dict[str, Any] | None:
    """Views and part names of one model; None where the file has no model that can be read."""
    path, model, numbers = job
    try:
        with zipfile.ZipFile(path) as archive:
            mesh = parse_obj(archive.read(model).decode("latin-1"))
    except (KeyError, ValueError, IndexError):
        return None
    turn = np.array(numbers, np.float64).reshape(3, 3) if len(numbers) == 9 else np.eye(3)
    return {"views": draw_views(mesh, turn), "names": list(mesh.names)}


def ink(png: bytes) -> float:
    """How much is drawn: the sum of the darkness of all pixels, black being 1."""
    with Image.open(io.BytesIO(png)) as image:
        return float((255 - np.asarray(image.convert("L"), np.float64)).sum() / 255)


def part_names(names: Iterable[str]) -> list[str]:
    """Words of group and material names that may name a part, without what programs add."""
    found: set[str] = set()
    for name in names:
        spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
        found.update(re.findall(r"[a-z]{4,}", spaced.lower()))
    return sorted(found - NO_PART)


def card_text(design: Design, parts: Sequence[str]) -> str:
    """Category, tags, parts and size: what is known of a design, without the words of its name."""
    title = " ".join([design.name, *design.names.values()])
    tags = without_words(design.tags, title)
    shown = without_words([part for part in parts if part not in words(" ".join(tags))], title)
    sentences = [*without_words([design.category], title)]
    if tags:
        sentences.append(", ".join(tags).lower())
    if shown:
        sentences.append("parts: " + ", ".join(shown[:MAX_PARTS]))
    sentences.append(design.measures)
    return ". ".join(sentences) + "."


def design_thing(design: Design, drawn: dict[str, Any]) -> Thing:
    """The views, the card, the description and view + card of a design as one Thing."""
    unit_id = f"d{hash_number(design.source, design.key) % 16**10:010x}"
    family = words(design.name)[-1] if words(design.name) else design.category.lower()
    item = item_maker(unit_id, f"furniture: {family}", f"{design.source}/{design.key}")
    origin = (design.source, LIBRARIES[design.library])
    card = card_text(design, part_names(drawn["names"]))
    views = {view: png for view, png in drawn["views"].items() if ink(png) >= MIN_INK}
    items = [item(view, origin, png) for view, png in views.items()]
    items += [item(f"{view}+card", origin, png, card) for view, png in views.items()]
    items.append(item("card", origin, card))
    items.append(item("description", origin, f"{design.name}. {card}"))
    return Thing(
        unit_id=unit_id,
        family=f"furniture: {family}",
        split_id=f"{design.source}/{design.key}",
        items={one.kind: one for one in items},
        labels=frozenset({label_key(design.name)}),
        category=design.category,
        asks={"title": design.name} | {f"title-{code}": x for code, x in design.names.items()},
        stand_in=stand_in_text(design),
    )


def stand_in_text(design: Design) -> str:
    """Category, without words of the name, and size; not the view, since that is asked for."""
    title = " ".join([design.name, *design.names.values()])
    return ". ".join([*without_words([design.category], title), design.measures])


def _numbered(data: bytes) -> dict[int, dict[str, str]]:
    entries: dict[int, dict[str, str]] = defaultdict(dict)
    for key, value in parse_properties(data).items():
        name, _, number = key.partition("#")
        if number.isdigit():
            entries[int(number)][name] = value
    return dict(entries)


def _number(entry: dict[str, str], name: str) -> float:
    return float(entry.get(name) or 0)

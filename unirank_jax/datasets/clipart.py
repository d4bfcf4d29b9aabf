"""Clip art: pictures of Debian's openclipart-svg with the titles and keywords stored in them.

Everything is in the public domain. Titles are noisy: digits at their end are dropped, and
pictures of shapes, icon themes and duplicates are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unirank_jax.datasets.graded import Thing, item_maker
from unirank_jax.datasets.labels import label_key, without_words, words
from unirank_jax.datasets.pictures import cached_pictures, draw_svg
from unirank_jax.datasets.records import hash_number
from unirank_jax.datasets.sources import cache_path, unpack
from unirank_jax.datasets.xmltext import local_name, parse_xml

PACKAGE = "openclipart-svg"
ORIGIN = (PACKAGE, "public-domain")
READ_VERSION = 1  # count up when texts are read differently
DRAWING_VERSION = 1
SKIPPED = ("shapes/", "computer/icons", "special/", "unsorted/dup", "logos/")
MAX_BYTES = 600_000
MAX_KEYWORDS = 8
MIN_KEYWORDS = 2


@dataclass(frozen=True)
class Clip:
    """One picture: its path inside the collection, title and keywords."""

    path: str
    title: str
    keywords: tuple[str, ...]

    @property
    def key(self) -> str:
        return label_key(self.title)

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


def read_clips(raw: Path, processes: int) -> list[Clip]:
    """All usable pictures with a title, in the order of their paths."""
    root = _root(raw)
    files = {
        path.relative_to(root).as_posix(): str(path)
        for path in sorted(root.rglob("*.svg"))
        if not path.is_symlink() and path.stat().st_size <= MAX_BYTES
    }
    files = {name: path for name, path in files.items() if not name.startswith(SKIPPED)}
    cache = cache_path(PACKAGE, raw, "clipart-texts", READ_VERSION)
    texts = cached_pictures(cache, files, read_texts, processes)
    clips = [
        Clip(name, texts[name]["title"], tuple(texts[name]["keywords"]))
        for name in files
        if texts[name] is not None
    ]
    return [clip for clip in clips if clip.key]


def read_texts(path: str) -> dict[str, object] | None:
    """Title and keywords (Dublin Core) of an SVG file; None where there is no title."""
    try:
        root = parse_xml(Path(path).read_text(encoding="utf-8", errors="replace"))
    except ValueError:
        return None
    titles: list[str] = []
    keywords: list[str] = []
    for element in root.iter():
        text = " ".join((element.text or "").split())
        if not text or not isinstance(element.tag, str):
            continue
        if element.tag == "{http://purl.org/dc/elements/1.1/}title":
            titles.append(text)
        elif local_name(element) == "li":
            keywords.append(text)
    title = clean_title(titles[0]) if titles else ""
    return {"title": title, "keywords": keywords} if title else None


def clean_title(title: str) -> str:
    """A title without author, digits and file ending: "tree_02.svg" gives "tree"."""
    title = re.sub(r"^clip ?art by [^-]+ - ", "", title.strip(), flags=re.IGNORECASE)
    title = re.sub(r"\.\w{3,4}$", "", title).replace("_", " ")
    return " ".join(re.sub(r"\d+", " ", title).split()).strip(" -.,")


def draw_clips(clips: Sequence[Clip], raw: Path, processes: int) -> dict[str, bytes | None]:
    """Path -> PNG, None where it cannot be drawn."""
    root = _root(raw)
    cache = cache_path(PACKAGE, raw, "clipart", DRAWING_VERSION)
    jobs = {clip.path: str(root / clip.path) for clip in clips}
    return cached_pictures(cache, jobs, draw_file, processes)


def draw_file(path: str) -> bytes | None:
    """The picture of one SVG file."""
    return draw_svg(Path(path).read_text(encoding="utf-8", errors="replace"))


def clip_thing(clip: Clip, picture: bytes, split_id: str) -> Thing:
    """The picture, its title, its keywords without the title's words, and picture + keywords."""
    unit_id = f"c{hash_number('clip', clip.path) % 16**10:010x}"
    family = f"clipart: {clip.folder}"
    item = item_maker(unit_id, family, split_id)
    items = [item("picture", ORIGIN, picture), item("title", ORIGIN, clip.title)]
    folders = {word for word in words(clip.folder)} | {"unsorted", "clip art", "clipart", "image"}
    keywords = [x for x in without_words(clip.keywords, clip.title) if x.lower() not in folders]
    if len(keywords) >= MIN_KEYWORDS:
        text = ", ".join(keywords[:MAX_KEYWORDS]).lower()
        items.append(item("keywords", ORIGIN, text))
        items.append(item("picture+keywords", ORIGIN, picture, text))
    return Thing(
        unit_id=unit_id,
        family=family,
        split_id=split_id,
        items={one.kind: one for one in items},
        labels=frozenset({clip.key}),
        category=clip.path.partition("/")[0],
        stand_in=stand_in_text(clip),
    )


def stand_in_text(clip: Clip) -> str:
    """The names of the folders that a picture lies in, without words of title and keywords."""
    asked = " ".join([clip.title, *clip.keywords])
    return ", ".join(without_words(clip.folder.split("/"), asked))


def _root(raw: Path) -> Path:
    return unpack(PACKAGE, raw) / "usr/share/openclipart/svg"

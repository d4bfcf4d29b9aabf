"""Real captioned figures: images, captions and neighbouring passages of Debian's HTML manuals.

Only packages under BSD or Expat licences are read, so that what is built may be passed on.
Figures of gallery examples that load third-party pictures are left out.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from unirank_jax.content import ImagePart, TextPart
from unirank_jax.datasets.labels import stem, words
from unirank_jax.datasets.pages import Block, page_blocks
from unirank_jax.datasets.records import Item, dup_id_of
from unirank_jax.datasets.sources import preflight, unpack

FIGURE_PIXELS = 96
MIN_SIDE, MIN_AREA = 60, 8000
MIN_CAPTION, MIN_PASSAGE, MAX_TEXT = 12, 60, 600
TELLING_LETTERS = 5  # words this long may not be shared by a stand-in and a text of the page


@dataclass(frozen=True)
class Package:
    """A Debian documentation package and the licence of its documentation.

    `gallery_only`: only figures that an example of the gallery computed are taken.
    """

    name: str
    licence: str
    gallery_only: bool = False


PACKAGES = (
    Package("python-sklearn-doc", "BSD-3-Clause"),
    Package("python-skimage-doc", "BSD-3-Clause", gallery_only=True),
    Package("python-sasmodels-doc", "BSD-3-Clause"),
    Package("python-lmfit-doc", "Expat"),
)
LICENCES = {package.name: package.licence for package in PACKAGES}

# Examples that show other people's pictures: faces, photographs, handwriting of named sets.
_THIRD_PARTY = re.compile(
    r"olivetti|lfw|load_sample_image|\bface\(|fetch_openml|imread|\bcoins|species_distributions|"
    r"china\.jpg|skimage\.data|sample_images"
)
# In skimage's gallery every data.NAME() is a picture; these are computed, not photographed.
_PICTURE = re.compile(r"\bdata\.(\w+)\(|from skimage\.data import ([\w, ]+)")
_COMPUTED = {"binary_blobs", "shepp_logan_phantom", "checkerboard", "colorwheel"}
_DECORATION = re.compile(r"_thumb|_static|/math/|logo|sponsor|icon|badge|inheritance|graphviz")
_NUMBER = re.compile(r"^((Fig(ure)?|Table)\.?\s*\d[\d.]*\s*[:.]?\s*)+", re.IGNORECASE)
# Lists of sponsors and users: their pictures are logos.
_SKIPPED_PAGES = {"index.html", "about.html", "testimonials.html"}


@dataclass(frozen=True)
class Figure:
    """A figure with its texts. `page` is package/path: the document, and what splits go by."""

    page: str
    source: str
    image: bytes
    caption: str
    passage: str | None
    section: str

    @property
    def unit_id(self) -> str:
        return "f" + hashlib.sha256(self.image).hexdigest()[:10]


@dataclass
class _Found:
    page: str
    package: Package
    path: Path
    title: str
    section: str
    caption: str
    passage: str | None


def read_figures(raw: Path) -> list[Figure]:
    """All usable figures of all packages, each image once, in a fixed order.

    `raw` is a folder for archives and unpacked files. Raises SourceError where an archive is
    missing and cannot be fetched, or is not the one that the data is defined by.
    """
    preflight((package.name for package in PACKAGES), raw)
    figures: list[Figure] = []
    for package in PACKAGES:
        root = unpack(package.name, raw)
        figures += _package_figures(package, root)
    unique: dict[str, Figure] = {}
    for figure in figures:
        unique.setdefault(figure.unit_id, figure)
    return sorted(unique.values(), key=lambda figure: figure.unit_id)


def licence_text(package: Package, raw: Path) -> str:
    """The copyright file of a package, to be passed on with what is built from it."""
    path = unpack(package.name, raw) / "usr/share/doc" / package.name / "copyright"
    return path.read_text(encoding="utf-8")


def figure_items(figure: Figure) -> list[Item]:
    """Figure, caption and, where there is one, passage."""

    def item(kind: str, suffix: str, content: str | bytes) -> Item:
        return Item(
            did=f"{figure.unit_id}.{suffix}",
            parts=(TextPart(content) if isinstance(content, str) else ImagePart(content),),
            modality="text" if isinstance(content, str) else "image",
            unit_id=figure.unit_id,
            family=figure.page,
            kind=kind,
            split_id=figure.page,
            dup_id=dup_id_of(content),
            source=figure.source,
            licence=LICENCES[figure.source],
        )

    items = [item("figure", "f", figure.image), item("caption", "c", figure.caption)]
    if figure.passage is not None:
        items.append(item("passage", "p", figure.passage))
    return items


def stand_in_texts(figures: Sequence[Figure]) -> dict[str, str]:
    """unit_id -> manual and section title, for the figures where something is left of them.

    Long words that any caption or passage of the page has are left out. It is the whole page, not
    the figure's own texts, so that the answer's stand-in lacks nothing that its neighbours have.
    """
    told: dict[str, set[str]] = defaultdict(set)
    for figure in figures:
        texts = f"{figure.caption} {figure.passage or ''}"
        told[figure.page].update(stem(word) for word in words(texts))
    found: dict[str, str] = {}
    for figure in figures:
        manual = figure.source.removeprefix("python-").removesuffix("-doc")
        kept = [
            word
            for word in (f"{manual}:", *figure.section.split())
            if not any(
                len(one) >= TELLING_LETTERS and stem(one) in told[figure.page]
                for one in words(word)
            )
        ]
        if any(len(one) >= TELLING_LETTERS for one in words(" ".join(kept))):
            found[figure.unit_id] = " ".join(kept)
    return found


def square_figure(image: Image.Image) -> bytes:
    """The figure on a white square of FIGURE_PIXELS, as WebP or PNG, whichever is smaller."""
    image = image.convert("RGBA")
    side = max(image.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    small = square.convert("RGB").resize((FIGURE_PIXELS, FIGURE_PIXELS), Image.Resampling.LANCZOS)
    encoded: list[bytes] = []
    for options in ({"format": "WEBP", "quality": 70, "method": 6}, {"format": "PNG"}):
        buffer = io.BytesIO()
        small.save(buffer, **options)
        encoded.append(buffer.getvalue())
    return min(encoded, key=len)


def _package_figures(package: Package, root: Path) -> list[Figure]:
    pages = sorted(
        path
        for path in root.rglob("*.html*")
        if path.is_file() and "/generated/" not in str(path) and path.name not in _SKIPPED_PAGES
    )
    found: list[_Found] = []
    excluded: set[str] = set()
    for path in pages:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-8", "replace")
        if shows_pictures(package, re.sub(r"<[^>]+>", "", text)):
            excluded.add(path.name.split(".")[0])
        elif "<img" in text:
            found += _page_figures(package, root, path, text)
    captions = Counter(one.caption for one in found)
    figures: list[Figure] = []
    for one in found:
        example = re.match(r"sphx_glr_(.+?)_\d{3}", one.path.name)
        if example is None and package.gallery_only:
            continue
        if example is not None and example[1] in excluded:
            continue
        caption = one.caption
        if captions[caption] > 1:
            caption = f"{one.title}: {caption}" if one.title not in caption else caption
        try:
            with Image.open(one.path) as image:
                if min(image.size) < MIN_SIDE or image.width * image.height < MIN_AREA:
                    continue
                encoded = square_figure(image)
        except OSError:
            continue
        figures.append(Figure(one.page, package.name, encoded, caption, one.passage, one.section))
    return figures


def shows_pictures(package: Package, text: str) -> bool:
    """Whether the text of an example's page loads pictures that other people made."""
    if package.name != "python-skimage-doc":
        return _THIRD_PARTY.search(text) is not None
    names = {
        name.strip()
        for match in _PICTURE.finditer(text)
        for name in (match[1] or match[2] or "").split(",")
    }
    return bool(names - _COMPUTED) or "imread" in text or "data_dir" in text


def _page_figures(package: Package, root: Path, path: Path, text: str) -> Iterator[_Found]:
    blocks = page_blocks(text)
    title = next((block.text for block in blocks if block.alternative == "h1"), path.stem)
    section = title
    for number, block in enumerate(blocks):
        if block.kind == "heading":
            section = block.text
        if block.kind != "image" or _DECORATION.search(block.source):
            continue
        picture = (path.parent / PurePosixPath(block.source)).resolve()
        if not picture.is_file() or picture.suffix not in (".png", ".jpg", ".jpeg", ".gif"):
            continue
        caption = _NUMBER.sub("", block.text or block.alternative).strip(" :.")
        if not block.text and re.match(r"plot |example |\.\./|[\w./-]+$", block.alternative):
            caption = title if section == title else f"{title}: {section}"
        if len(caption) < MIN_CAPTION:
            continue
        yield _Found(
            page=f"{package.name}/{path.relative_to(root / 'usr/share/doc')}",
            package=package,
            path=picture,
            title=title,
            section=section,
            caption=caption[:MAX_TEXT],
            passage=_passage(blocks, number, caption),
        )


def _passage(blocks: list[Block], number: int, caption: str) -> str | None:
    """The paragraph before the figure, else after it, within the same section."""
    for step in (-1, 1):
        position = number + step
        while 0 <= position < len(blocks) and blocks[position].kind != "heading":
            text = blocks[position].text
            if blocks[position].kind == "paragraph" and len(text) >= MIN_PASSAGE:
                if text[:MAX_TEXT] != caption[:MAX_TEXT]:
                    return text[:MAX_TEXT]
            position += step
    return None

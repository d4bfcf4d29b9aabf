"""Real captioned figures: images, captions and neighbouring passages of Debian's HTML manuals.

OPEN are packages under BSD or Expat licences, whose figures may be passed on freely; figures of
gallery examples that load third-party pictures are left out there. COPYLEFT are under GPL, GFDL
and the like: what is built from them may only be passed on under their terms.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from unirank_jax.datasets.figures import MIN_CAPTION, Figure, square_file
from unirank_jax.datasets.pages import Block, page_blocks
from unirank_jax.datasets.passages import MAX_TEXT, MIN_PASSAGE, without_references
from unirank_jax.datasets.pictures import cached_pictures
from unirank_jax.datasets.sources import cache_path, unpack

FIGURE_VERSION = 1  # of the code that makes the pictures: a new one makes the cache start anew
MIN_ALTERNATIVE = 25  # characters of an alternative text that can stand for a caption


@dataclass(frozen=True)
class Package:
    """A Debian documentation package and the licence of its documentation.

    `gallery`: a project whose examples make figures without captions, where the title of the
    example stands for one; `gallery_only`: only figures that an example computed are taken.
    `notice_in` is the package with the copyright file, where it is another one.
    """

    name: str
    licence: str
    gallery: bool = False
    gallery_only: bool = False
    notice_in: str = ""

    @property
    def notice(self) -> str:
        return self.notice_in or self.name


OPEN = (
    Package("python-sklearn-doc", "BSD-3-Clause", gallery=True),
    Package("python-skimage-doc", "BSD-3-Clause", gallery=True, gallery_only=True),
    Package("python-sasmodels-doc", "BSD-3-Clause", gallery=True),
    Package("python-lmfit-doc", "Expat", gallery=True),
)
COPYLEFT = (
    Package("gimp-help-en", "GFDL-1.2+", notice_in="gimp-help-common"),
    Package("grass-doc", "GPL-2+"),
    Package("topcat-doc", "LGPL-2.1+"),
    Package("libocct-doc", "LGPL-2.1 with OpenCASCADE exception"),
    Package("postgis-doc", "CC-BY-SA-3.0"),
    Package("munipack-doc", "GPL-3+"),
    Package("saods9-doc", "GPL-3+"),
    Package("octave-doc", "GPL-3+"),
    Package("yade-doc", "GPL-2"),
)

# Examples that show other people's pictures: faces, photographs, handwriting of named sets.
_THIRD_PARTY = re.compile(
    r"olivetti|lfw|load_sample_image|\bface\(|fetch_openml|imread|\bcoins|species_distributions|"
    r"china\.jpg|skimage\.data|sample_images"
)
# In skimage's gallery every data.NAME() is a picture; these are computed, not photographed.
_PICTURE = re.compile(r"\bdata\.(\w+)\(|from skimage\.data import ([\w, ]+)")
_COMPUTED = {"binary_blobs", "shepp_logan_phantom", "checkerboard", "colorwheel"}
_DECORATION = re.compile(r"_thumb|_static|/math/|logo|sponsor|icon|badge|inheritance|graphviz")
# Formulas, graphs of classes and files, and buttons of the copyleft manuals.
_GENERATED = re.compile(
    r"_graph|__incl|dep_incl|graph_legend|form_\d+|_static/|/math/|imgmath|nav_|ftv2|sync_o|"
    r"doxygen\.|splitbar|bc_s|/dir_|logo"
)
_NUMBER = re.compile(r"^((Fig(ure)?|Table)\.?\s*\d[\d.]*\s*[:.]?\s*)+", re.IGNORECASE)
_BARE_LABEL = re.compile(r"^(Fig(ure)?|Table|Image)\.?\s*:\s*", re.IGNORECASE)
_FILE_NAME = re.compile(r"(\.\./.*|[\w./\- ]+\.(png|svg|jpe?g|gif)|[\w./-]+)$", re.IGNORECASE)
_SECTION_NUMBER = re.compile(r"^((\d+|[A-Z])(\.\d+)+\.?|\d+\.)\s+")
# Lists of sponsors and users: their pictures are logos.
_SKIPPED_PAGES = {"index.html", "about.html", "testimonials.html"}


@dataclass
class _Found:
    page: str
    path: Path
    title: str
    section: str
    caption: str
    passage: str | None


def read_manuals(packages: Sequence[Package], raw: Path, processes: int) -> list[Figure]:
    """All usable figures of some packages, in a fixed order.

    `raw` is a folder for archives and unpacked files. Raises SourceError where an archive is
    missing and cannot be fetched, or is not the one that the data is defined by.
    """
    figures: list[Figure] = []
    for package in packages:
        figures += _package_figures(package, unpack(package.name, raw), raw, processes)
    return figures


def _package_figures(package: Package, root: Path, raw: Path, processes: int) -> list[Figure]:
    pages = sorted(
        path
        for path in root.rglob("*.html*")
        if path.is_file()
        and "/generated/" not in str(path)
        and not (package.gallery and path.name in _SKIPPED_PAGES)
    )
    found: list[_Found] = []
    excluded: set[str] = set()
    for path in tqdm(pages, desc=package.name, unit=" pages", mininterval=1.0, delay=2.0):
        text = page_text(path)
        if package.gallery and shows_pictures(package, re.sub(r"<[^>]+>", "", text)):
            excluded.add(path.name.split(".")[0])
        elif "<img" in text:
            found += _page_figures(package, root, path, text)
    chosen = [one for one in found if _is_wanted(package, one, excluded)]
    files = {one.path.relative_to(root.resolve()).as_posix(): str(one.path) for one in chosen}
    cache = cache_path(package.name, raw, f"figures-{package.name}", FIGURE_VERSION)
    images = cached_pictures(cache, files, square_file, processes)
    captions = Counter(one.caption for one in found)
    figures: list[Figure] = []
    for one in chosen:
        image = images[one.path.relative_to(root.resolve()).as_posix()]
        if image is None:
            continue
        caption = one.caption
        title = one.title if package.gallery or one.section.isupper() else one.section
        if captions[caption] > 1 and title not in caption:
            caption = f"{title}: {caption}"
        figures.append(
            Figure(
                page=one.page,
                source=package.name,
                licence=package.licence,
                image=image,
                caption=caption,
                passage=one.passage,
                section=one.section,
            )
        )
    return figures


def page_text(path: Path) -> str:
    """The source of a page in the encoding that it names, UTF-8 else."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    named = re.search(rb"charset=[\"']?([\w-]+)", data[:2000])
    try:
        return data.decode(named[1].decode() if named else "utf-8", "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


def _is_wanted(package: Package, one: _Found, excluded: set[str]) -> bool:
    """Whether a figure is no third-party picture, and computed where only those are taken."""
    example = re.match(r"sphx_glr_(.+?)_\d{3}", one.path.name)
    if example is None:
        return not package.gallery_only
    return example[1] not in excluded


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
    blocks = page_blocks(text, bare_text=not package.gallery)
    title = next((block.text for block in blocks if block.alternative == "h1"), path.stem)
    skipped = _DECORATION if package.gallery else _GENERATED
    section = title
    for number, block in enumerate(blocks):
        if block.kind == "heading":
            section = block.text
        if block.kind != "image" or skipped.search(block.source):
            continue
        if block.source.startswith(("data:", "http:", "https:")):
            continue
        picture = (path.parent / PurePosixPath(block.source)).resolve()
        if picture.suffix not in (".png", ".jpg", ".jpeg", ".gif") or not picture.is_file():
            continue
        if not picture.is_relative_to(root.resolve()):
            continue
        where = title if section == title else f"{title}: {section}"
        caption = (
            gallery_caption(block, where) if package.gallery else manual_caption(blocks, number)
        )
        if len(caption) < MIN_CAPTION:
            continue
        passage = _passage(blocks, number, block.text or caption)
        if passage is not None and not package.gallery:
            passage = without_references(passage)
        yield _Found(
            page=f"{package.name}/{_place(path, root)}",
            path=picture,
            title=title,
            section=section if package.gallery else _SECTION_NUMBER.sub("", section),
            caption=caption[:MAX_TEXT],
            passage=passage,
        )


def _place(path: Path, root: Path) -> Path:
    """The path of a page below the folder where a package keeps its documentation."""
    documents = root / "usr/share/doc"
    return path.relative_to(documents if path.is_relative_to(documents) else root / "usr")


def gallery_caption(block: Block, where: str) -> str:
    """The caption or the alternative text; `where` for an example's figure without either."""
    if not block.text and re.match(r"plot |example |\.\./|[\w./-]+$", block.alternative):
        return where
    return _NUMBER.sub("", block.text or block.alternative).strip(" :.")


def manual_caption(blocks: Sequence[Block], number: int) -> str:
    """The caption of an image, else "Figure N: ..." that follows, else a long alternative text."""
    block = blocks[number]
    text = block.text
    if not text and number + 1 < len(blocks) and blocks[number + 1].kind == "paragraph":
        if _NUMBER.match(blocks[number + 1].text):
            text = blocks[number + 1].text
    if len(_unnumbered(text)) < MIN_CAPTION:
        text = block.alternative if len(block.alternative) >= MIN_ALTERNATIVE else ""
        if _FILE_NAME.match(text):
            text = ""
    return _unnumbered(text)


def _unnumbered(text: str) -> str:
    return _BARE_LABEL.sub("", _NUMBER.sub("", text)).strip(" :.[]")


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

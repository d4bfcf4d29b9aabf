"""Numbered figures and tables of real articles: the PDF vignettes of Debian's R packages.

poppler's `pdftotext` and `pdftoppm` read and draw the pages; fonts that a PDF lacks are those of
the package fonts-urw-base35 and no font of the system, so that pictures are the same everywhere.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unirank_jax.datasets.dataset import SourceError
from unirank_jax.datasets.figure_regions import DPI, Sheet, find_region
from unirank_jax.datasets.figures import MIN_CAPTION, Figure, square_figure
from unirank_jax.datasets.passages import MIN_PASSAGE, around, mentions, without_references
from unirank_jax.datasets.pdf_layout import Layout, Page, read_layout
from unirank_jax.datasets.pdf_text import captions, paragraphs, section_titles
from unirank_jax.datasets.pictures import cached_pictures
from unirank_jax.datasets.sources import lock, unpack

# Package and licence as its DESCRIPTION states it.
ARTICLES = {
    "r-cran-actuar": "GPL-2+",
    "r-cran-brms": "GPL-2",
    "r-cran-coin": "GPL-2",
    "r-cran-colorspace": "BSD-3-Clause",
    "r-cran-desolve": "GPL-2+",
    "r-cran-e1071": "GPL-2 or GPL-3",
    "r-cran-epi": "GPL-2",
    "r-cran-evd": "GPL-3",
    "r-cran-fitdistrplus": "GPL-2+",
    "r-cran-flexmix": "GPL-2+",
    "r-cran-forecast": "GPL-3",
    "r-cran-gstat": "GPL-2+",
    "r-cran-haplo.stats": "GPL-2+",
    "r-cran-hsaur3": "GPL-2",
    "r-cran-kernlab": "GPL-2",
    "r-cran-lme4": "GPL-2+",
    "r-cran-maxlik": "GPL-2+",
    "r-cran-mcmc": "Expat",
    "r-cran-metafor": "GPL-2+",
    "r-cran-mixtools": "GPL-2+",
    "r-cran-multcomp": "GPL-2",
    "r-cran-party": "GPL-2",
    "r-cran-partykit": "GPL-2 or GPL-3",
    "r-cran-pls": "GPL-2",
    "r-cran-powerlaw": "GPL-2 or GPL-3",
    "r-cran-pscl": "GPL-2",
    "r-cran-psych": "GPL-2+",
    "r-cran-qtl": "GPL-3",
    "r-cran-quantreg": "GPL-2+",
    "r-cran-robustbase": "GPL-2+",
    "r-cran-rrcov": "GPL-3+",
    "r-cran-sandwich": "GPL-2 or GPL-3",
    "r-cran-seriation": "GPL-3",
    "r-cran-shape": "GPL-3+",
    "r-cran-sp": "GPL-2+",
    "r-cran-spam": "LGPL-2 or BSD-3-Clause",
    "r-cran-strucchange": "GPL-2 or GPL-3",
    "r-cran-surveillance": "GPL-2",
    "r-cran-survival": "LGPL-2+",
    "r-cran-systemfit": "GPL-2+",
    "r-cran-tgp": "LGPL",
    "r-cran-timeseries": "GPL-2+",
    "r-cran-tsp": "GPL-3",
    "r-cran-vcd": "GPL-2",
    "r-cran-vegan": "GPL-2",
    "r-cran-zoo": "GPL-2 or GPL-3",
}
FONTS = "fonts-urw-base35"
TOOLS = {"pdftotext": "poppler-utils", "pdftoppm": "poppler-utils"}
POPPLER_VERSION = "22.12"  # Debian 12's; others draw slightly different pictures
ARTICLE_VERSION = 3  # of the code that cuts: a new one makes the cache start anew
MARGIN = 4  # pixels around what is cut out
_FAMILIES = {
    "Helvetica": "Nimbus Sans",
    "Times": "Nimbus Roman",
    "Courier": "Nimbus Mono PS",
    "Symbol": "Standard Symbols PS",
    "ZapfDingbats": "D050000L",
}


def read_articles(raw: Path, processes: int) -> list[Figure]:
    """The figures and tables of all articles in a fixed order, each number of an article once.

    Raises SourceError where an archive or a tool is missing or is not the one that is needed.
    """
    fonts = font_settings(unpack(FONTS, raw), raw)
    wanted: dict[str, tuple[str, str]] = {}
    for package in ARTICLES:
        root = unpack(package, raw)
        for path in sorted(root.glob("usr/lib/R/**/doc/*.pdf")):
            wanted[f"{package}/{path.name} {lock()[package].version}"] = (str(path), str(fonts))
    cache = raw / "rendered" / f"articles-{ARTICLE_VERSION}.msgpack"
    figures: list[Figure] = []
    for key, cut in cached_pictures(cache, wanted, read_article, processes).items():
        page = key.rpartition(" ")[0]
        package = page.partition("/")[0]
        for one in cut:
            figures.append(Figure(page=page, source=package, licence=ARTICLES[package], **one))
    return figures


def check_poppler() -> None:
    """Raise SourceError where poppler is not of the version that the data is defined by."""
    done = subprocess.run(["pdftotext", "-v"], capture_output=True, text=True)
    said = (done.stderr or done.stdout).partition("\n")[0]
    if f" {POPPLER_VERSION}." not in said:
        raise SourceError(
            f"pdftotext says {said!r}, the data is defined by poppler {POPPLER_VERSION}; "
            "install poppler-utils of Debian 12"
        )


def font_settings(package: Path, raw: Path) -> Path:
    """A fontconfig file that knows only the fonts of the package; returns its path."""
    aliases = "".join(
        f'<alias binding="same"><family>{family}</family>'
        f"<prefer><family>{substitute}</family></prefer></alias>"
        for family, substitute in _FAMILIES.items()
    )
    folder = raw.absolute() / "rendered"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "fonts.conf"
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}")
    temporary.write_text(
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>'
        f"<dir>{escape(str(package.absolute() / 'usr/share/fonts/opentype'))}</dir>"
        f"<cachedir>{escape(str(folder / 'fontconfig'))}</cachedir>{aliases}</fontconfig>\n",
        encoding="utf-8",
    )
    temporary.replace(path)
    return path


def read_article(source: tuple[str, str]) -> list[dict[str, Any]]:
    """What one PDF gives: fields of Figure, for every caption whose figure was found.

    `source` is the path of the PDF and that of the fontconfig file.
    """
    pdf, fonts = source
    text = _poppler(["pdftotext", "-bbox-layout", pdf, "-"], fonts).decode("utf-8", "replace")
    layout = read_layout(text)
    if layout is None:
        return []
    return list(cut_figures(layout, lambda page: draw_page(pdf, page, fonts)))


def cut_figures(layout: Layout, draw: Any) -> Iterator[dict[str, Any]]:
    """Fields of Figure for the captions of an article; `draw` gives a page as an RGB image."""
    texts, titles = paragraphs(layout), section_titles(layout)
    spoken: dict[tuple[str, str], str] = {}
    for paragraph in texts:
        for kind, number, position in mentions(paragraph.text):
            passage = without_references(around(paragraph.text, position))
            if len(passage) >= MIN_PASSAGE:
                spoken.setdefault((kind, number), passage)
    drawn: tuple[int, Image.Image, Sheet] | None = None
    for caption in captions(layout):
        name = without_references(caption.text)
        if len(name) < MIN_CAPTION:
            continue
        if drawn is None or drawn[0] != caption.page:
            page = layout.pages[caption.page - 1]
            picture = draw(page)
            drawn = (caption.page, picture, Sheet.of(page, np.asarray(picture.convert("L"))))
        box = find_region(layout, drawn[2], caption)
        if box is None:
            continue
        left, top, right, bottom = box
        crop = drawn[1].crop(
            (max(0, left - MARGIN), max(0, top - MARGIN), right + MARGIN, bottom + MARGIN)
        )
        before = [x.text for x in titles if (x.page, x.top) < (caption.page, caption.top)]
        yield {
            "image": square_figure(crop),
            "caption": around(name, 0),
            "passage": spoken.get((caption.kind, caption.number)),
            "section": before[-1] if before else "",
            "kind": caption.kind,
        }


def draw_page(pdf: str, page: Page, fonts: str) -> Image.Image:
    """One page as an RGB image at DPI."""
    number = str(page.number)
    command = ["pdftoppm", "-r", str(DPI), "-f", number, "-l", number, pdf]
    with Image.open(io.BytesIO(_poppler(command, fonts))) as image:
        return image.convert("RGB")


def _poppler(command: list[str], fonts: str) -> bytes:
    if shutil.which(command[0]) is None:
        raise SourceError(f"{command[0]} is missing; install {TOOLS[command[0]]}")
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, "FONTCONFIG_FILE": fonts}
    )
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise SourceError(f"{' '.join(command)} failed: {said}")
    return done.stdout

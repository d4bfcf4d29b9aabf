"""What is known about a captioned figure, whatever it was read from, and its items.

`manuals.py` reads figures from HTML manuals, `articles.py` cuts them out of PDF articles.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from unirank_jax.content import ImagePart, TextPart, modality
from unirank_jax.datasets.labels import stem, words
from unirank_jax.datasets.records import Item, dup_id_of, held_out_id

FIGURE_PIXELS = 96
MIN_SIDE, MIN_AREA = 60, 8000
MIN_CAPTION = 12
TELLING_LETTERS = 5  # words this long may not be shared by a stand-in and a text of the page
# Packages that are in the test split as a whole, so that it also has documents of a kind and by
# authors that no training has seen. None of them is in the open scale.
HELD_OUT = {
    "munipack-doc",
    "yade-doc",
    "r-cran-mcmc",
    "r-cran-surveillance",
    "r-cran-vcd",
}


@dataclass(frozen=True)
class Figure:
    """A figure or table with its texts. `page` is package/path: the document, by which splits go.

    Documents of HELD_OUT packages are all in the test split.

    `image` is a WebP or PNG file of FIGURE_PIXELS square, `kind` is "figure" or "table".
    """

    page: str
    source: str
    licence: str
    image: bytes
    caption: str
    passage: str | None
    section: str
    kind: str = "figure"

    @property
    def unit_id(self) -> str:
        return self.kind[0] + hashlib.sha256(self.image).hexdigest()[:10]

    @property
    def split_id(self) -> str:
        return held_out_id(self.page) if self.source in HELD_OUT else self.page


def unique_figures(figures: Iterable[Figure]) -> list[Figure]:
    """Each image once, the first of equal ones, in the order of their ids."""
    unique: dict[str, Figure] = {}
    for figure in figures:
        unique.setdefault(figure.unit_id, figure)
    return sorted(unique.values(), key=lambda figure: figure.unit_id)


def figure_items(figure: Figure, with_both: bool = False) -> list[Item]:
    """Figure, caption and, where there is one, passage; `with_both` adds one item of the first two.

    A table's image has the kind "figure", too: in a list it stands where figures do.
    """

    def item(kind: str, suffix: str, *contents: str | bytes) -> Item:
        parts = tuple(TextPart(x) if isinstance(x, str) else ImagePart(x) for x in contents)
        return Item(
            did=f"{figure.unit_id}.{suffix}",
            parts=parts,
            modality=modality(parts),
            unit_id=figure.unit_id,
            family=figure.page,
            kind=kind,
            split_id=figure.split_id,
            dup_id=dup_id_of(*contents),
            source=figure.source,
            licence=figure.licence,
        )

    items = [item("figure", "f", figure.image), item("caption", "c", figure.caption)]
    if figure.passage is not None:
        items.append(item("passage", "p", figure.passage))
    if with_both:
        items.append(item("both", "b", figure.image, figure.caption))
    return items


def stand_in_texts(figures: Sequence[Figure]) -> dict[str, str]:
    """unit_id -> manual or R package and section title, where something is left of them.

    Long words that any caption or passage of the page (a whole article) has are left out. It is
    the whole page, not the figure's own texts, so that the answer's stand-in lacks nothing that
    its neighbours have.
    """
    told: dict[str, set[str]] = defaultdict(set)
    for figure in figures:
        texts = f"{figure.caption} {figure.passage or ''}"
        told[figure.page].update(stem(word) for word in words(texts))
    found: dict[str, str] = {}
    for figure in figures:
        manual = figure.source.removeprefix("python-").removeprefix("r-cran-").removesuffix("-doc")
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


def square_file(path: str) -> bytes | None:
    """`square_figure` of a file; None where it is no picture or too small to be a figure."""
    try:
        with Image.open(path) as image:
            if min(image.size) < MIN_SIDE or image.width * image.height < MIN_AREA:
                return None
            return square_figure(image)
    except OSError:
        return None

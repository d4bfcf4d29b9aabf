"""What the lines of an article say: captions of figures and tables, paragraphs, section titles.

Pure functions of a Layout; places are points (1/72 inch) from the upper left corner of a page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unirank_jax.datasets.pdf_layout import Layout, Line, Page

_CAPTION = re.compile(
    r"(Figure|Fig\.|Table) ((?:[A-Z]\.)?\d+(?:\.\d+)*)([:.]?)(?: |$)(.*)", re.IGNORECASE
)
_SECTION = re.compile(r"^(?:(\d+|[A-Z])(\.\d+)*\.? )(?=[A-Z])([^.]{3,70})$")


@dataclass(frozen=True)
class Caption:
    """A numbered caption, where it is, and whether the cells of a table run into it."""

    page: int
    kind: str  # "figure" or "table"
    number: str
    text: str
    left: float
    top: float
    right: float
    bottom: float
    runs_on: bool


@dataclass(frozen=True)
class Paragraph:
    page: int
    top: float
    text: str


def caption_start(line: Line) -> tuple[str, str, str] | None:
    """Kind, number and separator where a line begins like a caption.

    Without ":" or "." after the number, a wide space must follow it.
    """
    match = _CAPTION.match(line.text)
    if match is None:
        return None
    number = next((place for place, word in enumerate(line.words) if match[2] in word.text), 0)
    if not match[3]:
        if number + 1 >= len(line.words):
            return None
        if line.words[number + 1].left - line.words[number].right < 0.7 * line.size:
            return None
    kind = "table" if match[1].lower() == "table" else "figure"
    return kind, match[2], match[3]


def captions(layout: Layout) -> Iterator[Caption]:
    """The captions of an article in reading order, each number once."""
    seen: set[tuple[str, str]] = set()
    for page in layout.pages:
        for place, line in enumerate(page.lines):
            start = caption_start(line)
            if start is None or start[:2] in seen:
                continue
            if start[2] != ":" and _continues_text(layout, page, place):
                continue
            seen.add(start[:2])
            yield _whole_caption(page, place, start[0], start[1])


def _continues_text(layout: Layout, page: Page, place: int) -> bool:
    """Whether a line follows a line of the text closely: "... as in / Table 2. We then ..."."""
    line = page.lines[place]
    above = [other for other in page.lines[:place] if other.bottom < line.top + 0.5 * line.size]
    return any(layout.is_body(x) and line.top - x.bottom < 0.4 * line.size for x in above)


def _whole_caption(page: Page, place: int, kind: str, number: str) -> Caption:
    """The caption that begins with a line: lines go on while they follow closely."""
    taken, runs_on = [page.lines[place]], False
    for line in page.lines[place + 1 :]:
        last = taken[-1]
        if line.top < taken[0].top - 2 * last.size:
            break  # the next column
        if line.top < last.top + 0.5 * last.size:
            continue  # beside the caption
        if line.top - last.bottom > 0.45 * last.size or caption_start(line) is not None:
            break
        beside = [
            other
            for other in page.lines
            if other is not line
            and abs(other.top - line.top) < 2
            and taken[0].left - 5 < other.left < taken[0].right
        ]
        if line.widest_gap > 2 * line.size or beside:
            runs_on = kind == "table"
            break
        taken.append(line)
    text = join_lines([line.text for line in taken])
    match = _CAPTION.match(text)
    assert match is not None
    return Caption(
        page=page.number,
        kind=kind,
        number=number,
        text=match[4].strip(" :."),
        left=min(line.left for line in taken),
        top=taken[0].top,
        right=max(line.right for line in taken),
        bottom=taken[-1].bottom,
        runs_on=runs_on,
    )


def paragraphs(layout: Layout) -> list[Paragraph]:
    """The paragraphs of the running text in reading order; captions and code are none."""
    found: list[Paragraph] = []
    for page in layout.pages:
        taken: list[Line] = []
        for line in page.lines:
            if taken and not _goes_on(layout, taken[-1], line):
                found.append(_paragraph(page, taken))
                taken = []
            starts = layout.is_body(line) and abs(line.left - layout.column(line.left)[0]) < 25
            if taken or (starts and not line.is_code and caption_start(line) is None):
                taken.append(line)
        if taken:
            found.append(_paragraph(page, taken))
    return found


def _goes_on(layout: Layout, last: Line, line: Line) -> bool:
    """Whether a line belongs to the paragraph whose last line so far is given."""
    if line.top - last.bottom > 0.45 * last.size or line.is_code:
        return False
    left, _ = layout.column(line.left)
    if line.left - left > 40 or line.widest_gap > 2 * line.size or line.top < last.top - 5:
        return False
    indented = 6 < line.left - left < 30 and abs(last.left - left) < 3
    return not indented


def _paragraph(page: Page, lines: Sequence[Line]) -> Paragraph:
    return Paragraph(page.number, lines[0].top, join_lines([line.text for line in lines]))


def section_titles(layout: Layout) -> list[Paragraph]:
    """Numbered titles of sections, without their numbers, in reading order."""
    return [
        Paragraph(page.number, line.top, match[3].strip())
        for page in layout.pages
        for line in page.lines
        if not layout.is_body(line)
        and line.widest_gap < 2.5 * line.size
        and line.size > 0.95 * layout.size
        and (match := _SECTION.match(line.text)) is not None
        and re.search(r"[^\W\d_]{4}", match[3])
    ]


def join_lines(lines: Sequence[str]) -> str:
    """Lines as one text; a hyphen before a line that goes on in lower case is taken out."""
    text = ""
    for line in lines:
        if re.search(r"[^\W\d_]-$", text) and re.match(r"[a-z]", line):
            text = text[:-1] + line
        else:
            text = f"{text} {line}"
    return re.sub(r"\s+", " ", text).strip()

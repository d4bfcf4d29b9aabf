"""The pages of an article as words and lines, and what can be read from them alone.

Input is the XHTML text of `pdftotext -bbox-layout`; lengths are points (1/72 inch) from the upper
left corner. Everything here is a pure function of that text: captions of figures and tables,
paragraphs, section titles, and where the running head and the text column are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median, quantiles
from xml.etree.ElementTree import Element

from unirank_jax.datasets.xmltext import parse_xml

MIN_BODY_CHARACTERS, MIN_BODY_WORDS, BODY_WIDTH = 46, 5, 0.72
SIDE_ROOM = 40.0  # points that a figure may stand out of the only column of the text
HEAD_PLACE = 0.16  # running heads are in this upper part of a page
HEAD_ROOM = 10.0  # below a running head there may be a rule, at most so far away

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xA0: " "}
_LABEL = re.compile(r"(Figure|Fig\.|Table) (?:[A-Z]\.)?\d+(?:\.\d+)*[:.]?", re.IGNORECASE)
_CODE = re.compile(r"^(R?> ?[A-Za-z(]|\+ +\S|\[\d+\] |## )")


@dataclass(frozen=True)
class Word:
    left: float
    top: float
    right: float
    bottom: float
    text: str


@dataclass(frozen=True)
class Line:
    """Words side by side, from left to right."""

    words: tuple[Word, ...]

    @cached_property
    def text(self) -> str:
        return " ".join(word.text for word in self.words).translate(_LIGATURES)

    @cached_property
    def left(self) -> float:
        return self.words[0].left

    @cached_property
    def right(self) -> float:
        return max(word.right for word in self.words)

    @cached_property
    def top(self) -> float:
        return min(word.top for word in self.words)

    @cached_property
    def bottom(self) -> float:
        return max(word.bottom for word in self.words)

    @cached_property
    def size(self) -> float:
        """Height of the usual word, about the size of the font."""
        return median(word.bottom - word.top for word in self.words)

    @cached_property
    def widest_gap(self) -> float:
        """The widest space between two words."""
        pairs = zip(self.words, self.words[1:], strict=False)
        return max((after.left - before.right for before, after in pairs), default=0.0)

    @property
    def is_code(self) -> bool:
        """Whether it is a command of R, its continuation, or a numbered line of its output."""
        return _CODE.match(self.text) is not None


@dataclass(frozen=True)
class Page:
    number: int
    width: float
    height: float
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Layout:
    """An article: pages, left and right of the columns of its text, and the height of its lines.

    `heads` says where pages begin below their running heads.
    """

    pages: tuple[Page, ...]
    columns: tuple[tuple[float, float], ...]
    size: float
    heads: dict[int, float]

    def column(self, left: float) -> tuple[float, float]:
        """Left and right of the column in which something begins."""
        return self.columns[column_of(self.columns, left)]

    def span(self, start: float, end: float) -> tuple[float, float]:
        """Left and right of where a figure may be whose caption begins and ends there.

        That is the caption's column and some room, or the page where it goes across columns.
        """
        if len(self.columns) == 1 or end > self.columns[1][0] > start:
            left, right = self.columns[0][0], self.columns[-1][1]
            return min(left, start) - SIDE_ROOM, max(right, end) + SIDE_ROOM
        room = (self.columns[1][0] - self.columns[0][1]) / 2
        left, right = self.column(start)
        return left - room, right + room

    def is_body(self, line: Line) -> bool:
        """Whether a line is one of the running text, and not a label inside a figure."""
        left, right = self.column(line.left)
        return (
            line.right - line.left > BODY_WIDTH * (right - left)
            and len(line.text) >= MIN_BODY_CHARACTERS
            and len(re.findall(r"[^\W\d_]{2,}", line.text)) >= MIN_BODY_WORDS
            and line.widest_gap < 2 * line.size
        )

    def at_margin(self, line: Line) -> bool:
        """Whether a line begins where the lines of the running text do."""
        return abs(line.left - self.column(line.left)[0]) < 3 and len(line.text) >= 4


def read_layout(text: str) -> Layout | None:
    """The layout in a text that pdftotext wrote; None where there is no running text.

    Raises ValueError where the text is not what pdftotext writes.
    """
    start, end = text.find("<doc>"), text.rfind("</doc>")
    if start < 0 or end < 0:
        raise ValueError("no <doc> element in what pdftotext wrote")
    pages = []
    root = parse_xml(_CONTROL.sub("", text[start : end + len("</doc>")]))
    for number, element in enumerate(root.iterfind("page"), start=1):
        lines = []
        for line in element.iterfind("flow/block/line"):
            words = tuple(_word(word) for word in line.iterfind("word"))
            if words:
                lines.append(Line(words))
        width, height = (float(element.get(side, 0)) for side in ("width", "height"))
        pages.append(Page(number, width, height, tuple(with_whole_labels(lines))))
    columns = find_columns(pages)
    if not columns:
        return None
    for place, page in enumerate(pages):
        ordered = sorted(page.lines, key=lambda x: (column_of(columns, x.left), x.top, x.left))
        pages[place] = Page(page.number, page.width, page.height, tuple(ordered))
    size = median(line.size for page in pages for line in page.lines if len(line.text) > 40)
    return Layout(tuple(pages), columns, size, running_heads(pages))


def _word(element: Element) -> Word:
    left, top, right, bottom = (
        float(element.get(side, 0)) for side in ("xMin", "yMin", "xMax", "yMax")
    )
    return Word(left, top, right, bottom, (element.text or "").strip())


def with_whole_labels(lines: Sequence[Line]) -> list[Line]:
    """The lines, where "Figure 3.4" and the text at some distance to its right become one."""
    whole: list[Line] = []
    rests: set[int] = set()
    for line in lines:
        if _LABEL.fullmatch(line.text):
            beside = [x for x in lines if abs(x.top - line.top) < 3 and x is not line]
            right = [x for x in beside if 0 < x.left - line.right < 4 * line.size]
            if right:
                rests.add(id(right[0]))
                line = Line(line.words + right[0].words)
        whole.append(line)
    return [line for line in whole if id(line) not in rests]


def find_columns(pages: Sequence[Page]) -> tuple[tuple[float, float], ...]:
    """Left and right of the one or two columns of the running text; () where there is none."""
    long = [(line, page.width / 2) for page in pages for line in page.lines if len(line.text) > 40]
    if len(long) < 5:
        return ()
    second = [line for line, middle in long if line.left > 0.95 * middle]
    if len(second) < len(long) / 4:
        return (_column([line for line, _ in long if len(line.text) > 60] or second),)
    return _column([line for line, middle in long if line.right < 1.05 * middle]), _column(second)


def _column(lines: Sequence[Line]) -> tuple[float, float]:
    left = quantiles([line.left for line in lines], n=5)[0]
    return left, left + quantiles([line.right - line.left for line in lines], n=5)[-1]


def column_of(columns: Sequence[tuple[float, float]], left: float) -> int:
    """The number of the column in which something begins."""
    return sum(left > start - 10 for start, _ in columns[1:])


def running_heads(pages: Sequence[Page]) -> dict[int, float]:
    """For pages with a running head, where it ends: a first row with the number of the page.

    Rows count as heads where page number minus place in the document is the same on at least
    a third of the pages, so that no other number in a first row is taken for one.
    """
    rows: dict[int, tuple[float, set[int]]] = {}
    for page in pages:
        upper = [line for line in page.lines if line.bottom < HEAD_PLACE * page.height]
        if not upper:
            continue
        first = min(upper, key=lambda line: line.top)
        row = [line for line in upper if line.top < first.bottom]
        ends = {line.text.split()[place] for line in row for place in (0, -1) if line.text.split()}
        shifts = {int(text) - page.number for text in ends if re.fullmatch(r"\d{1,4}", text)}
        rows[page.number] = (max(line.bottom for line in row), shifts)
    usual = Counter(shift for _, shifts in rows.values() for shift in shifts)
    if not usual or usual.most_common(1)[0][1] < max(2, len(pages) / 3):
        return {}
    shift = usual.most_common(1)[0][0]
    return {page: bottom + HEAD_ROOM for page, (bottom, found) in rows.items() if shift in found}

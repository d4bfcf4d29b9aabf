"""Where on a page the figure or table of a caption is: from words and ink to a rectangle.

Graphics are ink that no word covers. A figure is the ink between its caption and the nearest
line of the text, without what is only text at its top (commands, output, the end of a paragraph);
a table reaches from its first rule to its last. All functions are pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unirank_jax.datasets.pdf_layout import Layout, Line, Page
from unirank_jax.datasets.pdf_text import Caption, caption_start

DPI = 110
INK = 245  # greys darker than this are ink; lighter ones shade the commands of R
PAGE_TOP, PAGE_BOTTOM = 36.0, 50.0
MAX_DISTANCE, MAX_TITLE_GAP = 90.0, 18.0  # from the caption; from a title to its plot
MIN_WIDTH, MIN_HEIGHT, MIN_TABLE_HEIGHT = 80.0, 60.0, 25.0
MIN_RULE = 60.0  # points of ink in a row that make a rule of a table
MIN_GRAPHIC_ROWS = 0.3  # share of a figure's rows in which something else than text is drawn

Pixels = np.ndarray[Any, Any]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Sheet:
    """A page drawn at DPI: `ink` and `graphic` (ink without words) are (height, width) bool."""

    page: Page
    ink: Pixels
    graphic: Pixels

    @staticmethod
    def of(page: Page, greys: Pixels) -> Sheet:
        """From (height, width) uint8 greys of the drawn page."""
        ink = greys < INK
        graphic = ink.copy()
        for line in page.lines:
            for word in line.words:
                left, top = px(word.left) - 1, px(word.top) - 1
                graphic[max(0, top) : px(word.bottom) + 2, max(0, left) : px(word.right) + 2] = 0
        return Sheet(page, ink, graphic)


def px(points: float) -> int:
    """Points as pixels of a drawn page."""
    return round(points * DPI / 72)


def find_region(layout: Layout, sheet: Sheet, caption: Caption) -> Box | None:
    """The rectangle of what a caption describes; None where nothing fits.

    A figure is looked for above its caption first, as that is where it usually is: the figure
    below may be that of the next caption. For a table the side with the nearer rule counts.
    """
    if caption.kind == "table":
        if caption.runs_on:
            return None
        span = layout.span(caption.left, caption.right)
        found = [table_box(sheet, caption, span, band) for band in bands(layout, sheet, caption)]
        boxes = [pair for pair in found if pair is not None]
        return min(boxes)[1] if boxes else None
    for band in bands(layout, sheet, caption):
        box = figure_box(layout, sheet, caption, band)
        if box is not None:
            return box
    return None


def bands(layout: Layout, sheet: Sheet, caption: Caption) -> list[tuple[float, float]]:
    """The free parts of the page above and below a caption, in points."""
    page = sheet.page
    span = layout.span(caption.left, caption.right)
    lines = [line for line in page.lines if line.right > span[0] and line.left < span[1]]
    edges = [line for line in lines if layout.is_body(line) or caption_start(line)]
    if caption.kind == "figure":
        beside = [line for line in lines if layout.at_margin(line) or line.is_code]
        edges += [line for line in beside if not _drawn(sheet, span, line)]
    edges += [line for line in lines if line.top > 0.85 * page.height and line.text.isdigit()]
    top = layout.heads.get(page.number, PAGE_TOP)
    above = [line.bottom for line in edges if line.bottom <= caption.top + 2]
    below = [line.top for line in edges if line.top >= caption.bottom - 2]
    return [
        (max([top, *above]) + 1, caption.top - 1),
        (caption.bottom + 1, min([page.height - PAGE_BOTTOM, *below]) - 1),
    ]


def figure_box(
    layout: Layout, sheet: Sheet, caption: Caption, band: tuple[float, float]
) -> Box | None:
    """The ink of a band, where it is a figure that belongs to the caption."""
    top, bottom = band
    span = layout.span(caption.left, caption.right)
    graphic = rows_with(sheet.graphic, span, top, bottom)
    if graphic.size == 0:
        return None
    first = graphic[0] * 72 / DPI
    for line in sheet.page.lines:  # output of R, a title of a section: text that stands apart
        inside = line.top >= top - 1 and line.bottom < first
        if inside and not _drawn(sheet, span, line):
            if first - line.bottom > MAX_TITLE_GAP:
                top = max(top, line.bottom + 1)
    box = ink_box(sheet, span, top, bottom)
    if box is None:
        return None
    height, width = (box[3] - box[1]) * 72 / DPI, (box[2] - box[0]) * 72 / DPI
    distance = min(abs(px(caption.top) - box[3]), abs(px(caption.bottom) - box[1])) * 72 / DPI
    if height < MIN_HEIGHT or width < MIN_WIDTH or distance > MAX_DISTANCE:
        return None
    if any(line.is_code and box[1] < px(line.top) < box[3] for line in sheet.page.lines):
        return None  # a listing in a frame
    return box if len(graphic) >= MIN_GRAPHIC_ROWS * (box[3] - box[1]) else None


def table_box(
    sheet: Sheet, caption: Caption, span: tuple[float, float], band: tuple[float, float]
) -> tuple[float, Box] | None:
    """Distance from the caption and rectangle of the table between the rules of a band."""
    top, bottom, left = max(0, px(band[0])), px(band[1]), max(0, px(span[0]))
    ink = sheet.ink[:, left : px(span[1])]
    rules = [row for row in range(top, bottom) if longest_run(ink[row]) >= MIN_RULE]
    if not rules or (rules[-1] - rules[0]) * 72 / DPI < MIN_TABLE_HEIGHT:
        return None
    distance = min(abs(px(caption.top) - rules[-1]), abs(px(caption.bottom) - rules[0])) * 72 / DPI
    if distance > MAX_DISTANCE:
        return None
    columns = np.flatnonzero(ink[rules[0]] | ink[rules[-1]]) + left
    if (columns[-1] - columns[0]) * 72 / DPI < MIN_WIDTH:
        return None
    return distance, (int(columns[0]), rules[0], int(columns[-1]) + 1, rules[-1] + 1)


def ink_box(sheet: Sheet, span: tuple[float, float], top: float, bottom: float) -> Box | None:
    """The rectangle around all ink between two heights, within a span of the width (points)."""
    left = max(0, px(span[0]))
    ink = sheet.ink[px(top) : px(bottom), left : px(span[1])]
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if rows.size == 0:
        return None
    first, start = px(top), left
    return (
        int(start + columns[0]),
        int(first + rows[0]),
        int(start + columns[-1] + 1),
        int(first + rows[-1] + 1),
    )


def rows_with(mask: Pixels, span: tuple[float, float], top: float, bottom: float) -> Pixels:
    """The rows between two heights (points) in which a mask is set within a span of the width."""
    left, right = max(0, px(span[0])), px(span[1])
    return np.flatnonzero(mask[px(top) : px(bottom), left:right].any(1)) + px(top)


def longest_run(row: Pixels) -> float:
    """The longest unbroken piece of ink in a row, in points."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], row.astype(np.int8), [0]))))
    return float((edges[1::2] - edges[::2]).max(initial=0)) * 72 / DPI


def _drawn(sheet: Sheet, span: tuple[float, float], line: Line) -> bool:
    """Whether something is drawn beside a line or under it, in most of its rows."""
    rows = rows_with(sheet.graphic, span, line.top, line.bottom)
    return len(rows) > 0.5 * (px(line.bottom) - px(line.top))

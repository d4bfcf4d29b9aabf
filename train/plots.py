"""Plots as inline SVG: lines in the unit square or on axes of their own, and intervals."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from unirank_jax.significance import Interval

SIDE, EDGE, LEGEND = 260, 34, 15  # pixels: a square's side, its margin, a line of its legend
NAME, WIDTH, LINE = 150, 420, 20  # pixels: names, the scale beside them, one interval
MARKED = 60  # a line of more points is drawn without marks
COLOURS = ("#1f5fbf", "#c2410c", "#18794e", "#7c3aed", "#475569", "#b4861b")

Line = tuple[str, Sequence[tuple[float, float]]]  # name, points


def square(title: str, across: str, up: str, lines: Sequence[Line], diagonal: bool) -> str:
    """Lines in the unit square, their names below it."""
    return _lines(title, across, up, lines, ((0.0, 1.0), (0.0, 1.0)), diagonal)


def curves(title: str, across: str, lines: Sequence[Line]) -> str:
    """Lines on axes that hold all their points, their names below them."""
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points]
    return _lines(title, across, "", lines, (_span(xs), _span(ys)), False)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _lines(
    title: str,
    across: str,
    up: str,
    lines: Sequence[Line],
    spans: tuple[tuple[float, float], tuple[float, float]],
    diagonal: bool,
) -> str:
    size, height = SIDE + 2 * EDGE, SIDE + 2 * EDGE + LEGEND * len(lines)
    (left, right), (low, high) = spans

    def at(x: float, y: float) -> str:
        across, up = (x - left) / (right - left), (y - low) / (high - low)
        return f"{EDGE + across * SIDE:.1f},{EDGE + (1 - up) * SIDE:.1f}"

    marks = [f'<rect x="{EDGE}" y="{EDGE}" width="{SIDE}" height="{SIDE}" class="frame"/>']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = EDGE + tick * SIDE, EDGE + (1 - tick) * SIDE
        marks.append(_text(x, EDGE + SIDE + 13, f"{left + tick * (right - left):.4g}", "mid"))
        marks.append(_text(EDGE - 4, y + 4, f"{low + tick * (high - low):.3g}", "end"))
    if diagonal:
        marks.append(f'<polyline points="{at(0, 0)} {at(1, 1)}" class="guide"/>')
    for number, (name, points) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(at(x, y) for x, y in points)
        marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in points if len(points) <= MARKED else ():
            cx, cy = at(x, y).split(",")
            marks.append(f'<circle cx="{cx}" cy="{cy}" r="2.5" fill="{colour}"/>')
        where = SIDE + 2 * EDGE + LEGEND * number + 6
        marks.append(f'<rect x="{EDGE}" y="{where - 8}" width="10" height="10" fill="{colour}"/>')
        marks.append(_text(EDGE + 15, where + 1, name))
    marks.append(_text(size / 2, SIDE + 2 * EDGE - 6, across, "mid"))
    heading = f"{title}: {up}" if up else title
    marks.append(_text(size / 2, 14, heading, "mid"))
    return _svg(size, height, f"{heading} by {across}", marks)


def intervals(title: str, found: Mapping[str, Interval], zero: bool) -> str:
    """Means with their intervals in percent, one below the other, on one scale.

    `zero` draws a line at 0, for values of either sign.
    """
    ends = [x for one in found.values() for x in (one.low, one.high, one.mean)] + [0.0] * zero
    low, high = min(ends), max(ends)
    margin = 0.05 * (high - low) or 0.01
    low, high = low - margin, high + margin
    height = LINE * len(found) + 2 * LINE

    def at(value: float) -> float:
        return NAME + (value - low) / (high - low) * WIDTH

    marks = [_text(NAME + WIDTH / 2, 14, title, "mid")]
    bottom = LINE * len(found) + LINE
    marks.append(
        f'<rect x="{NAME}" y="{LINE}" width="{WIDTH}" height="{bottom - LINE}" class="frame"/>'
    )
    if zero:
        marks.append(
            f'<line x1="{at(0):.1f}" x2="{at(0):.1f}" y1="{LINE}" y2="{bottom}" class="guide"/>'
        )
    step = _step(high - low)
    for number in range(math.ceil(low / step), math.floor(high / step) + 1):
        marks.append(_text(at(number * step), bottom + 14, f"{100 * number * step:g}", "mid"))
    for number, (name, one) in enumerate(found.items()):
        y = LINE * number + 1.5 * LINE
        marks.append(_text(NAME - 8, y + 4, name, "end"))
        marks.append(
            f'<line x1="{at(one.low):.1f}" x2="{at(one.high):.1f}" y1="{y}" y2="{y}" '
            f'stroke="{COLOURS[0]}" stroke-width="2"/>'
        )
        marks.append(f'<circle cx="{at(one.mean):.1f}" cy="{y}" r="4" fill="{COLOURS[0]}"/>')
    return _svg(NAME + WIDTH + EDGE, height, title, marks)


def _step(span: float) -> float:
    """A round distance, 1, 2 or 5 times a power of ten, that cuts `span` into at most 7 parts."""
    power = 10.0 ** math.floor(math.log10(span / 7))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= span / 7)


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{kind}>{html.escape(text)}</text>'


def _svg(width: float, height: float, title: str, marks: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" '
        f'aria-label="{html.escape(title)}">{"".join(marks)}</svg>'
    )

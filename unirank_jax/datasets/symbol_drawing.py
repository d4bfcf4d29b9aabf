"""QElectroTech elements as pictures: an XML file of lines, arcs and polygons drawn with Pillow.

Format: `definition/description` holds line, rect, circle, ellipse, arc and polygon elements with
coordinates as attributes, y downwards; angles are in degrees, against the clock from the right.
Text and terminals are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image, ImageDraw

from unirank_jax.datasets.pictures import grey_png

PIXELS = 96
FINE = 4 * PIXELS  # drawn at this size, then made smaller
FILL = 0.9  # share of the side that the symbol takes
LINE_WIDTH = 7  # on the fine raster
ROUND = 48  # corners of a full circle
GREYS = {"black": 0, "white": 255, "none": None}

Point = tuple[float, float]


@dataclass(frozen=True)
class Stroke:
    """A chain of points; `fill` is the grey inside, None where nothing is filled."""

    points: tuple[Point, ...]
    fill: int | None = None


def draw_symbol(description: Element) -> bytes | None:
    """The PNG (PIXELS square, 16 greys) of an element; None where there is nothing to draw.

    Raises ValueError where a coordinate is no number.
    """
    strokes = [stroke for child in description for stroke in strokes_of(child)]
    corners = np.array([point for stroke in strokes for point in stroke.points], np.float64)
    if not len(corners) or not np.isfinite(corners).all():
        return None
    low, high = corners.min(axis=0), corners.max(axis=0)
    scale = FILL * FINE / max(float((high - low).max()), 1e-6)
    image = Image.new("L", (FINE, FINE), 255)
    canvas = ImageDraw.Draw(image)
    for stroke in strokes:
        placed = (np.array(stroke.points) - (low + high) / 2) * scale + FINE / 2
        points = [(float(x), float(y)) for x, y in placed]
        if stroke.fill is not None and len(points) > 2:
            canvas.polygon(points, fill=stroke.fill)
        canvas.line(points, fill=0, width=LINE_WIDTH, joint="curve")
    return grey_png(np.asarray(image.resize((PIXELS, PIXELS), Image.Resampling.LANCZOS)))


def strokes_of(element: Element) -> list[Stroke]:
    """The strokes of one child of `description`; none for text, terminals and what is unknown."""

    def number(name: str) -> float:
        return float(element.get(name) or 0)

    x, y = number("x"), number("y")
    width = number("diameter") if element.tag == "circle" else number("width")
    height = number("diameter") if element.tag == "circle" else number("height")
    fill = _fill(element)
    if element.tag == "line":
        return [Stroke(((number("x1"), number("y1")), (number("x2"), number("y2"))))]
    if element.tag == "rect":
        corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y))
        return [Stroke(corners, fill)]
    if element.tag in ("circle", "ellipse"):
        return [Stroke(arc(x, y, width, height, 0, 360), fill)]
    if element.tag == "arc":
        return [Stroke(arc(x, y, width, height, number("start"), number("angle")))]
    if element.tag == "polygon":
        points: list[Point] = []
        while element.get(f"x{len(points) + 1}") is not None:
            place = len(points) + 1
            points.append((number(f"x{place}"), number(f"y{place}")))
        closed = element.get("closed") != "false"
        if len(points) > 1:
            chain = (*points, points[0]) if closed else tuple(points)
            return [Stroke(chain, fill if closed else None)]
    return []


def arc(
    x: float, y: float, width: float, height: float, start: float, angle: float
) -> tuple[Point, ...]:
    """Points of an elliptic arc inside the box with the upper left corner (x, y)."""
    steps = max(2, round(abs(angle) / 360 * ROUND))
    turns = [math.radians(start + angle * step / steps) for step in range(steps + 1)]
    return tuple(
        (x + width / 2 * (1 + math.cos(turn)), y + height / 2 * (1 - math.sin(turn)))
        for turn in turns
    )


def _fill(element: Element) -> int | None:
    """The grey of `filling:COLOUR` in the style; colours other than black and white are light."""
    for entry in (element.get("style") or "").split(";"):
        name, _, value = entry.partition(":")
        if name.strip() == "filling":
            return GREYS.get(value.strip(), 208)
    return None

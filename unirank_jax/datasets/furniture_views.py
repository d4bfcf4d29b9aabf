"""Line drawings of 3-D models in numpy: seven views of a design, as in a design patent.

Every triangle is sampled on a lattice finer than a pixel; the nearest sample per pixel gives
depth and surface normal. A line is drawn where the outline, a crease or a step in depth is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from unirank_jax.datasets.pictures import grey_png

Array = np.ndarray

# Angles (turn about the vertical axis, tilt about the horizontal one) in degrees.
VIEWS = {
    "perspective": (-35.0, 25.0),
    "front": (0.0, 0.0),
    "rear": (180.0, 0.0),
    "left": (90.0, 0.0),
    "right": (-90.0, 0.0),
    "top": (0.0, 90.0),
    "bottom": (0.0, -90.0),
}
PIXELS = 112  # side of the drawing
FINE = 2 * PIXELS  # side of the raster on which lines are found
FILL = 0.9  # share of the side that the object takes
STEP = 0.8  # largest distance of samples, in pixels of the raster
OFF_GRID = 0.4  # keeps the middle and the border off pixel borders, where rounding would zigzag
CREASE = 0.82  # cosine of the angle between normals below which an edge is drawn
DEPTH_STEP = 0.03  # share of FINE by which depth must jump for an edge
DARKER = 1.8  # thin lines get lighter when the raster is halved; this makes up for it
DEPTH_STEPS = 1 << 20
BATCH = 400_000  # samples held at a time


@dataclass(frozen=True)
class Mesh:
    """Corners (n, 3), triangles (m, 3) of corner numbers, and the names of parts."""

    corners: Array
    triangles: Array
    names: tuple[str, ...]


def parse_obj(text: str) -> Mesh:
    """The triangles and the group, object and material names of a Wavefront OBJ file.

    Polygons are cut into fans. Raises ValueError where no triangle is left or a number is
    wrong. Format: `v x y z`, `f a/at/an b/bt/bn ...` counted from 1 or, negative, from the end.
    """
    corners: list[list[float]] = []
    triangles: list[tuple[int, int, int]] = []
    names: set[str] = set()
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "v":
            corners.append([float(number) for number in rest.split()[:3]])
        elif word == "f":
            numbers = [int(corner.split("/")[0]) for corner in rest.split()]
            face = [n - 1 if n > 0 else len(corners) + n for n in numbers]
            triangles += [
                (face[0], face[i], face[i + 1])
                for i in range(1, len(face) - 1)
                if len({face[0], face[i], face[i + 1]}) == 3
            ]
        elif word in ("g", "o", "usemtl"):
            names.add(rest.strip())
    points = np.array(corners, np.float64).reshape(-1, 3)
    faces = np.array(triangles, np.int64).reshape(-1, 3)
    if not len(faces):
        raise ValueError("the model has no face")
    if faces.min() < 0 or faces.max() >= len(points):
        raise ValueError("a face names a corner that is not there")
    return Mesh(points, faces, tuple(sorted(names)))


def draw_views(mesh: Mesh, model_rotation: Array) -> dict[str, bytes]:
    """All seven views as PNGs (PIXELS square, 16 greys), each scaled to fill its square."""
    turned = mesh.corners @ model_rotation.T
    return {
        name: grey_png(draw(turned @ rotation(*angles).T, mesh.triangles))
        for name, angles in VIEWS.items()
    }


def rotation(turn: float, tilt: float) -> Array:
    """First about the vertical axis, then about the horizontal one; degrees."""
    a, b = np.radians([turn, tilt])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_x @ about_y


def draw(corners: Array, triangles: Array) -> Array:
    """The line drawing (PIXELS, PIXELS) uint8 of a model seen along its z axis, y upwards."""
    placed = place(corners, triangles)
    nearest, depth = rasterize(placed)
    lines = remove_specks(find_lines(nearest, depth, normals(placed)))
    ink = Image.fromarray(np.where(lines, 255, 0).astype(np.uint8))
    small = np.asarray(ink.resize((PIXELS, PIXELS), Image.Resampling.BOX), np.float32)
    return (255 - np.clip(small * DARKER, 0, 255)).astype(np.uint8)


def place(corners: Array, triangles: Array) -> Array:
    """Triangles (m, 3, 3) in raster coordinates: x to the right, y down, z towards the eye."""
    used = corners[np.unique(triangles)]
    low, high = used.min(axis=0), used.max(axis=0)
    scale = FILL * FINE / max(float((high - low)[:2].max()), 1e-9)
    points = (corners - (low + high) / 2) * scale * np.array([1, -1, 1])
    points[:, :2] += FINE / 2 + OFF_GRID
    return points[triangles]


def normals(placed: Array) -> Array:
    """Unit normals turned towards the eye; zero for triangles without an area."""
    cross = np.cross(placed[:, 1] - placed[:, 0], placed[:, 2] - placed[:, 0])
    length = np.linalg.norm(cross, axis=1, keepdims=True)
    unit = np.divide(cross, length, out=np.zeros_like(cross), where=length > 0)
    return np.where(unit[:, 2:] < 0, -unit, unit)


def rasterize(placed: Array) -> tuple[Array, Array]:
    """Per pixel the nearest triangle (-1: none) and its depth, both (FINE, FINE).

    Triangles of about the same size are sampled together on one barycentric lattice. Depth and
    triangle share one integer, so one maximum keeps both and ties have one winner.
    """
    shallow = placed[:, :, 2].min()
    span = max(float(np.ptp(placed[:, :, 2])), 1e-9)
    scaled = placed - [0, 0, shallow]
    scaled[:, :, 2] *= (DEPTH_STEPS - 1) / span
    scaled = scaled.astype(np.float32)  # FILL keeps x and y inside the raster
    sides = np.linalg.norm(placed[:, :, :2] - np.roll(placed[:, :, :2], 1, axis=1), axis=2)
    cells = np.ceil(sides.max(axis=1) / STEP).astype(np.int64) + 1
    cells = np.where(cells > 8, (cells + 7) // 8 * 8, cells)
    buffer = np.full(FINE * FINE, -1, np.int64)
    for count in np.unique(cells):
        members = np.nonzero(cells == count)[0]
        first, second = np.divmod(np.arange((count + 1) ** 2), count + 1)
        inside = first + second <= count
        along, across = ((x[inside] / count).astype(np.float32) for x in (first, second))
        batch = max(1, BATCH // len(along))
        for start in range(0, len(members), batch):
            chosen = members[start : start + batch]
            corner = scaled[chosen][:, :, None]
            edges = corner[:, 1:] - corner[:, :1]
            x, y, z = (
                (corner[:, 0, :, i] + edges[:, 0, :, i] * along + edges[:, 1, :, i] * across)
                for i in range(3)
            )
            cell = y.astype(np.int32) * FINE + x.astype(np.int32)
            key = (z.astype(np.int64) << 32) | chosen[:, None]
            np.maximum.at(buffer, cell.ravel(), key.ravel())
    hit = buffer >= 0
    nearest = np.where(hit, buffer & 0xFFFFFFFF, -1)
    depth = np.where(hit, (buffer >> 32) / (DEPTH_STEPS - 1) * span, 0.0)
    return nearest.reshape(FINE, FINE), depth.reshape(FINE, FINE)


def find_lines(nearest: Array, depth: Array, facing: Array) -> Array:
    """Where a pixel and its right or lower neighbour differ enough for a line to be drawn."""
    solid = nearest >= 0
    normal = np.where(solid[..., None], facing[np.maximum(nearest, 0)], 0.0)
    lines = np.zeros_like(solid)
    for axis in (0, 1):
        here, there = [slice(None)] * 2, [slice(None)] * 2
        here[axis], there[axis] = slice(None, -1), slice(1, None)
        a, b = tuple(here), tuple(there)
        both = solid[a] & solid[b]
        crease = (normal[a] * normal[b]).sum(axis=-1) < CREASE
        jump = np.abs(depth[a] - depth[b]) > DEPTH_STEP * FINE
        lines[a] |= (solid[a] != solid[b]) | (both & (crease | jump))
    return lines


def remove_specks(lines: Array, rounds: int = 2, fewest: int = 5) -> Array:
    """Without line pixels that have fewer than `fewest` in the 5 x 5 square around them."""
    for _ in range(rounds):
        padded = np.pad(lines, 2).astype(np.int16)
        rows = np.sum([padded[i : i + lines.shape[0]] for i in range(5)], axis=0)
        around = np.sum([rows[:, i : i + lines.shape[1]] for i in range(5)], axis=0)
        lines = lines & (around >= fewest)
    return lines

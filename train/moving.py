"""Pictures turned, scaled and shifted at random, so that places and sizes do not matter."""

from __future__ import annotations

import numpy as np
from PIL import Image


def moved(
    image: Image.Image, rng: np.random.Generator, turn: float, zoom: float, shift: float
) -> Image.Image:
    """The RGB image on white, of the same size.

    turn: degrees at most, either way. zoom: scaled by 1 - zoom to 1 + zoom. shift: share of its
    sides at most, either way. All zero: the image itself.
    """
    if not (turn or zoom or shift):
        return image
    angle = np.deg2rad(rng.uniform(-turn, turn))
    scale = 1.0 / rng.uniform(1.0 - zoom, 1.0 + zoom)
    move_x, move_y = rng.uniform(-shift, shift, 2) * image.size
    centre_x, centre_y = image.width / 2, image.height / 2
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    back_x = centre_x - cos * (centre_x + move_x) - sin * (centre_y + move_y)
    back_y = centre_y + sin * (centre_x + move_x) - cos * (centre_y + move_y)
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        (cos, sin, back_x, -sin, cos, back_y),
        Image.Resampling.BILINEAR,
        fillcolor=(255, 255, 255),
    )

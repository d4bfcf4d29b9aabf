"""Drawings of the design dataset: the renderer of models, and pictures from SVG and pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from made_up_design import CUBE, pixels
from PIL import Image

from unirank_jax.datasets import (
    furniture_views,
    pictures,
)
from unirank_jax.datasets.dataset import SourceError
from unirank_jax.datasets.xmltext import parse_xml


def test_a_cube_from_the_front_is_a_square_and_nothing_else():
    mesh = furniture_views.parse_obj(CUBE)
    assert mesh.triangles.shape == (12, 3) and mesh.names == ("darkOak", "wooden_Box.001")
    drawing = furniture_views.draw(mesh.corners, mesh.triangles)
    side = furniture_views.PIXELS
    margin = round(side * (1 - furniture_views.FILL) / 2)
    assert drawing.shape == (side, side) and drawing.dtype == np.uint8
    inside = drawing[margin + 4 : -margin - 4, margin + 4 : -margin - 4]
    assert inside.min() == 255, "the diagonals of the faces are no edges"
    for line in (drawing, drawing.T):
        dark = np.nonzero(line[side // 2] < 128)[0]
        assert len(dark) and np.all((abs(dark - margin) < 3) | (abs(dark - (side - margin)) < 3)), (
            "one line at either border"
        )


def test_a_cube_in_perspective_shows_three_faces():
    mesh = furniture_views.parse_obj(CUBE)
    turned = mesh.corners @ furniture_views.rotation(40, 35).T
    drawing = furniture_views.draw(turned, mesh.triangles)
    corner = np.array([-1, 1, 1]) @ furniture_views.rotation(40, 35).T  # the nearest one
    assert corner[2] == turned[:, 2].max()
    low, high = turned.min(axis=0), turned.max(axis=0)
    scale = furniture_views.FILL * furniture_views.PIXELS / (high - low)[:2].max()
    column, row = ((corner - (low + high) / 2)[:2] * [1, -1] * scale + 56).round().astype(int)
    assert drawing[row - 2 : row + 3, column - 2 : column + 3].min() < 128, "three edges meet"
    below = drawing[row + 20, column - 10 : column + 10] < 128
    assert 1 <= below.sum() <= 3, "below the corner one edge stands between two blank faces"
    above = drawing[row - 12 : row - 2, column]
    assert above.min() == 255, "above it lies the blank upper face"


def test_depth_decides_what_is_seen_and_views_turn_the_right_way():
    post = "v -1 0 0\nv 1 0 0\nv 1 2 0\nv -1 2 0\nf 1 2 3 4\n"
    knob = "v .2 .8 1\nv .6 .8 1\nv .6 1.2 1\nv .2 1.2 1\nf 5 6 7 8\n"
    mesh = furniture_views.parse_obj(post + knob)
    views = furniture_views.draw_views(mesh, np.eye(3))
    assert list(views) == list(furniture_views.VIEWS)
    half = furniture_views.PIXELS // 2
    front, rear = pixels(views["front"]), pixels(views["rear"])
    assert (front[40:70, half + 5 : half + 40] < 128).any(), "the knob is on the right in front"
    assert not (rear[30:80, 20:90] < 128).any(), "from behind the panel hides it"
    left, right = pixels(views["left"]), pixels(views["right"])
    assert np.nonzero(left < 128)[1].mean() < half, "the panel is left, the knob right of it"
    assert np.nonzero(right < 128)[1].mean() > half
    columns = np.nonzero((left < 128).all(axis=0) | ((left < 128).sum(axis=0) > 90))[0]
    assert len(columns) in (1, 2), "the panel from its side is one straight line"


def test_the_renderer_is_reproducible_and_small():
    mesh = furniture_views.parse_obj(CUBE)
    once = furniture_views.draw_views(mesh, np.eye(3))
    assert once == furniture_views.draw_views(mesh, np.eye(3))
    for png in once.values():
        assert len(png) < 2500
        with Image.open(io.BytesIO(png)) as image:
            assert image.size == (112, 112) and len(image.convert("L").getcolors()) <= 16


def test_a_bad_model_is_refused():
    with pytest.raises(ValueError, match="no face"):
        furniture_views.parse_obj("v 0 0 0\n")
    with pytest.raises(ValueError, match="corner that is not there"):
        furniture_views.parse_obj("v 0 0 0\nv 1 0 0\nf 1 2 3\n")


def test_grey_and_colour_pngs_keep_what_was_drawn():
    grey = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    assert abs(pixels(pictures.grey_png(grey)).astype(int) - grey).max() <= 9
    assert abs(pixels(pictures.grey_png(grey, levels=4)).astype(int) - grey).max() <= 43
    red = Image.new("RGB", (9, 9), "red")
    with Image.open(io.BytesIO(pictures.colour_png(red))) as image:
        assert image.convert("RGB").getpixel((4, 4)) == (255, 0, 0)


def test_svg_becomes_a_centred_picture():
    pytest.importorskip("resvg_py")
    wide = '<svg width="2in" height="1in"><rect width="180" height="90" fill="currentColor"/></svg>'
    wide = wide.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"')
    png = pictures.draw_svg(wide)
    assert png is not None and png == pictures.draw_svg(wide)
    drawn = pixels(png)
    assert drawn.shape == (96, 96)
    assert drawn[48, 5] < 30 and drawn[48, 90] < 30 and drawn[10, 48] > 225 and drawn[86, 48] > 225
    assert pictures.draw_svg("<svg") is None
    empty = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>'
    assert pictures.draw_svg(empty) is None, "blank pictures are left out"


def test_a_view_box_takes_the_place_of_width_and_height():
    boxed = pictures.with_view_box('<?xml?><svg id="a" width="1in" height="45">x</svg>')
    assert boxed == '<?xml?><svg viewBox="0 0 90 45" id="a">x</svg>'
    kept = '<svg viewBox="0 0 1 1" >x</svg>'
    assert pictures.with_view_box('<svg viewBox="0 0 1 1" width="100%">x</svg>') in (
        kept,
        kept.replace(" >", ">"),
    )
    assert pictures.with_view_box("<svg>x</svg>") == "<svg>x</svg>"


def test_what_was_drawn_is_kept_when_a_build_stops(tmp_path):
    path = tmp_path / "rendered" / "x.msgpack"
    asked = []

    def draw(value):
        asked.append(value)
        if value == 3:
            raise KeyboardInterrupt
        return bytes([value]) if value else None

    wanted = {str(number): number for number in range(5)}
    with pytest.raises(KeyboardInterrupt):
        pictures.cached_pictures(path, wanted, draw)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    asked.clear()
    kept = pictures.cached_pictures(path, {"0": 0, "1": 1, "2": 2}, draw)
    assert kept == {"0": None, "1": b"\1", "2": b"\2"} and not asked
    path.write_bytes(b"\xc1")
    with pytest.raises(SourceError, match="damaged .* remove it"):
        pictures.cached_pictures(path, wanted, draw)


def test_entities_are_refused():
    bomb = '<!DOCTYPE s [<!ENTITY a "aaaa">]><s>&a;</s>'
    with pytest.raises(ValueError, match="declares entities"):
        parse_xml(bomb)
    with pytest.raises(ValueError, match="not well formed"):
        parse_xml("<s>")
    assert parse_xml("<s>&amp;</s>").text == "&"

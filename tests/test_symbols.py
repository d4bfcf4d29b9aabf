"""The symbols dataset on hand-made elements: the drawing, the reader, and the whole build."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from unirank_jax.datasets import build, symbol_drawing, symbols
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.labels import label_key
from unirank_jax.datasets.records import held_out_id, split_of
from unirank_jax.datasets.xmltext import parse_xml

STYLE = 'style="line-style:normal;filling:{};color:black"'


def description(*shapes: str):
    return parse_xml(f"<description>{''.join(shapes)}</description>")


def drawn(*shapes: str) -> np.ndarray:
    png = symbol_drawing.draw_symbol(description(*shapes))
    assert png is not None
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("L"))


def element(number: int, name: str, **others: str) -> str:
    """An element whose drawing differs from number to number."""
    names = "".join(f'<name lang="{code}">{x}</name>' for code, x in others.items())
    lines = "".join(
        f'<line x1="{10 * bit}" y1="0" x2="{10 * bit + (5 if number >> bit & 1 else 0)}" y2="60"/>'
        for bit in range(7)
    )
    return (
        f'<definition><names><name lang="en">{name}</name>{names}</names>'
        f"<description>{lines}</description></definition>"
    )


# ---------------------------------------------------------------- drawing


def test_lines_are_where_they_belong():
    side = symbol_drawing.PIXELS
    cross = drawn('<line x1="0" y1="0" x2="10" y2="10"/>', '<line x1="0" y1="10" x2="10" y2="0"/>')
    assert cross.shape == (side, side)
    assert cross[side // 2, side // 2] < 60 and cross[side // 2, 10] > 240
    assert cross[12, 12] < 120 and cross[side - 13, 12] < 120


def test_shapes_are_outlines_or_filled():
    middle = symbol_drawing.PIXELS // 2
    shape = '<rect x="-5" y="-5" width="10" height="10" {}/>'
    assert drawn(shape.format(STYLE.format("none")))[middle, middle] > 240
    assert drawn(shape.format(STYLE.format("black")))[middle, middle] < 10
    assert 180 < drawn(shape.format(STYLE.format("red")))[middle, middle] < 230
    circle = drawn('<circle x="0" y="0" diameter="8"/>')
    assert circle[middle, middle] > 240 and circle[5, 5] > 240 and circle[middle].min() < 60
    triangle = ' x1="0" y1="0" x2="8" y2="0" x3="4" y3="8"'
    closed = drawn(f"<polygon{triangle}/>")
    opened = drawn(f'<polygon{triangle} closed="false"/>')
    assert (closed < 128).sum() > (opened < 128).sum()


def test_arcs_turn_against_the_clock():
    points = symbol_drawing.arc(0, 0, 2, 2, 0, 90)
    assert points[0] == (2, 1)
    assert math.isclose(points[-1][0], 1) and math.isclose(points[-1][1], 0, abs_tol=1e-9)


def test_what_is_no_line_is_left_out():
    text = '<text x="0" y="0" text="name of the symbol"/>'
    assert symbol_drawing.draw_symbol(description(text)) is None
    shape = '<line x1="0" y1="0" x2="9" y2="5"/>'
    assert np.array_equal(drawn(shape), drawn(shape, text, '<terminal x="99" y="99"/>'))
    with pytest.raises(ValueError):
        symbol_drawing.draw_symbol(description('<line x1="a" y1="0" x2="9" y2="5"/>'))
    assert symbol_drawing.draw_symbol(description('<line x1="nan" x2="9"/>')) is None


# ---------------------------------------------------------------- reading


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    """A small collection: two folders, seven sections, some names in other languages."""
    root = tmp_path / "unpacked"
    for number in range(120):
        folder = root / f"usr/share/qelectrotech/elements/10_a/{number % 7}_part"
        folder.mkdir(parents=True, exist_ok=True)
        others = {"de": f"Ding {number}"} | ({"fr": f"chose {number}"} if number % 2 else {})
        name = f"part {number - number % 2 if number < 20 else number}"
        (folder / f"{number}.elmt").write_text(element(number, name, **others), encoding="utf-8")
    (folder / "qet_directory").write_text(
        '<qet-directory><names><name lang="en">Fine parts</name></names></qet-directory>'
    )
    (folder / "broken.elmt").write_text("<definition>")
    (folder / "foreign.elmt").write_text(element(1, "").replace('"en"', '"pl"'))
    (folder / "bomb.elmt").write_text('<!DOCTYPE a [<!ENTITY b "c">]>' + element(1, "&b;"))
    articles = root / "usr/share/qelectrotech/elements/20_manufacturers_articles"
    articles.mkdir()
    (articles / "x.elmt").write_text(element(5, "AX-150"))
    copyright_file = root / "usr/share/doc/qelectrotech-data/copyright"
    copyright_file.parent.mkdir(parents=True)
    copyright_file.write_text("License: CC-BY-3.0\n")
    for module in ("symbols", "notices"):
        monkeypatch.setattr(f"unirank_jax.datasets.{module}.unpack", lambda *_: root)
    monkeypatch.setattr(symbols, "preflight", lambda *_: None)
    return tmp_path


def test_symbols_are_read_with_their_folders(unpacked):
    read = symbols.read_symbols(unpacked, 1)
    assert len(read) == 120 and all(symbol.path.endswith(".elmt") for symbol in read)
    one = next(symbol for symbol in read if symbol.name == "part 117")
    assert one.names == {"de": "Ding 117", "fr": "chose 117"}
    assert one.folders == ("10 a", "5 part"), "a folder without a title has its own name"
    fine = [symbol for symbol in read if symbol.folders[1] == "Fine parts"]
    assert len(fine) == 18
    card = symbols.symbol_thing(fine[0], first=True).items["card"].parts[0].text
    assert card.startswith("Fine parts. Ding ") and fine[0].name not in card
    assert symbols.symbol_thing(one, first=True).stand_in == "10 a", "part is in its name"


def test_everything_is_held_out_and_well_formed(unpacked, capsys):
    arguments = ["--raw", str(unpacked), "--processes", "1"]
    assert build.main(["symbols", "--out", str(unpacked / "a"), *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert build.main(["symbols", "--out", str(unpacked / "b"), *arguments]) == 0
    assert json.loads(capsys.readouterr().out) == printed
    dataset = Dataset.open(unpacked / "a")
    assert dataset.splits == ("test",)
    items = {item.did: item for item in dataset.items_of("test")}
    assert {split_of(item.split_id) for item in items.values()} == {"test"}
    names = {x.unit_id: x.parts[0].text for x in items.values() if x.kind == "name"}
    kinds, by_name = set(), []
    for ranked in dataset.lists("test"):
        query = dataset.query(ranked.qid)
        kinds.add(query.kind)
        by_name += [names[query.unit_id]] if query.kind == "name->drawing" else []
        assert len(set(ranked.dids)) == 20 and 1 <= sum(ranked.grades) <= 2
        assert len({items[did].dup_id for did in ranked.dids}) == 20
        for did, grade in zip(ranked.dids, ranked.grades, strict=True):
            assert (items[did].unit_id == query.unit_id) == bool(grade)
            if not grade:
                other = names[items[did].unit_id]
                assert label_key(other) != label_key(names[query.unit_id])
    assert kinds == {
        "drawing->name",
        "name->drawing",
        "name->drawing+card",
        "name->drawing/card/both",
        "name-de->drawing/name",
        "name-fr->drawing/name",
        "drawing+name-de->name",
    }
    assert len(by_name) == len(set(by_name)) == 110, "one query per distinct name"
    meta = json.loads((unpacked / "a" / "meta.json").read_text())
    assert meta["licences"] == {"qelectrotech-data": "CC-BY-3.0"}
    assert meta["counts"]["test"]["candidates_by_origin"]["same_folder"]
    notice = (unpacked / "a" / "LICENSES").read_text()
    assert "drawn as small pictures" in notice and "License: CC-BY-3.0" in notice
    assert "data:image/png" in (unpacked / "a" / "sheet.html").read_text()


def test_any_name_can_be_held_out():
    ids = [held_out_id(f"x{number}") for number in range(30)]
    assert len(set(ids)) == 30 and {split_of(one) for one in ids} == {"test"}

"""The design dataset on hand-made inputs: renderer, readers, splits, lists, and the whole build."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from PIL import Image

from unirank_jax.content import ImagePart
from unirank_jax.datasets import (
    build,
    clipart,
    design,
    design_lists,
    emoji,
    furniture,
    furniture_views,
    graded,
    icons,
    labels,
    notices,
    pictures,
    sources,
    stand_ins,
)
from unirank_jax.datasets.dataset import Dataset, SourceError
from unirank_jax.datasets.graded import Thing, item_maker
from unirank_jax.datasets.records import SPLITS, split_of
from unirank_jax.datasets.sheet import sheet
from unirank_jax.datasets.sources import Archive
from unirank_jax.datasets.xmltext import parse_xml

CUBE = """\
o wooden_Box.001
usemtl darkOak
v -1 -1 -1
v 1 -1 -1
v 1 1 -1
v -1 1 -1
v -1 -1 1
v 1 -1 1
v 1 1 1
v -1 1 1
f 1/1 2/2 3/3 4/4
f 5 6 7 8
f 1 2 6 5
f 4 3 7 8
f 1 4 8 5
f -7 -6 -2 -3
"""


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("L"))


# ---------------------------------------------------------------- renderer


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


# ---------------------------------------------------------------- pictures


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


# ---------------------------------------------------------------- archives


def test_every_archive_has_a_lock_entry():
    for name in (*design.PACKAGES, "qelectrotech-data", "python-sklearn-doc"):
        archive = sources.lock()[name]
        assert len(archive.sha256) == 64 and archive.registry in sources.FETCHERS
        assert "/" not in archive.file and "/" not in archive.folder


def test_missing_tools_are_named_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources.shutil, "which", lambda _tool: None)
    arguments = ["design", "--out", str(tmp_path / "out"), "--raw", str(tmp_path)]
    assert build.main(arguments) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("apt-get (for", "dpkg-deb (for", "npm (for", "@mdi/svg"))


def test_a_wrong_archive_is_refused(tmp_path, monkeypatch):
    (tmp_path / "x-1.tgz").write_bytes(b"something else")
    archive = Archive("x", "npm", "1", "x-1.tgz", "0" * 64)
    monkeypatch.setattr(sources, "lock", lambda: {"x": archive})
    with pytest.raises(SourceError, match="sha256 is .* expected 0000.*remove the file"):
        sources.unpack("x", tmp_path)


def test_an_npm_archive_is_unpacked_once(tmp_path, monkeypatch):
    path = tmp_path / "x-1.tgz"
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo("package/LICENSE")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"free"))
    digest = sources.hashlib.sha256(path.read_bytes()).hexdigest()
    archive = Archive("@s/x", "npm", "1", path.name, digest)
    monkeypatch.setattr(sources, "lock", lambda: {"@s/x": archive})
    monkeypatch.setattr(notices, "lock", sources.lock)
    folder = sources.unpack("@s/x", tmp_path)
    assert folder == tmp_path / "unpacked" / "s-x" / "package"
    assert notices.package_notice("@s/x", tmp_path) == "free"
    assert sources.unpack("@s/x", tmp_path) == folder


# ---------------------------------------------------------------- labels


def test_labels_that_mean_the_same():
    assert labels.label_key("Arrow-Left_outline") == labels.label_key("left arrow")
    assert labels.label_key("account") != labels.label_key("account 2")
    assert labels.label_key("outline") == ""
    tags = ["chairs", "Seat", "seat", "deck-chair", "wood_work"]
    assert labels.without_words(tags, "Deck chair") == ["Seat", "wood work"]


def test_groups_are_united():
    groups = labels.Groups()
    groups.join("icon:arrow", "label:arrow left")
    groups.join("emoji:left arrow", "label:arrow left")
    groups.join("icon:left", "label:left")
    assert groups.group("emoji:left arrow") == groups.group("icon:arrow") == "emoji:left arrow"
    assert groups.group("icon:left") == "icon:left"
    assert groups.group("alone") == "alone"


# ---------------------------------------------------------------- readers


CATALOGUE = (
    "# a comment\nid=x\nid#1=Lib#oak\nname#1=Oak chair\ntags#1=Blend Swap, Seat, Chairs\n"
    "category#1=Living room\nmodel#1=/m/cube.obj\nwidth#1=45\ndepth#1=50\nheight#1=95.5\n"
    "creator#1=A. Maker\nmodelRotation#1=1 0 0 0 \\\n  0 1 0 -1 0\n"
    "id#2=Lib#none\nname#2=Thing\nmodel#2=/m/missing.obj\n"
)


def catalogue(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", CATALOGUE)
        german = "name#1=Eichenst\\u00fchle\nname#2=Thing\n"
        archive.writestr("PluginFurnitureCatalog_de.properties", german)
        archive.writestr("m/cube.obj", CUBE)


def test_a_furniture_catalogue_becomes_things(tmp_path):
    path = tmp_path / "Scopia.sh3f"
    catalogue(path)
    oak, other = furniture.read_catalogue(path)
    assert (oak.name, oak.names, oak.key) == ("Oak chair", {"de": "Eichenstühle"}, "oak")
    assert oak.tags == ("Seat", "Chairs") and oak.size == (45, 50, 95.5)
    assert oak.rotation == (1, 0, 0, 0, 0, 1, 0, -1, 0) and oak.creator == "A. Maker"
    assert other.names == {}, "a translation that is the English word is none"
    drawn = furniture.draw_design((str(path), oak.model, oak.rotation))
    assert furniture.part_names(drawn["names"]) == ["dark", "wooden"]
    thing = furniture.design_thing(oak, drawn)
    assert thing.family == "furniture: chair"
    card = thing.items["card"].parts[0].text
    assert card == "Living room. seat. parts: dark, wooden. 45 x 50 x 95.5 cm."
    assert thing.items["description"].parts[0].text == f"Oak chair. {card}"
    assert thing.items["front+card"].modality == "mixed"
    assert thing.asks == {"title": "Oak chair", "title-de": "Eichenstühle"}
    assert thing.stand_in == "Living room. 45 x 50 x 95.5 cm"
    assert furniture.draw_design((str(path), other.model, ())) is None
    (tmp_path / "no.sh3f").write_bytes(b"x")
    with pytest.raises(SourceError, match="no furniture catalogue"):
        furniture.read_catalogue(tmp_path / "no.sh3f")


def test_a_stand_in_says_nothing_that_is_asked():
    concept = emoji.Concept(
        "1f415", "dog", ("pet", "hound"), "animals-nature", "animal-mammal",
        {"de": "Hund"}, ("dogs", "pet", "puppy", "Hund"),
    )  # fmt: skip
    assert emoji.stand_in_text(concept) == "animals nature, animal mammal, puppy"
    pair = {
        "tabler": icons.Icon("tabler", "saw", ("cut", "wood", "blade"), "Tools", "saw"),
        "mdi": icons.Icon("mdi", "saw", ("saws", "wood", "carpenter"), "Trade", "saw"),
    }
    drawn = {(vendor, "saw"): dot(number) for number, vendor in enumerate(pair)}
    thing = icons.icon_thing("saw", pair, drawn, "g")
    assert thing.items["tags"].parts[0].text == "cut, wood, blade"
    assert thing.stand_in == "tools, trade, carpenter"
    alone = icons.icon_thing("saw", {"mdi": pair["mdi"]}, drawn, "g")
    assert alone.stand_in == "trade, wood, carpenter", "it has no text with tags"
    clip = clipart.Clip("animals/farm dogs/x.svg", "Big dog", ("bark", "animal"))
    assert clipart.stand_in_text(clip) == ""
    clip = clipart.Clip("animals/mammals/x.svg", "Big dog", ("bark",))
    assert clipart.stand_in_text(clip) == "animals, mammals"


def test_an_iconify_icon_and_its_alias():
    table = {"icons": {"a": {"body": "<g/>", "width": 20}}, "aliases": {"b": {"parent": "a"}}}
    table["height"] = 32
    svg = emoji.iconify_svg(table, "b")
    assert svg == emoji.iconify_svg(table, "a") and 'viewBox="0 0 20 32"><g/>' in svg
    assert emoji.iconify_svg(table, "c") is None
    assert emoji.plain_code("2764-FE0F-200D-1F525") == "2764-200d-1f525"


def test_brands_are_left_out_of_icons(tmp_path):
    (tmp_path / "meta.json").write_text(
        json.dumps(
            [
                {"name": "saw", "aliases": ["cutter"], "tags": ["Tools"], "deprecated": False},
                {"name": "acme", "aliases": [], "tags": ["Brand / Logo"], "deprecated": False},
                {"name": "old", "aliases": [], "tags": [], "deprecated": True},
            ]
        )
    )
    (saw,) = icons.READERS["mdi"](tmp_path)
    assert saw == icons.Icon("mdi", "saw", ("cutter", "Tools"), "Tools", "svg/saw.svg")
    assert (saw.key, saw.head) == ("saw", "icon:saw")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.mjs").write_text(
        'const n = [{ name: "cow", pascal_name: "Cow", categories: [e.NATURE, e.FOOD], '
        'figma_category: a.NATURE, tags: ["*new*", "milk", "farm"] }, { name: "x-logo", '
        'pascal_name: "XLogo", categories: [e.BRAND], figma_category: a.BRAND, tags: ["x"] }]'
    )
    (cow,) = icons.READERS["phosphor"](tmp_path)
    assert (cow.tags, cow.category) == (("milk", "farm"), "nature")


def test_clip_art_texts(tmp_path):
    assert clipart.clean_title("tree_02.svg") == "tree"
    assert clipart.clean_title("Clipart by Someone Else - a contour") == "a contour"
    path = tmp_path / "a.svg"
    path.write_text(
        '<svg xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:r="r"><metadata><dc:title> Red '
        "pear3</dc:title><r:li>fruit</r:li><r:li>food</r:li></metadata></svg>"
    )
    assert clipart.read_texts(str(path)) == {"title": "Red pear", "keywords": ["fruit", "food"]}
    path.write_text("<svg/>")
    assert clipart.read_texts(str(path)) is None


# ---------------------------------------------------------------- lists


@cache
def dot(number: int) -> bytes:
    """A picture that differs from number to number, in a place of its own."""
    image = np.full((112, 112), 255, np.uint8)
    row, column = divmod(number * 37 % 28**2, 28)
    image[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] = 0
    for bit in range(20):
        image[111, 5 * bit : 5 * bit + 4] = 0 if number >> bit & 1 else 255
    return pictures.grey_png(image)


def made_up_things(domain: str, count: int = 60, split: str = "test") -> list[Thing]:
    """Things of a domain with all kinds of items, four to a family, all in one split."""
    things, number, place = [], 0, 0
    while len(things) < count:
        number += 1
        split_id = f"{domain} {number}"
        if split_of(split_id) != split:
            continue
        item = item_maker(f"{domain[0]}{number}", f"family {len(things) // 4}", split_id)
        kinds = {
            "furniture": tuple(furniture_views.VIEWS),
            "emoji": tuple(emoji.VENDORS),
            "icon": tuple(icons.VENDORS),
            "clipart": ("picture",),
        }[domain]
        texts = {
            "furniture": ("card", "description"),
            "emoji": ("label", "tags"),
            "icon": ("name", "tags"),
            "clipart": ("title", "keywords"),
        }[domain]
        origin = ("made up", "MIT")
        items = []
        for kind in kinds:
            place += 1
            items.append(item(kind, origin, dot(place)))
            items.append(item(f"{kind}+{texts[0]}", origin, dot(place), f"c {number}"))
            items.append(item(f"{kind}+{texts[1]}", origin, dot(place), f"d {number}"))
        items += [item(kind, origin, f"{domain} {kind} {number}") for kind in texts]
        things.append(
            Thing(
                unit_id=f"{domain[0]}{number}",
                family=f"family {len(things) // 4}",
                split_id=split_id,
                items={one.kind: one for one in items},
                labels=frozenset({f"label {len(things) // 2}"}),
                category=f"category {len(things) // 12}",
                asks={x: f"{x} {number}" for x in ("title", "title-de", "label-de")},
            )
        )
    return things


def lists_of(domain: str, things: list[Thing]):
    (near, most), (far, more) = design.STEPS[domain]
    nearest = graded.neighbours_by(
        things, ((near, lambda x: x.family, most), (far, lambda x: x.category, more))
    )
    return list(
        graded.make_graded_lists(domain, "Find it.", things, design.DRAFTS[domain], nearest)
    )


@pytest.mark.parametrize("domain", design.DRAFTS)
def test_lists_are_well_formed_and_no_kind_gives_the_answer_away(domain):
    things = made_up_things(domain)
    owners = {item.did: thing for thing in things for item in thing.items.values()}
    items = {item.did: item for thing in things for item in thing.items.values()}
    by_id = {thing.unit_id: thing for thing in things}
    made = lists_of(domain, things)
    assert made == lists_of(domain, things), "the same things give the same lists"
    common: Counter[tuple[str, str]] = Counter()
    relevant: Counter[tuple[str, str]] = Counter()
    origins: Counter[str] = Counter()
    for query, ranked in made:
        thing = by_id[query.unit_id]
        candidates = [items[did] for did in ranked.dids]
        assert len(candidates) == len(set(ranked.dids)) == 20
        assert len({item.dup_id for item in candidates}) == 20
        assert any(grade >= query.rel_min for grade in ranked.grades)
        for item, grade, origin in zip(candidates, ranked.grades, ranked.neg_types, strict=True):
            own = item.unit_id == query.unit_id
            assert own == (grade > 0) == (origin in ("positive", "wrong_view"))
            assert (origin == "positive") == (grade >= query.rel_min)
            assert item.dup_id != query.dup_id
            if not own and origin != "random":
                shared = owners[item.did].family == thing.family
                assert shared == (origin == design.STEPS[domain][0][0])
            if not own and "view" not in query.kind and query.kind != "drawing->drawing":
                assert not owners[item.did].labels & thing.labels, "not wrong, only another one"
            form = "+".join(
                "image" if isinstance(part, ImagePart) else "text" for part in item.parts
            )
            common[query.kind, form] += 1
            relevant[query.kind, form] += grade >= query.rel_min
            origins[origin] += 1
    assert {query.kind for query, _ in made} >= {"furniture": {"drawing+question->view"}}.get(
        domain, set()
    )
    for kind in {query.kind for query, _ in made}:
        shares = [relevant[pair] / common[pair] for pair in common if pair[0] == kind]
        assert max(shares) < 2.5 * min(shares), (kind, relevant, common)
    assert all(origins[name] for name, _ in design.STEPS[domain])
    places = {ranked.grades.index(max(ranked.grades)) for _, ranked in made}
    assert len(places) == 20, "relevant candidates stand at every position"


def test_a_wrong_view_has_grade_one_and_does_not_count():
    things = made_up_things("furniture")
    made = [pair for pair in lists_of("furniture", things) if pair[0].kind.endswith("->view")]
    assert made
    for query, ranked in made:
        kinds = {
            did.partition(".")[2]: grade
            for did, grade in zip(ranked.dids, ranked.grades, strict=True)
            if did.startswith(f"{query.unit_id}.")
        }
        assert query.rel_min == 2 and sorted(kinds.values()) == [1, 1, 2, 2]
        (asked,) = {kind.partition("+")[0] for kind, grade in kinds.items() if grade == 2}
        assert design_lists.VIEW_QUESTIONS[asked] == query.parts[-1].text
        assert isinstance(query.parts[0], ImagePart)


def test_views_that_look_alike_are_never_asked_for():
    (thing,) = made_up_things("furniture", 1)
    same = thing.items["rear"].parts
    items = thing.items | {
        "front": item_maker("f", "x", "y")("front", ("made up", "MIT"), same[0].source)
    }
    twin = replace(thing, items=items)
    assert "front" in design_lists.unlike(thing)["rear"]
    assert "front" not in design_lists.unlike(twin)["rear"]


def test_lists_that_cannot_be_filled_are_left_out():
    assert lists_of("furniture", made_up_things("furniture", 3)) == []


def test_content_of_another_split_is_dropped():
    train = made_up_things("emoji", 3, "train")
    test = [replace(x, items=dict(train[0].items)) for x in made_up_things("emoji", 1)]
    kept = graded.without_clashes([*train, *test])
    assert len(kept[0].items) == len(train[0].items) and not kept[-1].items


def test_a_limit_takes_a_part_of_the_same_things():
    names = [str(number) for number in range(50)]
    some = graded.chosen_by_hash(names, 10)
    assert len(some) == 10 and set(some) <= set(graded.chosen_by_hash(names, 20))
    assert graded.chosen_by_hash(reversed(names), None) == sorted(names)


# ---------------------------------------------------------------- the whole


def fake_sources(monkeypatch, count=300):
    """Readers that make up their sources: enough things for lists in every split."""
    view_names = list(furniture_views.VIEWS)
    designs = [
        furniture.Design(
            "Scopia", None, f"k{n}", f"thing {n} box{n // 4}", {"de": f"Ding {n}"},
            f"room {n % 3}", ("wood",), (1.0, 2.0, float(n)), "Me", "m", (),
        )
        for n in range(count)
    ]  # fmt: skip
    monkeypatch.setattr(design, "preflight", lambda *_: None)
    monkeypatch.setattr(furniture, "MIN_INK", 1.0)
    monkeypatch.setattr(furniture, "read_designs", lambda _raw: designs)
    monkeypatch.setattr(
        furniture,
        "draw_designs",
        lambda chosen, *_: {
            f"{one.source}/{one.key}": {
                "views": {v: dot(7 * int(one.key[1:]) + i) for i, v in enumerate(view_names)},
                "names": [],
            }
            for one in chosen
        },
    )
    concepts = [
        emoji.Concept(f"{n:x}", f"word{n} sign", ("red", "round"), "g", f"s{n % 9}", {})
        for n in range(count)
    ]
    monkeypatch.setattr(emoji, "read_concepts", lambda _raw: concepts)
    monkeypatch.setattr(
        emoji,
        "draw_concepts",
        lambda chosen, *_: {
            one.code: {
                v: dot(9000 + 6 * int(one.code, 16) + i) for i, v in enumerate(emoji.VENDORS)
            }
            for one in chosen
        },
    )
    pool = [
        icons.Icon(vendor, f"sign-word{n}", (f"a{n}", f"b{n}", f"c{n}"), "c", f"{n}")
        for n in range(0, 2 * count, 2)
        for vendor in ("tabler", "mdi")
    ]
    monkeypatch.setattr(icons.Icon, "head", property(lambda one: f"icon:{one.name[-2:]}"))
    monkeypatch.setattr(icons, "read_icons", lambda _raw: pool)
    monkeypatch.setattr(
        icons,
        "draw_icons",
        lambda chosen, *_: {
            (one.vendor, one.key): dot(20000 + 2 * int(one.place) + (one.vendor == "mdi"))
            for one in chosen
        },
    )
    clips = [
        clipart.Clip(f"f{n % 5}/{n}.svg", f"Word{n} sign", (f"x{n}", f"y{n}")) for n in range(count)
    ]
    monkeypatch.setattr(clipart, "read_clips", lambda *_: clips)
    monkeypatch.setattr(
        clipart, "draw_clips", lambda some, *_: {x.path: dot(40000 + hash_of(x)) for x in some}
    )
    monkeypatch.setattr(design, "design_notices", lambda *_: "notices")


def hash_of(clip) -> int:
    return int(clip.path.partition("/")[2].partition(".")[0])


def test_the_whole_dataset_is_deterministic_and_no_label_crosses_splits(
    tmp_path, monkeypatch, capsys
):
    fake_sources(monkeypatch)
    arguments = ["--raw", str(tmp_path / "raw"), "--processes", "1"]
    assert build.main(["design", "--out", str(tmp_path / "a"), *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert build.main(["design", "--out", str(tmp_path / "b"), *arguments]) == 0
    assert json.loads(capsys.readouterr().out) == printed
    dataset = Dataset.open(tmp_path / "a")
    assert dataset.splits == SPLITS and dataset.fingerprint == printed["content_hash"]
    meta = json.loads((tmp_path / "a" / "meta.json").read_text())
    seen: dict[str, str] = {}
    for split in SPLITS:
        counts = meta["counts"][split]
        assert counts["candidates_by_grade"]["1"] and counts["candidates_by_origin"]["random"]
        assert set(counts["candidates_by_modality"]) == {"text", "image", "mixed"}
        assert 20 * counts["lists"] == sum(counts["candidates_by_modality"].values())
        for item in dataset.items_of(split):
            assert split_of(item.split_id) == split
            if item.kind in ("label", "name", "title"):
                key = labels.label_key(item.parts[0].text)
                assert seen.setdefault(key, split) == split, "a label is in two splits"
    texts = stand_ins.read(dataset)
    images = [i for s in SPLITS for i in dataset.items_of(s) if i.modality != "text"]
    assert set(texts) <= {item.did for item in images} and len(texts) > 0.4 * len(images)
    assert (tmp_path / "a" / stand_ins.FILE).read_bytes() == (
        tmp_path / "b" / stand_ins.FILE
    ).read_bytes()
    assert (tmp_path / "a" / "LICENSES").read_text() == "notices"
    page = (tmp_path / "a" / "sheet.html").read_text()
    assert "data:image/png;base64," in page and "http" not in page
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "b"]
    small = design.build(tmp_path / "c", tmp_path / "raw", 1, 60)
    assert small["content_hash"] != meta["content_hash"]
    ids = {item.did: item for split in SPLITS for item in dataset.items_of(split)}
    for split in SPLITS:
        for item in Dataset.open(tmp_path / "c").items_of(split):
            assert ids[item.did].split_id == item.split_id, "a part has the same splits"


def test_the_page_escapes_what_it_shows():
    item = item_maker("u", "f", "s")("name", ("made up", "MIT"), "<script>")
    things = made_up_things("clipart")
    items = [one for thing in things for one in thing.items.values()]
    (query, ranked), *_ = lists_of("clipart", things)
    ranked = replace(ranked, dids=("u.name", *ranked.dids[1:]))
    page = sheet("x & y", [item, *items], [(query, ranked)])
    assert "<script>" not in page and "&lt;script&gt;" in page and "x &amp; y" in page

"""Sources of the design dataset on hand-made inputs: labels and the readers of every kind."""

from __future__ import annotations

import json
import zipfile

import pytest
from made_up_design import CUBE, dot

from unirank_jax.datasets import (
    clipart,
    emoji,
    furniture,
    icons,
    labels,
)
from unirank_jax.datasets.dataset import SourceError


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

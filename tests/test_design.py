"""The design dataset as a whole, built from made-up sources."""

from __future__ import annotations

import json
from dataclasses import replace

from made_up_design import dot, lists_of, made_up_things

from unirank_jax.datasets import (
    build,
    clipart,
    design,
    emoji,
    furniture,
    furniture_views,
    icons,
    labels,
    stand_ins,
)
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.graded import item_maker
from unirank_jax.datasets.records import SPLITS, split_of
from unirank_jax.datasets.sheet import sheet


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

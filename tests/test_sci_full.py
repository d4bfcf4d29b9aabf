"""The full `sci` set on made-up packages: captions of HTML manuals, neighbours, the whole build."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import defaultdict

import pytest
from made_articles import pdf, pdf_box, pdf_text
from PIL import Image, ImageDraw

from unirank_jax.datasets import articles, build, manuals, sci, stand_ins
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.likeness import Likeness
from unirank_jax.datasets.molecules import Molecule
from unirank_jax.datasets.pages import page_blocks
from unirank_jax.datasets.records import SPLITS, split_of
from unirank_jax.datasets.sources import lock

PARAGRAPH = "This paragraph says at some length what is to be seen in the picture beside it."
WORDS = ("otter", "heron", "badger", "lizard", "beetle", "falcon", "salmon", "weasel", "toad")
STYLES = {
    "HTML5": "<figure><img src=a.png><figcaption>Fig. 2. A caption of it</figcaption></figure>",
    "DocBook": (
        '<div class="figure"><p class="title"><strong>Figure 17.96. A caption of it</strong></p>'
        '<div class="figure-contents"><div class="mediaobject"><img src="a.png"/></div></div></div>'
    ),
    "doxygen": (
        '<div class="image"><img src="a.png" alt=""/>'
        '<div class="caption">A caption of it</div></div>'
    ),
    "Texinfo": (
        '<div class="float"><div align="center"><img src="a.png" alt="a"></div>'
        '<div class="float-caption"><p><strong>Figure 3.1: </strong>A caption of it</p></div></div>'
    ),
    "centred": "<center><img src=a.png border=1><br>Figure: A caption of it</center>",
    "centred div": "<div align=center><img src=a.png><b><p>A caption of it</p></b></div>",
    "next block": "</p><img src=a.png><p>Figure 4: A caption of it</p>",
}


# ---------------------------------------------------------------- HTML manuals


@pytest.mark.parametrize("style", STYLES)
def test_captions_of_every_style_are_found(style):
    text = f"<body><h2>Title</h2><p>{PARAGRAPH}{STYLES[style]}<p>{PARAGRAPH} Twice.</body>"
    blocks = page_blocks(text, bare_text=True)
    (number,) = (n for n, block in enumerate(blocks) if block.kind == "image")
    assert manuals.manual_caption(blocks, number) == "A caption of it"
    texts = [block.text for block in blocks if block.kind == "paragraph"]
    assert [x for x in texts if "caption" not in x] == [PARAGRAPH, f"{PARAGRAPH} Twice."]


def test_a_title_goes_before_the_captions_of_single_images():
    text = (
        '<div class="figure"><p class="title">Figure 2. Blur examples</p>'
        '<div class="mediaobject"><img src=a.png><div class="caption"><p>Original</p></div></div>'
        '<div class="mediaobject"><img src=b.png><div class="caption"><p>Blurred</p></div></div>'
        "</div><img src=c.png>"
    )
    captions = [manuals.manual_caption(page_blocks(text), number) for number in range(3)]
    assert captions == ["Blur examples: Original", "Blur examples: Blurred", ""]


def test_alternative_texts_stand_in_where_they_say_something():
    def caption(alternative):
        return manuals.manual_caption(page_blocks(f'<img src=a.png alt="{alternative}">'), 0)

    assert caption("[The bins are shown in one small frame.]") == (
        "The bins are shown in one small frame"
    )
    assert caption("a short one") == ""
    assert caption("../images/some/long/path/of/it.png") == ""
    assert caption("a long file name of a picture.png") == ""


def test_text_without_tags_is_a_paragraph_where_asked():
    text = f"<title>T</title><body><h2>NAME</h2>{PARAGRAPH} <em>Really</em>.<ul><li>one</ul>"
    assert [block.text for block in page_blocks(text)] == ["NAME"]
    assert [block.text for block in page_blocks(text, bare_text=True)] == [
        "NAME",
        f"{PARAGRAPH} Really.",
        "one",
    ]
    navigation = page_blocks("<h2>A</h2><p>Last.</p>Previous: <a>that page</a><hr>", True)
    assert [block.text for block in navigation] == ["A", "Last."]


def test_pages_are_read_in_the_encoding_that_they_name(tmp_path):
    page = tmp_path / "a.html"
    page.write_bytes('<meta charset="iso-8859-1">Größe'.encode("latin-1"))
    assert manuals.page_text(page).endswith("Größe")
    page.write_bytes('<meta charset="no-such">Größe'.encode())
    assert manuals.page_text(page).endswith("Größe")


def test_every_package_is_locked():
    names = {name for one in manuals.OPEN + manuals.COPYLEFT for name in (one.name, one.notice)}
    locked = lock()
    for name in names | set(articles.ARTICLES) | {articles.FONTS}:
        assert locked[name].registry == "debian" and len(locked[name].sha256) == 64
    assert len(articles.ARTICLES) == 46 and len(manuals.OPEN + manuals.COPYLEFT) == 13


# ---------------------------------------------------------------- neighbours


def test_texts_that_share_rare_words_are_alike():
    texts = {
        "a": "histogram of rare earthquakes",
        "b": "map of earthquakes",
        "c": "histogram of birds",
        "d": "nothing alike",
        "e": "earthquakes of another group",
    } | {f"x{number}": f"filler{chr(97 + number)} words" for number in range(20)}
    groups = {name: "other" if name == "e" else "one" for name in texts}
    likeness = Likeness(texts, groups)
    assert set(likeness.nearest("a")) == {"b", "c"}
    assert likeness.nearest("e") == ()
    assert "x1" not in likeness.nearest("x0"), "a word of most texts counts for nothing"


# ---------------------------------------------------------------- the whole build


def picture(path, number: int) -> None:
    """A picture of 120 x 90 that differs from number to number."""
    image = Image.new("RGB", (120, 90), "white")
    rng, draw = random.Random(number), ImageDraw.Draw(image)
    for _ in range(4):
        draw.line([rng.randrange(90) for _ in range(4)], fill=(rng.randrange(200), 0, 90), width=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Unpacked packages: 24 pages of gimp-help-en, 24 of lmfit, 12 articles of vcd."""
    if any(shutil.which(tool) is None for tool in articles.TOOLS):
        pytest.skip("poppler-utils is not installed")
    root = tmp_path / "raw" / "unpacked"
    for number in range(48):
        package = "gimp-help-en" if number < 24 else "python-lmfit-doc"
        folder = root / package / ("usr/share/gimp/help" if number < 24 else "usr/share/doc/lmfit")
        body = f"<h1>Settings {number}</h1>"
        for place in range(3):
            one = 3 * number + place
            picture(folder / f"images/{one}.png", one)
            body += (
                f"<p>{PARAGRAPH} {one} {WORDS[one % 9]}, as Figure {place + 1} shows.</p><figure>"
                f"<img src=images/{one}.png><figcaption>Figure {place + 1}: Caption of number {one}"
                "</figcaption></figure>"
            )
        (folder / f"page{number}.html").write_text(f"<body>{body}</body>")
    for number in range(12):
        lines = [f"Figure 1 shows what number {number} is about, " + "and so it goes on " * 3] * 6
        page = [pdf_text(72, 500 + 13 * place, line) for place, line in enumerate(lines)]
        page += [pdf_text(72, 90, "2 Estimated quantities")]
        page += [pdf_box(150, 120, 200 + 9 * number, 170)]
        page += [pdf_text(150, 310, f"Figure 1: A made-up plot number {number}")]
        path = root / f"r-cran-vcd/usr/lib/R/site-library/vcd/doc/{number}.pdf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pdf(["\n".join(page)]))
    chosen = [one for one in manuals.COPYLEFT if one.name == "gimp-help-en"]
    for package in ("gimp-help-common", "python-lmfit-doc", "r-cran-vcd"):
        notice = root / package / f"usr/share/doc/{package}/copyright"
        notice.parent.mkdir(parents=True, exist_ok=True)
        notice.write_text(f"Licence of {package}")
    monkeypatch.setattr(sci, "OPEN", manuals.OPEN[-1:])
    monkeypatch.setattr(sci, "COPYLEFT", tuple(chosen))
    for module in (sci, articles):
        monkeypatch.setattr(module, "ARTICLES", {"r-cran-vcd": "GPL-2"})
    for name in ("manuals", "articles", "notices"):
        monkeypatch.setattr(f"unirank_jax.datasets.{name}.unpack", lambda one, _raw: root / one)
    monkeypatch.setattr(sci, "preflight", lambda *_: None)
    monkeypatch.setattr(sci, "check_poppler", lambda: None)
    monkeypatch.setattr(sci.molecule_source, "read_molecules", made_up_molecules)
    return tmp_path / "raw"


def made_up_molecules() -> list[Molecule]:
    return [
        Molecule(
            number=str(number),
            cas=f"{number}-00-0",
            formula=f"C{number // 7 + 3}H8O",
            mass=40.0 + 12 * (number // 7),
            smiles="C" * (number % 9 + 1) + "O" + "C" * (number // 9 + 1),
            skeleton=f"S{number}",
            name=f"systematic name {number}",
            synonym=f"trivial {number}",
        )
        for number in range(70)
    ]


def run(capsys, *arguments: str) -> str:
    """Build and return the printed content hash."""
    assert build.main(["sci", *arguments]) == 0
    return json.loads(capsys.readouterr().out)["content_hash"]


def test_the_full_set_is_whole_and_the_same_every_time(raw, tmp_path, capsys):
    pytest.importorskip("rdkit")
    first, second = tmp_path / "a", tmp_path / "b"
    made = run(capsys, "--out", str(first), "--raw", str(raw), "--processes", "1")
    assert run(capsys, "--out", str(second), "--raw", str(raw), "--processes", "1") == made
    shutil.rmtree(raw / "rendered")
    assert run(capsys, "--out", str(second), "--raw", str(raw), "--processes", "2") == made

    dataset = Dataset.open(first)
    items = {item.did: item for split in SPLITS for item in dataset.items_of(split)}
    licences = {item.source: item.licence for item in items.values()}
    assert licences == {
        "chemicals": "MIT",
        "gimp-help-en": "GFDL-1.2+",
        "python-lmfit-doc": "Expat",
        "r-cran-vcd": "GPL-2",
    }
    assert {item.kind for item in items.values() if item.modality == "mixed"} == {"mixed", "both"}
    splits = defaultdict(set)
    for item in items.values():
        for key in (item.dup_id, f"split {item.split_id}", f"unit {item.unit_id}"):
            splits[key].add(split_of(item.split_id))
    assert not [key for key, found in splits.items() if len(found) > 1]
    articles_in = {split_of(x.split_id) for x in items.values() if x.source == "r-cran-vcd"}
    assert articles_in == {"test"}, "a package that is held out as a whole"
    assert len({x.split_id for x in items.values() if x.source == "r-cran-vcd"}) == 12

    passages = {x.unit_id: x.parts[0].text for x in items.values() if x.kind == "passage"}
    kinds = defaultdict(int)
    for split in SPLITS:
        for ranked in dataset.lists(split):
            query = dataset.query(ranked.qid)
            kinds[query.kind] += 1
            assert len({items[did].dup_id for did in ranked.dids}) == len(ranked.dids)
            for did, grade in zip(ranked.dids, ranked.grades, strict=True):
                assert split_of(items[did].split_id) == split
                assert (items[did].unit_id == query.unit_id) == bool(grade)
    assert kinds["passage->both"] == kinds["figure+question->passage"] == len(passages)
    assert {"caption->figure", "passage->figure+caption", "name->drawing"} <= kinds.keys()
    by_source = defaultdict(list)
    for unit, text in passages.items():
        by_source[items[f"{unit}.f"].source].append(text)
    assert not [x for x in by_source["gimp-help-en"] + by_source["r-cran-vcd"] if "Figure" in x]
    assert [x for x in by_source["python-lmfit-doc"] if "Figure" in x], "as in the open scale"
    assert len(by_source["r-cran-vcd"]) == 12 and len(by_source["gimp-help-en"]) == 72

    meta = json.loads((first / "meta.json").read_text())
    origins = meta["counts"]["train"]["candidates_by_origin"]
    assert origins["same_document"] and origins["same_package"] and origins["other_document"]
    assert meta["counts"]["train"]["items_by_modality"]["mixed"]
    notices = (first / "LICENSES").read_text()
    assert "Licence of gimp-help-common" in notices and "Licence of r-cran-vcd" in notices
    assert "figure: passage-&gt;both" in (first / "sheet.html").read_text()


def test_images_of_every_source_get_stand_ins_at_once_or_later(raw, tmp_path, capsys):
    pytest.importorskip("rdkit")
    for scale in sci.SCALES:
        out = tmp_path / scale
        arguments = ["--scale", scale, "--out", str(out), "--raw", str(raw), "--processes", "1"]
        made = run(capsys, *arguments)
        first = stand_ins.read(Dataset.open(out))
        (out / stand_ins.FILE).unlink()
        assert run(capsys, *arguments, "--stand-ins-only") == made
        dataset = Dataset.open(out)
        assert stand_ins.read(dataset) == first
        items = [item for split in SPLITS for item in dataset.items_of(split)]
        assert not [x for x in items if x.modality == "text" and x.did in first]
        sources = {x.source for x in items if x.did in first}
        assert sources == {source for source, _ in dataset.meta["sources"]}
    texts = {x.source: first[x.did] for x in items if x.kind == "both"}
    assert texts["r-cran-vcd"] == "vcd: Estimated quantities"
    assert re.fullmatch(r"gimp-help-en: Settings \d+", texts["gimp-help-en"])


def test_the_open_set_has_no_more_than_before(raw, tmp_path, capsys):
    pytest.importorskip("rdkit")
    out = tmp_path / "open"
    run(capsys, "--scale", "open", "--out", str(out), "--raw", str(raw), "--processes", "1")
    dataset = Dataset.open(out)
    assert {source for source, _ in dataset.meta["sources"]} == {"chemicals", "python-lmfit-doc"}
    assert "both" not in dataset.meta["counts"]["train"]["items_by_kind"]
    assert "same_package" not in dataset.meta["neg_types"]
    kinds = {kind for split in SPLITS for kind in dataset.meta["counts"][split]["lists_by_kind"]}
    assert "figure: passage->both" not in kinds


def test_every_help_has_examples(capsys):
    for arguments in ([], ["sci"], ["design"], ["symbols"], ["tokenizer"]):
        with pytest.raises(SystemExit):
            build.main([*arguments, "--help"])
        shown = capsys.readouterr().out
        assert " ".join(["python -m unirank_jax.datasets.build", *arguments]) in shown
        assert "example" in shown

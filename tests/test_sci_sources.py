"""The sources of the sci dataset: names, drawings, pages, figures, and what stands for an image."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from made_molecules import make_dataset, molecule_units, picture
from PIL import Image

from unirank_jax.datasets import build, figures, manuals, molecules, sci, sources, stand_ins
from unirank_jax.datasets.dataset import Dataset, DatasetError, SourceError
from unirank_jax.datasets.molecules import Molecule
from unirank_jax.datasets.pages import page_blocks


def test_formula_and_synonym():
    assert molecules.heavy_atoms("C7H9N5") == 12
    assert molecules.heavy_atoms("CHCl3") == 4
    name = "2-oxidanylpropanedioic acid"
    synonyms = ["tartronic acid", "hydroxymalonic acid", "80-69-3", "m568", "stk366316"]
    assert molecules.choose_synonym(name, synonyms) == "hydroxymalonic acid"
    assert molecules.choose_synonym(name, ["80-69-3", "2-oxidanyl-propanedioic acid"]) is None
    assert molecules.choose_synonym(name, ["xyzzyplugh", "malonic acid, 2-hydroxy-"]) == (
        "malonic acid, 2-hydroxy-"
    )


def test_card_hides_the_name_and_often_the_formula():
    cards = [
        (unit, unit.items["card"].parts[0].text, unit.items["name"].parts[0].text)
        for unit in molecule_units("test", 200)
    ]
    assert not any(name in card for _, card, name in cards)
    assert all("CAS" in card and "g/mol" in card for _, card, _ in cards)
    with_formula = sum(f"formula {unit.family}" in card for unit, card, _ in cards)
    assert 60 < with_formula < 140


def test_drawing_is_small_coloured_and_reproducible():
    pytest.importorskip("rdkit")
    drawing = molecules.draw_molecule("CCN1C=NC2=C1N=CN=C2N")
    assert drawing == molecules.draw_molecule("CCN1C=NC2=C1N=CN=C2N")
    assert len(drawing) < 2000
    with Image.open(io.BytesIO(drawing)) as image:
        assert image.size == (96, 96)
        colours = image.convert("RGB").getcolors()
    assert 3 < len(colours) <= 16
    assert any(blue > red + 60 for _, (red, _, blue) in colours)  # nitrogen
    assert molecules.draw_molecule("not a structure") is None


PAGE = """<html><head><title>T</title></head><body><nav><p>menu entry that is long enough to be a
passage, which it is not</p></nav><h1>Fitting peaks<a>¶</a></h1><p>Short.</p>
<p>The figure below shows how a <em>Gaussian</em> is fitted to counts &amp; errors.</p>
<pre><p>code</p></pre><figure><img src="../_images/fit.png" alt="../_images/fit.png"/><figcaption>
<p><span>Fig. 3 </span>The fit<a>¶</a></p></figcaption></figure><p>Total running time: 3 s</p>
<h2>Next</h2><img src="b.png" alt="Second picture"></body></html>"""


def test_page_becomes_blocks():
    blocks = [(block.kind, block.text, block.alternative) for block in page_blocks(PAGE)]
    assert blocks == [
        ("heading", "Fitting peaks", "h1"),
        ("paragraph", "Short.", ""),
        ("paragraph", "The figure below shows how a Gaussian is fitted to counts & errors.", ""),
        ("image", "Fig. 3 The fit", "../_images/fit.png"),
        ("heading", "Next", "h2"),
        ("image", "", "Second picture"),
    ]


def test_examples_with_other_peoples_pictures_are_left_out():
    sklearn, skimage = manuals.OPEN[0], manuals.OPEN[1]
    shows = manuals.shows_pictures
    assert shows(sklearn, "faces = fetch_olivetti_faces()")
    assert shows(sklearn, 'china = load_sample_image("china.jpg")')
    assert not shows(sklearn, "X, y = make_blobs(n_samples=10)")
    assert shows(skimage, "image = data.astronaut()")
    assert shows(skimage, "from skimage.data import coins, text")
    assert not shows(skimage, "image = data.shepp_logan_phantom()")
    assert shows(skimage, "io.imread('x.png')")


def test_figure_is_padded_to_a_white_square():
    encoded = figures.square_figure(Image.new("RGB", (400, 100), "black"))
    with Image.open(io.BytesIO(encoded)) as image:
        pixels = image.convert("L")
    assert pixels.size == (figures.FIGURE_PIXELS, figures.FIGURE_PIXELS)
    assert pixels.getpixel((48, 5)) > 250
    assert pixels.getpixel((48, 48)) < 5


def test_missing_sources_are_named(tmp_path, monkeypatch, capsys):
    archive = sources.lock()[manuals.OPEN[0].name]
    monkeypatch.setattr(sources.shutil, "which", lambda _program: None)
    with pytest.raises(SourceError, match="system tools are missing: apt-get .*python-lmfit-doc"):
        sci.build("open", tmp_path / "x", tmp_path, 1, None)
    arguments = ["sci", "--scale", "open", "--out", str(tmp_path / "x"), "--raw", str(tmp_path)]
    assert build.main(arguments) == 2
    assert "Debian 12" in capsys.readouterr().err
    (tmp_path / archive.file).write_bytes(b"another version")
    with pytest.raises(SourceError, match="sha256 is .* expected 4e244556"):
        sources.unpack(archive.name, tmp_path)


def figure(number: int, section: str, caption: str, passage: str | None, page: str = "p"):
    source = "python-sklearn-doc"
    return figures.Figure(page, source, "Expat", picture(number), caption, passage, section)


def test_a_figure_s_stand_in_has_no_word_of_its_page():
    page = [
        figure(1, "Lasso models", "The Lasso path", "Paths of model weights in sklearn."),
        figure(2, "Coefficients of lassos", "A second plot", None),
        figure(3, "Coefficients of lassos", "Weights", None, page="other"),
        figure(4, "Weights", "The sklearn weights", None, page="a third"),
    ]
    texts = figures.stand_in_texts(page)
    ids = [one.unit_id for one in page]
    assert ids[0] not in texts, "nothing is left of the section title"
    assert texts[ids[1]] == "Coefficients of", "sklearn and Lasso are words of the page"
    assert texts[ids[2]] == "sklearn: Coefficients of lassos"
    assert ids[3] not in texts
    article = [
        replace(figure(5, "Smooth terms", "A spline", None), source="r-cran-mgcv"),
        replace(figure(6, "Smooth terms", "Other terms", None, page="b"), source="r-cran-mgcv"),
    ]
    texts = figures.stand_in_texts(article)
    assert list(texts.values()) == ["mgcv: Smooth terms", "mgcv: Smooth"]


def test_a_molecule_s_stand_in_is_formula_mass_and_rings():
    molecule = Molecule("7", "1-2-3", "C10H8", 128.17, "c1ccc2ccccc2c1", "S", "naphthalene", None)
    text = molecules.stand_in_text(molecule)
    assert text == "Formula C10H8, molar mass 128.2 g/mol, rings: 2."
    assert molecules.stand_in_text(replace(molecule, smiles="c1cc")) is None


def test_stand_ins_are_written_with_a_dataset_and_added_to_an_old_one(
    tmp_path, monkeypatch, capsys
):
    items, _, _, meta = make_dataset(tmp_path / "old", count=30)
    made = [
        Molecule(unit_id[1:], "1-1-1", "C6H6", 78.1, "c1ccccc1", "S", "name", None)
        for unit_id in sorted({item.unit_id for item in items})[1:]
    ]
    monkeypatch.setattr(molecules, "read_molecules", lambda: made)
    monkeypatch.setattr(sci, "read_figures", lambda *_: [])
    arguments = ["sci", "--scale", "open", "--out", str(tmp_path / "old"), "--stand-ins-only"]
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").glob("*.array_record")}
    with pytest.raises(DatasetError, match="missing, so images have no text"):
        stand_ins.read(Dataset.open(tmp_path / "old"))
    assert build.main(arguments) == 0
    dataset = Dataset.open(tmp_path / "old")
    assert json.loads(capsys.readouterr().out)["content_hash"] == meta["content_hash"]
    assert dataset.fingerprint == meta["content_hash"]
    assert all((dataset.path / name).read_bytes() == data for name, data in before.items())
    units = {one.unit_id for one in made}
    expected = {item.did for item in items if item.modality != "text" and item.unit_id in units}
    texts = stand_ins.read(dataset)
    assert set(texts) == expected and set(texts.values()) == {
        "Formula C6H6, molar mass 78.1 g/mol, rings: 1."
    }
    stand_ins.write(dataset.path, {"other": "x"})  # behind the back of meta.json
    with pytest.raises(DatasetError, match="not the stand-ins that meta.json names"):
        stand_ins.read(dataset)
    monkeypatch.setattr(molecules, "read_molecules", lambda: [])
    assert build.main(arguments) == 2
    assert "no stand-in fits its images" in capsys.readouterr().err
    assert build.main(["sci", *arguments[3:]]) == 2, "the default scale is full"
    assert "sci-open, not sci-full; give the --scale" in capsys.readouterr().err

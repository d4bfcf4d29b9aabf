"""Records, stored datasets, list building and the parts of the builders that need no source."""

from __future__ import annotations

import io
import json
import pickle
import random
from collections import Counter
from dataclasses import replace

import msgpack
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from unirank_jax.content import ImagePart, TextPart
from unirank_jax.datasets import build, figures, manuals, molecules, sci, sources, stand_ins
from unirank_jax.datasets.dataset import Dataset, DatasetError, SourceError, sample
from unirank_jax.datasets.lists import (
    IMAGES_PER_LIST,
    LIST_LENGTH,
    Unit,
    by_kind,
    figure_neighbours,
    make_lists,
    molecule_neighbours,
    without_shared_content,
)
from unirank_jax.datasets.molecules import Molecule
from unirank_jax.datasets.pages import page_blocks
from unirank_jax.datasets.records import (
    ContentSize,
    dup_id_of,
    hash_number,
    split_of,
)
from unirank_jax.datasets.tokenizer import SPECIAL_TOKENS, save_tokenizer, train_tokenizer
from unirank_jax.datasets.writer import write_dataset
from unirank_jax.tokenizer import Tokenizer

LICENCES = {molecules.SOURCE: molecules.LICENCE}


def picture(number: int) -> bytes:
    """A small PNG that differs from number to number."""
    image = Image.new("L", (12 + number % 5, 9), number % 251)
    image.putpixel((0, 0), number // 251)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def skeletons(split: str, count: int) -> list[str]:
    """The first names S0, S1, ... that fall into the split."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        if split_of(f"S{number}") == split:
            found.append(f"S{number}")
        number += 1
    return found


def molecule_units(split: str, count: int) -> list[Unit]:
    """Made-up molecules, seven of each formula, every tenth pair with a common skeleton."""
    names = skeletons(split, count)
    units = []
    for number in range(count):
        skeleton = names[number - 1] if number % 10 == 1 else names[number]
        molecule = Molecule(
            number=f"{split}{number}",
            cas=f"{number}-00-0",
            formula=f"C{number // 7 + 3}H8",
            mass=40.0 + 12 * (number // 7),
            smiles="",
            skeleton=skeleton,
            name=f"{split} systematic name {number}",
            synonym=f"{split} trivial {number}",
        )
        items = by_kind(molecules.molecule_items(molecule, picture(number)))
        units.append(Unit(molecule.unit_id, molecule.formula, skeleton, items, molecule.mass))
    return units


def make_dataset(path, count=30):
    units = {split: molecule_units(split, count) for split in ("train", "test")}
    queries, lists = [], {}
    for split, members in units.items():
        made = list(
            make_lists(
                "molecule",
                "Find it.",
                sci.shares(sci.MOLECULE_KINDS, "open", split),
                members,
                molecule_neighbours(members),
            )
        )
        queries += [query for query, _ in made]
        lists[split] = [ranked for _, ranked in made]
    items = [item for split in units.values() for unit in split for item in unit.items.values()]
    meta = write_dataset(path, items, queries, lists, name="sci-open", licences=LICENCES)
    return items, queries, lists, meta


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A dataset that is only read: its folder and what was written."""
    path = tmp_path_factory.mktemp("stored") / "data"
    return path, *make_dataset(path)


# ---------------------------------------------------------------- records


def test_split_is_a_fixed_function_of_split_id():
    known = {
        "S2": "test",
        "S10": "test",
        "S41": "valid",
        "S13": "valid",
        "S35": "train",
        "S7": "train",
    }  # CRC-32 mod 20 is 0, 1, 2, 3, 4, 19
    assert {name: split_of(name) for name in known} == known
    assert split_of("MUIPLRMGAXZWSQ") == "train"
    shares = Counter(split_of(f"document {number}") for number in range(20_000))
    assert 0.09 < shares["test"] / 20_000 < 0.11
    assert 0.09 < shares["valid"] / 20_000 < 0.11


def test_dup_id_ignores_case_and_spaces_but_not_the_kind_of_content():
    assert dup_id_of("A  cat\n") == dup_id_of("a cat")
    assert dup_id_of("a cat") != dup_id_of("a dog")
    assert dup_id_of("cat") != dup_id_of(b"cat")
    assert dup_id_of("ab", "c") != dup_id_of("a", "bc")


# ---------------------------------------------------------------- stored form


def test_what_is_written_is_read_back(stored):
    path, items, queries, lists, meta = stored
    dataset = Dataset.open(path)
    assert dataset.splits == ("train", "test")
    assert dataset.fingerprint == meta["content_hash"]
    for item in items:
        assert dataset.item(item.did) == item
    for query in queries:
        assert dataset.query(query.qid) == query
    for split in ("train", "test"):
        assert list(dataset.lists(split)) == lists[split]
        assert dataset.lists(split)[-1] == lists[split][-1]
        assert dataset.lists(split)[1:3] == lists[split][1:3]
        assert list(dataset.items_of(split)) == [x for x in items if split_of(x.split_id) == split]
    assert len(dataset.lists("valid")) == 0
    example = dataset.example("test", 3)
    assert example.query.qid == lists["test"][3].qid
    assert [item.did for item in example.candidates] == list(lists["test"][3].dids)
    assert example.grades == lists["test"][3].grades
    with pytest.raises(KeyError):
        dataset.item("nothing")
    with pytest.raises(DatasetError, match="no split 'dev'"):
        dataset.lists("dev")
    with pytest.raises(IndexError):
        dataset.lists("test")[10_000]


def test_sizes_are_known_without_content(tmp_path):
    items, *_ = make_dataset(tmp_path / "data")
    (tmp_path / "data" / "items.array_record").unlink()
    dataset = Dataset.open(tmp_path / "data")
    for item in items:
        texts = sum(len(part.text) for part in item.parts if isinstance(part, TextPart))
        sizes = []
        for part in item.parts:
            if isinstance(part, ImagePart):
                with Image.open(io.BytesIO(part.source)) as image:
                    sizes.append((image.height, image.width))
        assert dataset.size(item.did) == ContentSize(texts, tuple(sizes))
    with pytest.raises(DatasetError, match="items.array_record: missing"):
        dataset.item(items[0].did)


def test_an_image_is_stored_once(stored):
    path, items, *_ = stored

    def parts_in(file_name):
        records = ArrayRecordReader(str(path / file_name)).read_all()
        return [part for record in records for part in msgpack.unpackb(record)["parts"]]

    images = [part for part in parts_in("items.array_record") if isinstance(part, bytes)]
    assert len(images) == len(set(images)) == 30, "30 pictures, shown by 60 molecules"
    assert any(item.modality == "mixed" for item in items)
    assert not any(isinstance(part, bytes) for part in parts_in("queries.array_record"))


def test_a_dataset_can_be_sent_to_a_worker(stored):
    dataset = Dataset.open(stored[0])
    before = dataset.example("train", 0)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.example("train", 0) == before


def test_the_hash_is_that_of_the_content(stored, tmp_path):
    _, items, queries, lists, meta = stored
    assert make_dataset(tmp_path / "two")[3]["content_hash"] == meta["content_hash"]
    changed = [replace(items[1], parts=(TextPart("another name"),)), *items[2:]]
    other = write_dataset(
        tmp_path / "three", [items[0], *changed], queries, lists, name="x", licences=LICENCES
    )
    assert other["content_hash"] != meta["content_hash"]
    renamed = write_dataset(
        tmp_path / "four", items, queries, lists, name="other name", licences=LICENCES
    )
    assert renamed["content_hash"] == meta["content_hash"]


def broken_datasets():
    def double_item(items, queries, lists):
        items.append(items[0])

    def unknown_item(items, queries, lists):
        del items[:5]

    def unknown_query(items, queries, lists):
        queries.pop()

    def wrong_split(items, queries, lists):
        lists["valid"] = [lists["test"].pop()]

    def nothing_relevant(items, queries, lists):
        first = lists["test"][0]
        lists["test"][0] = replace(first, grades=(0,) * len(first.grades))

    def uneven(items, queries, lists):
        first = lists["test"][0]
        lists["test"][0] = replace(first, grades=first.grades[1:])

    def no_licence(items, queries, lists):
        items[0] = replace(items[0], licence="unknown")

    return [
        (double_item, "used twice"),
        (unknown_item, "unknown items"),
        (unknown_query, "no such query"),
        (wrong_split, "another split than valid"),
        (nothing_relevant, "no candidate of grade 1"),
        (uneven, "differ in number"),
        (no_licence, "no licence 'unknown'"),
    ]


@pytest.mark.parametrize(("damage", "message"), broken_datasets())
def test_a_wrong_dataset_is_refused_and_the_old_one_stays(tmp_path, damage, message):
    items, queries, lists, meta = make_dataset(tmp_path / "data")
    damage(items, queries, lists)
    with pytest.raises(DatasetError, match=message):
        write_dataset(tmp_path / "data", items, queries, lists, name="x", licences=LICENCES)
    assert Dataset.open(tmp_path / "data").fingerprint == meta["content_hash"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_crash_while_writing_leaves_the_old_dataset(tmp_path, monkeypatch):
    items, queries, lists, meta = make_dataset(tmp_path / "data")

    def crash(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("unirank_jax.datasets.writer._index", crash)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "data", items, queries, lists, name="x", licences=LICENCES)
    assert Dataset.open(tmp_path / "data").fingerprint == meta["content_hash"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_that_is_no_dataset_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("keep me")
    with pytest.raises(DatasetError, match="is no dataset"):
        make_dataset(tmp_path / "photos")
    assert (tmp_path / "photos" / "mine.txt").read_text() == "keep me"
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_opening_tells_what_is_wrong(tmp_path):
    with pytest.raises(DatasetError, match="no dataset here; give a folder with meta.json"):
        Dataset.open(tmp_path)
    make_dataset(tmp_path / "data")
    meta_path = tmp_path / "data" / "meta.json"
    meta_path.write_text(json.dumps(json.loads(meta_path.read_text()) | {"format": 99}))
    with pytest.raises(DatasetError, match="dataset format 99, this version reads 1"):
        Dataset.open(tmp_path / "data")
    meta_path.write_text("{")
    with pytest.raises(DatasetError, match="meta.json: .*build the dataset again"):
        Dataset.open(tmp_path / "data")
    with pytest.raises(DatasetError, match="no embedded sample 'design'; there are: sci"):
        sample("design")


# ---------------------------------------------------------------- lists


def all_lists(units):
    shares = sci.shares(sci.MOLECULE_KINDS, "sample", "test")
    return list(make_lists("molecule", "Find it.", shares, units, molecule_neighbours(units)))


def test_molecule_lists_hold_the_promised_candidates():
    units = molecule_units("test", 140)
    owners = {item.did: unit for unit in units for item in unit.items.values()}
    items = {item.did: item for unit in units for item in unit.items.values()}
    made = all_lists(units)
    assert {query.kind for query, _ in made} == {kind.name for kind in sci.MOLECULE_KINDS}
    isomers = Counter()
    for query, ranked in made:
        candidates = [items[did] for did in ranked.dids]
        assert len(candidates) == len(set(ranked.dids)) == LIST_LENGTH
        assert sum(item.modality != "text" for item in candidates) == IMAGES_PER_LIST
        assert 1 <= sum(ranked.grades) <= 2
        for item, grade, origin in zip(candidates, ranked.grades, ranked.neg_types, strict=True):
            own = item.unit_id == query.unit_id
            assert grade == own == (origin == "positive")
            assert item.parts != query.parts
            if not own:
                assert item.split_id != query.split_id, "a stereoisomer is no negative"
                same = owners[item.did].family == owners[f"{query.unit_id}.n"].family
                assert same == (origin == "isomer")
                isomers[origin] += 1
        kinds = Counter(item.kind for item in candidates)
        if query.kind == "name->mixed":
            assert (kinds["mixed"], kinds["drawing"]) == (5, 5), "rareness must not tell the answer"
        if query.kind == "drawing->name/card":
            assert (kinds["name"], kinds["card"]) == (5, 5)
        positives = {candidates[i].kind for i in range(LIST_LENGTH) if ranked.grades[i]}
        assert query.kind.split("->")[1] in ("+".join(sorted(positives, reverse=True)),) or (
            query.kind == "drawing->name/card" and positives < {"name", "card"}
        )
    assert isomers["isomer"] > len(made) * 3
    first = [ranked.grades.index(1) for _, ranked in made]
    assert len(set(first)) == LIST_LENGTH, "relevant candidates stand at every position"


def test_at_least_a_third_of_the_lists_have_one_relevant_candidate():
    made = all_lists(molecule_units("test", 140))
    assert sum(sum(ranked.grades) == 1 for _, ranked in made) > len(made) / 3


def test_lists_depend_on_ids_alone():
    units = molecule_units("test", 80)
    once = all_lists(units)
    random.seed(7)
    assert all_lists(units) == once


def test_figure_lists_prefer_the_document_and_avoid_shared_passages():
    units = []
    pages = skeletons("test", 12)
    for number in range(48):
        figure = figures.Figure(
            page=pages[number // 4],
            source="python-lmfit-doc",
            licence="Expat",
            image=picture(number),
            caption=f"caption {number}",
            passage="the passage of two figures" if number in (0, 20) else f"passage {number}",
            section="",
        )
        items = by_kind(figures.figure_items(figure))
        units.append(Unit(figure.unit_id, figure.page, figure.page, items))
    shares = sci.shares(sci.FIGURE_KINDS, "open", "test")
    made = list(make_lists("figure", "Find it.", shares, units, figure_neighbours(units)))
    assert {query.kind for query, _ in made} == {kind.name for kind in sci.FIGURE_KINDS}
    for query, ranked in made:
        assert ranked.neg_types.count("same_document") == 3
        if query.unit_id == units[0].unit_id:
            assert not any(did.startswith(units[20].unit_id) for did in ranked.dids)


def test_content_in_two_splits_is_dropped():
    train, test = molecule_units("train", 10), molecule_units("test", 10)
    kept = without_shared_content([*train, *test])  # all pictures are the same in both
    assert [unit.unit_id for unit in kept] == [unit.unit_id for unit in train]


# ---------------------------------------------------------------- sources


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


# ---------------------------------------------------------------- tokenizer


def test_tokenizer_has_qwens_layout(tmp_path):
    texts = [
        word
        for number in range(3000)
        for word in (
            "yes",
            "yes",
            "no",
            "no",
            f"document {hash_number(str(number)) % 10**6}",
            "methyl",
        )
    ]
    tokenizer = train_tokenizer(iter(texts), 290)
    save_tokenizer(tokenizer, tmp_path, maximum_length=512)
    read = Tokenizer.from_file(tmp_path)
    assert [read.special(token) for token in SPECIAL_TOKENS] == list(range(264, 290))
    assert read.single("yes") < 264 and read.single("no") < 264
    text = 'Ein Satz, ünïcode 123 — "<|im_end|>"\n'
    assert read.decode(read.encode(text)) == text
    assert len(read.encode("123")) == 3, "digits are single tokens"
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|im_end|>" and config["pad_token"] == "<|endoftext|>"


def test_tokenizer_needs_enough_text():
    with pytest.raises(ValueError, match="lower the vocabulary"):
        train_tokenizer(iter(["yes", "no"] * 10), 500)
    with pytest.raises(ValueError, match="label word 'yes' is not one token"):
        train_tokenizer(iter(["nothing", "here"] * 10), 290)


# ---------------------------------------------------------------- stand-ins


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

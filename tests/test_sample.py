"""The data that ships inside the package: whole, split without leakage, decodable, licensed."""

from __future__ import annotations

import io
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from unirank_jax.content import ImagePart, TextPart
from unirank_jax.datasets import stand_ins
from unirank_jax.datasets.dataset import sample
from unirank_jax.datasets.forms import FormDataset
from unirank_jax.datasets.labels import words
from unirank_jax.datasets.records import SPLITS, dup_id_of, split_of
from unirank_jax.datasets.tokenizer import LABEL_WORDS, PROMPT_TEXTS, SPECIAL_TOKENS
from unirank_jax.datasets.typeset import spell
from unirank_jax.tokenizer import Tokenizer

CONTENT_HASH = "b568837f2496cd6c1401c56c944df6b82ade6988d913263ac546e9b5d3858084"
MAX_BYTES = 7_000_000


@pytest.fixture(scope="module")
def dataset():
    return sample("sci")


@pytest.fixture(scope="module")
def items(dataset):
    return {item.did: item for split in SPLITS for item in dataset.items_of(split)}


@pytest.fixture(scope="module")
def lists(dataset):
    return {split: list(dataset.lists(split)) for split in SPLITS}


@pytest.fixture(scope="module")
def queries(dataset, lists):
    return {ranked.qid: dataset.query(ranked.qid) for split in SPLITS for ranked in lists[split]}


def test_it_is_the_data_that_the_results_were_measured_on(dataset):
    assert dataset.fingerprint == CONTENT_HASH
    assert dataset.splits == SPLITS


def test_it_is_small_enough_to_ship(dataset):
    assert sum(path.stat().st_size for path in dataset.path.iterdir()) <= MAX_BYTES


def test_every_source_has_its_notice(dataset, items):
    notices = (dataset.path / "LICENSES").read_text(encoding="utf-8")
    sources = {(item.source, item.licence) for item in items.values()}
    assert sources == {tuple(pair) for pair in dataset.meta["sources"]}
    assert {licence for _, licence in sources} == {"MIT", "BSD-3-Clause", "Expat"}
    for source, _ in sources:
        assert source in notices
    assert notices.count("Copyright") >= 5


def test_counts_are_those_that_meta_states(dataset, items, lists, queries):
    counts = dataset.meta["counts"]
    for split in SPLITS:
        stored = [item for item in items.values() if split_of(item.split_id) == split]
        assert len(stored) == counts[split]["items"]
        assert Counter(item.kind for item in stored) == counts[split]["items_by_kind"]
        kinds = Counter(f"{queries[x.qid].domain}: {queries[x.qid].kind}" for x in lists[split])
        assert kinds == counts[split]["lists_by_kind"]


def test_the_test_part_is_large_enough_to_report(items, lists, queries):
    kinds = Counter(queries[ranked.qid].kind for ranked in lists["test"])
    for kind in (
        "name->drawing",
        "name->card",
        "name->drawing+card",
        "drawing->name/card",
        "drawing+question->card",
    ):
        assert kinds[kind] >= 600, kind
    only_images = sum(
        all(
            items[did].modality == "image"
            for did, grade in zip(ranked.dids, ranked.grades, strict=True)
            if grade > 0
        )
        for ranked in lists["test"]
    )
    assert only_images >= 500
    one_positive = sum(sum(ranked.grades) == 1 for ranked in lists["test"])
    assert one_positive >= 0.3 * len(lists["test"])


def test_nothing_crosses_a_split(items, lists, queries):
    splits: dict[str, set[str]] = defaultdict(set)
    for item in items.values():
        splits[item.dup_id].add(split_of(item.split_id))
        splits[f"unit {item.unit_id}"].add(split_of(item.split_id))
    for split in SPLITS:
        for ranked in lists[split]:
            query = queries[ranked.qid]
            assert split_of(query.split_id) == split
            splits[query.dup_id].add(split)
            for did in ranked.dids:
                assert split_of(items[did].split_id) == split
    assert len(splits) > 15_000
    assert not [key for key, found in splits.items() if len(found) > 1]


def test_dup_ids_are_those_of_the_content(items):
    for item in items.values():
        contents = [p.source if isinstance(p, ImagePart) else p.text for p in item.parts]
        assert dup_id_of(*contents) == item.dup_id


def test_every_list_is_hybrid_and_has_a_relevant_candidate(items, lists, queries):
    for split in SPLITS:
        for ranked in lists[split]:
            query = queries[ranked.qid]
            candidates = [items[did] for did in ranked.dids]
            assert len(set(ranked.dids)) == 20
            assert sum(item.modality == "text" for item in candidates) == 10
            assert 1 <= sum(grade >= query.rel_min for grade in ranked.grades) <= 2
            assert query.dup_id not in {item.dup_id for item in candidates}
            for item, grade in zip(candidates, ranked.grades, strict=True):
                assert (item.unit_id == query.unit_id) == (grade > 0)


def test_every_image_decodes_and_its_size_is_indexed(dataset, items):
    count = 0
    for item in items.values():
        sizes = []
        for part in item.parts:
            if isinstance(part, ImagePart):
                with Image.open(io.BytesIO(part.source)) as image:
                    image.load()
                    assert max(image.size) == 96
                    sizes.append((image.height, image.width))
                    low, high = image.convert("L").getextrema()
                    assert high - low > 20, f"{item.did} is blank"
                    count += 1
        assert dataset.size(item.did).images == tuple(sizes)
    assert count > 5000


def test_molecule_lists_have_isomers(items, lists, queries):
    """Hard negatives are there: most molecule lists hold at least three isomers."""
    hard = [
        ranked.neg_types.count("isomer") >= 3
        for ranked in lists["test"]
        if queries[ranked.qid].domain == "molecule"
    ]
    assert sum(hard) > 0.7 * len(hard)


def test_a_card_is_not_titled_by_the_name(items):
    cards = {item.unit_id: item for item in items.values() if item.kind == "card"}
    names = {item.unit_id: item for item in items.values() if item.kind == "name"}
    assert len(cards) == len(names) > 4000
    for unit_id, card in cards.items():
        title = card.parts[0].text.partition(". CAS")[0]
        assert title != names[unit_id].parts[0].text


def test_stand_ins_name_nothing_that_a_query_asks_with(dataset, items, lists, queries):
    """No long word of a query's text is in the stand-in of an image that answers it."""
    texts = stand_ins.read(dataset)
    images = {did for did, item in items.items() if item.modality != "text"}
    assert set(texts) <= images and len(images - set(texts)) == 23  # figures with nothing to say
    assert (dataset.path / stand_ins.FILE).stat().st_size < 60_000
    units = {"formula", "molar", "rings"}
    checked = 0
    for ranked in (one for split in SPLITS for one in lists[split]):
        query = queries[ranked.qid]
        asked = " ".join(part.text for part in query.parts if isinstance(part, TextPart))
        long = {word for word in words(asked) if len(word) >= 5} - units
        for did, grade in zip(ranked.dids, ranked.grades, strict=True):
            if grade >= query.rel_min and did in texts:
                checked += 1
                assert not long & set(words(texts[did])), (asked, texts[did])
    assert checked > 8000


def test_lists_without_a_stand_in_are_few_and_all_of_figures(dataset, lists, queries):
    view = FormDataset(dataset, "text")
    for split, most in (("train", 700), ("valid", 130), ("test", 140)):
        kept = {ranked.qid for ranked in view.lists(split)}
        lost = [ranked.qid for ranked in lists[split] if ranked.qid not in kept]
        assert len(lost) == view.left_out(split) and 0 < len(lost) < most
        assert {queries[qid].domain for qid in lost} == {"figure"}


def test_every_text_of_the_sample_can_be_drawn(items):
    for item in items.values():
        for part in item.parts:
            assert not (isinstance(part, TextPart) and spell(part.text)[1]), item.did


# ---------------------------------------------------------------- the tokenizer that ships


@pytest.fixture(scope="module")
def folder():
    import unirank_jax

    return Path(unirank_jax.__file__).parent / "assets" / "tokenizer"


def test_embedded_tokenizer(folder):
    tokenizer = Tokenizer.from_file(folder)
    assert [tokenizer.special(token) for token in SPECIAL_TOKENS] == list(range(2022, 2048))
    assert all(tokenizer.single(word) < 2022 for word in LABEL_WORDS)
    for text in PROMPT_TEXTS:
        words = re.findall(r"[A-Za-z]+|[^A-Za-z\s]+|\n", text)
        assert len(tokenizer.encode(text)) <= len(words), "every word of the prompt is one token"
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"


def test_embedded_tokenizer_loads_in_transformers(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_file(folder)
    assert len(theirs) == 2048
    for text in (*PROMPT_TEXTS, "2-[(4-bromanylphenoxy)methyl]oxirane", "ünïcode — 中文 🙂"):
        assert theirs(text).input_ids == ours.encode(text)
    assert theirs("<|image_pad|>").input_ids == [ours.special("<|image_pad|>")]


def test_texts_of_the_sample_are_short_in_tokens(folder, items):
    """The vocabulary fits the data: a name costs about nine tokens."""
    tokenizer = Tokenizer.from_file(folder)
    lengths = [
        len(tokenizer.encode(part.text))
        for item in items.values()
        if item.kind == "name" and split_of(item.split_id) == "test"
        for part in item.parts
        if isinstance(part, TextPart)
    ]
    assert 5 < sum(lengths) / len(lengths) < 12

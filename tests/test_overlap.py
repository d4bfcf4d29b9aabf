"""The dense lesson: which tokens are asked, what they should say, and that it is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from train import sft
from train.config import load
from train.data import Micro
from train.initial import ASSETS
from train.overlap import HELD_WEIGHT, Overlap, picture_rows, spellings
from train.ranking import RankingObjective
from train.step import Layout
from unirank_jax.batch import Bucket, Targets
from unirank_jax.config import preset
from unirank_jax.content import TextPart
from unirank_jax.images import ImageSpec
from unirank_jax.model import Model
from unirank_jax.packing import pack
from unirank_jax.prompt import DOCUMENT_FIRST, Prompt
from unirank_jax.tokenizer import Tokenizer

QUERIES = ("red chair", "the answer can be yes")
CANDIDATES = ((0, "Red table, chair"), (1, "a chair can only Judge"), (0, "query document"))


def _prompt(prompt_id: str = "unirank-native-1") -> Prompt:
    tokenizer = Tokenizer.from_file(ASSETS / "tokenizer")
    return Prompt(tokenizer, prompt_id, ImageSpec(12, 2, 16, 16), 224, 64)


def _batch(prompt: Prompt):
    prefixes = [prompt.prefix([TextPart(text)]) for text in QUERIES]
    rows = [prompt.candidate([TextPart(text)], "it", 0) for _, text in CANDIDATES]
    bucket = Bucket(prefixes=3, prefix_tokens=128, rows=4, tokens=64, images=0, patches=0)
    return pack(preset("tiny"), prefixes, rows, [query for query, _ in CANDIDATES], bucket), rows


def test_tokens_of_the_query_alone_are_looked_up() -> None:
    """Words of the system's prompt, of the instruction and of the frame are not the query's."""
    prompt = _prompt()
    overlap, (batch, rows) = Overlap.of(prompt), _batch(prompt)
    asked, held = (np.asarray(x)[0] for x in overlap.labels(jax.tree.map(jnp.asarray, batch)))
    tokenizer = prompt.tokenizer
    for at, (query, text) in enumerate(CANDIDATES):
        words = {tokenizer.decode([t]).strip().lower() for t in tokenizer.encode(QUERIES[query])}
        own = rows[at].tokens[: len(rows[at].tokens) - prompt.suffix_length]
        for place, token in enumerate(own):
            spelt = tokenizer.decode([int(token)]).strip().lower()
            if any(letter.isalnum() for letter in spelt):
                assert asked[at, place] and held[at, place] == (spelt in words), (text, spelt)
            else:
                assert not asked[at, place], spelt
        assert not asked[at, len(rows[at].tokens) :].any(), "padding"
    assert held[0].sum() >= 2 and 0 < held[1].sum() < asked[1].sum()
    assert not asked[3].any(), "an empty row"


def test_terms_are_the_formula() -> None:
    prompt = _prompt()
    overlap, (batch, _) = Overlap.of(prompt), _batch(prompt)
    batch = jax.tree.map(jnp.asarray, batch)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=batch.rows.tokens.shape), jnp.float32)
    (total, count), (right, same) = overlap.terms(logits, batch)
    asked, held = (np.asarray(x) for x in overlap.labels(batch))
    expected, weights, correct = 0.0, 0.0, 0.0
    for place in zip(*np.nonzero(asked), strict=True):
        z, yes = float(logits[place]), bool(held[place])
        weight = HELD_WEIGHT if yes else 1.0
        probability = 1 / (1 + np.exp(-z if yes else z))
        expected -= weight * np.log(probability)
        weights += weight
        correct += weight * ((z > 0) == yes)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(right) == pytest.approx(correct) and float(count) == float(same) == weights
    assert float(overlap.count(batch)) == weights, "what the update divides by"


def test_a_picture_says_what_its_tokens_say_on_average() -> None:
    """Rows of 2, 0 and 1 visual tokens."""
    index = np.full((1, 3, 4), -1, np.int32)
    index[0, 0, 1:3], index[0, 2, 3] = (0, 1), 2
    batch, _ = _batch(_prompt())
    batch = batch._replace(rows=batch.rows._replace(image_index=index))
    logits = jnp.arange(12.0).reshape(1, 3, 4)
    mean, shown = picture_rows(logits, batch)
    assert mean.tolist() == [[1.5, 0.0, 11.0]] and shown.tolist() == [[True, False, True]]


def test_pictures_compete_among_themselves() -> None:
    """Listwise cross-entropy over the candidates with a picture; texts, however sure, are out."""
    prompt = _prompt()
    config = replace(load("configs/sci.py"), loss={"pictures": 1.0})
    layout = Layout.of(Model.abstract(preset("tiny")))
    objective = RankingObjective(layout, prompt.label_ids, config)
    batch, _ = _batch(prompt)
    index = np.full((1, 6, 2), -1, np.int32)
    index[0, [0, 1, 3, 4], 1] = 0  # rows 2 and 5 are texts
    batch = batch._replace(rows=batch.rows._replace(image_index=index))
    targets = Targets(
        grade=np.array([[[0, 1, 0], [0, 0, 1]]], np.float32),
        mask=np.ones((1, 2, 3), bool),
        rel_min=np.ones((1, 2), np.float32),
        label_row=np.arange(6, dtype=np.int32).reshape(1, 2, 3),
        list_id=np.arange(2, dtype=np.int32)[None],
    )
    logits = np.zeros((1, 6, 2), np.float32)
    logits[0, :, 1] = (1.0, 3.0, 50.0, 0.5, 0.0, 50.0)
    micro = jax.tree.map(jnp.asarray, Micro(batch, targets))
    (total, count), (right, asked) = objective._pictures(jnp.asarray(logits), micro)
    assert float(count) == float(asked) == float(right) == 1.0, "the second list's is a text"
    assert float(total) == pytest.approx(float(np.log1p(np.exp(-2.0))), rel=1e-6)


def test_spellings_leave_case_and_spaces_aside() -> None:
    tokenizer = Tokenizer.from_file(ASSETS / "tokenizer")
    found = spellings(tokenizer)
    by_word: dict[str, set[int]] = {}
    for token in range(tokenizer.vocabulary_size - 26):
        by_word.setdefault(tokenizer.decode([token]).strip().lower(), set()).add(int(found[token]))
    assert all(len(numbers) == 1 for numbers in by_word.values())
    assert by_word[","] == by_word[""] == {-1}
    assert by_word["yes"] != by_word["no"]
    assert len({token for token in found.tolist() if token >= 0}) < (found >= 0).sum()
    assert (found[-26:] == -1).all(), "special tokens are never asked"


def test_it_is_trained_with_the_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny_run.dataset_folder(tmp_path / "data")
    model = tiny_run.model_folder(tmp_path / "model")
    changes = {
        "batch__lists": 8,
        "schedule__steps": 20,
        "evaluation__every_steps": 0,
        "log__every_steps": 1,
        "optimizer__lr": 1e-2,
        "loss__overlap": 1.0,
        "loss__pictures": 0.5,
    }
    run = tmp_path / "run"
    settings = tiny_run.settings(data, model, **changes)
    command = ["--config", "configs/sci.py", "--workdir", str(run), "--set", *settings]
    assert sft.main(command) == 0
    series = [one for one in tiny_run.series(run) if one["kind"] == "train"]
    assert series[-1]["overlap"] < 0.95 * series[0]["overlap"]
    assert 0 <= series[0]["overlap_right"] <= 1
    assert series[0]["pictures"] > 0 and 0 <= series[0]["first_picture"] <= 1

    turned = tiny_run.settings(data, model, **changes, data__prompt_id=DOCUMENT_FIRST)
    command = ["--config", "configs/sci.py", "--workdir", str(tmp_path / "turned"), "--set"]
    assert sft.main([*command, *turned]) == 1
    assert "set data.prompt_id to a prompt with the query first" in capsys.readouterr().err

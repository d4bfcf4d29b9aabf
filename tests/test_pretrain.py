"""The visual pretraining: its objectives against plain formulas, its batches, and a short run."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image, ImageChops

from train import pretrain
from train.config import load
from train.contrast import (
    OF_THE_TOWER,
    Embedded,
    PretrainBatch,
    alike,
    contrast,
    decode,
    embed,
    losses,
    named,
)
from train.pretrain import TERMS
from train.units import PairSampler, units_of
from unirank_jax.batch import Rows
from unirank_jax.config import ModelConfig, preset
from unirank_jax.datasets.dataset import sample
from unirank_jax.layers import Compute
from unirank_jax.loading import load as load_reranker
from unirank_jax.model import Model, encode_images, vocabulary_logits

CONFIG = "configs/sci_pretrain.py"
FEW = ["pairs.units=8", "pools.molecule=6", "pools.figure=2", "evaluation_batches=1"]


def small() -> ModelConfig:
    """The tiny shape, thinner."""
    config = preset("tiny")
    text = replace(config.text, width=32, heads=2, kv_heads=2, head_dim=16, mlp_width=48)
    text = replace(text, rope_sections=(3, 3, 2))
    vision = replace(config.vision, width=32, heads=2, mlp_width=48, out_width=32)
    return replace(config, text=text, vision=vision)


@pytest.fixture(scope="module")
def sampler() -> PairSampler:
    config = load(CONFIG, FEW)
    prompt = pretrain.make_prompt(config, small())
    return pretrain.make_sampler(config, small(), prompt, sample("sci"), "valid")


def test_units_join_what_shows_one_object() -> None:
    units = units_of(sample("sci"), "valid")
    molecules = [unit for unit in units if unit.domain == "molecule"]
    assert len(molecules) > 300 and all({"name", "card"} <= unit.texts.keys() for unit in molecules)
    assert all("CAS" in u.texts["card"] and "CAS" not in u.texts["name"] for u in molecules)
    assert all(next(iter(unit.texts)) == "name" for unit in molecules), "the defining text leads"
    assert {unit.instruction for unit in molecules} == {
        "Given a compound, retrieve its structure drawing or its record."
    }
    assert all(len(unit.images) == 1 for unit in molecules)


def several_images(sampler: PairSampler, share: float) -> PairSampler:
    """Every object has its image twice, and a share of the queries are images."""
    pools = [([replace(u, images=u.images * 2) for u in units], n) for units, n in sampler.pools]
    settings = replace(sampler.settings, image_query_share=share)
    return PairSampler(pools, sampler.prompt, sampler.config, settings, 0)


def test_another_image_of_the_object_may_ask(sampler: PairSampler) -> None:
    settings = replace(sampler.settings, image_query_share=1.0)
    arrays = several_images(sampler, 1.0).arrays(0)
    assert arrays["images"].lengths.shape[1] == 16 and not arrays["image_query"].any()
    alone = PairSampler(sampler.pools, sampler.prompt, sampler.config, settings, 0).arrays(0)
    assert alone["images"].lengths.shape[1] == 8 and alone["image_query"].all()


def test_batches_depend_on_the_number_alone(sampler: PairSampler) -> None:
    first, again, other = sampler.arrays(3), sampler.arrays(3), sampler.arrays(4)
    for name in first:
        for a, b in zip(jax.tree.leaves(first[name]), jax.tree.leaves(again[name]), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first["caption"].tokens, other["caption"].tokens)
    units = sampler.draw(3)
    assert len({id(unit.images[0]) for unit in units}) == 8


def test_training_images_are_moved_and_others_are_not(sampler: PairSampler) -> None:
    image = Image.new("RGB", (96, 96), "white")
    image.paste((0, 0, 0), (40, 40, 60, 44))
    rng = np.random.default_rng(0)
    assert sampler._move(image, rng) is image  # a validation sampler
    moving = PairSampler(
        sampler.pools,
        sampler.prompt,
        sampler.config,
        replace(sampler.settings, turn=25.0, zoom=0.15, shift=0.1),
        0,
    )
    moved = moving._move(image, rng)
    assert ImageChops.difference(moved, image).getbbox() is not None
    ink = 255 - np.asarray(moved, np.float64).mean()
    assert ink == pytest.approx(255 - np.asarray(image, np.float64).mean(), rel=0.5)
    assert moved.getpixel((0, 0)) == (255, 255, 255)


def plain_contrast(vectors: Embedded, shard: PretrainBatch, temperature: float) -> float:
    """The same loss, pair by pair."""
    count = len(vectors.query)
    candidates = [("image", i, vectors.image[i]) for i in range(count)]
    candidates += [("text", i, vectors.text[i]) for i in range(count) if shard.text_length[i] > 0]
    total, number = 0.0, 0
    for pool in (("image",), ("text",), ("image", "text")):
        chosen = [one for one in candidates if one[0] in pool]
        for kind, owner, vector in chosen:
            if kind == "image" and shard.image_query[owner]:
                continue
            own = vectors.query[owner] @ vector / temperature
            for others in (
                [
                    vectors.query[owner] @ v
                    for _, i, v in chosen
                    if shard.group[i] != shard.group[owner]
                ],
                [
                    vectors.query[i] @ vector
                    for i in range(count)
                    if shard.group[i] != shard.group[owner]
                ],
            ):
                every = np.array([own, *(np.array(others) / temperature)])
                total += np.log(np.exp(every - every.max()).sum()) + every.max() - own
                number += 1
    return total / number


def test_contrast_equals_the_plain_formula(sampler: PairSampler) -> None:
    arrays = sampler.arrays(0)
    shard = jax.tree.map(lambda x: x[0], PretrainBatch(**arrays))
    shard = shard._replace(group=np.array([0, 1, 2, 3, 4, 4, 5, 6]))
    rng = np.random.default_rng(1)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(3, 8, 5))]
    vectors = Embedded(*(jnp.asarray(x, jnp.float32) for x in unit))
    found = contrast(vectors, jax.tree.map(jnp.asarray, shard), 0.2)
    total, number = found["contrast"]
    expected = plain_contrast(Embedded(*unit), shard, 0.2)  # type: ignore[arg-type]
    assert float(total / number) == pytest.approx(expected, rel=1e-5)
    perfect = contrast(Embedded(vectors.query, vectors.query, vectors.query), shard, 0.2)
    assert float(perfect["first_any"][0]) == float(perfect["first_any"][1]) > 0


def test_pairs_are_an_object_s_own_half_of_the_time(sampler: PairSampler) -> None:
    own = hard = others = 0
    for number in range(20):
        arrays, units = sampler.arrays(number), sampler.draw(number)
        pair, starts = arrays["pair"], arrays["query_length"][0]
        assert not arrays["echoed"][0][~arrays["own"][0]].any(), "only own texts are predicted"
        families = [unit.family for unit in units]
        for at in range(len(units)):
            row = pair.tokens[0, at, starts[at] : pair.lengths[0, at]]
            images = np.count_nonzero(row == sampler.config.image_token_id)
            assert images in (0, 16)
            assert not (images and arrays["echoed"][0, at].any())
            own += arrays["own"][0, at]
            others += not arrays["own"][0, at]
            hard += not arrays["own"][0, at] and families.count(families[at]) > 1
    assert 0.35 < own / (own + others) < 0.65
    assert hard > 0


def joined(first: Rows, at: int, second: Rows, then: int) -> Rows:
    """One row: row `at` of the first without its padding, then row `then` of the second.

    Padded to one width, whichever the rows are.
    """
    lengths = int(first.lengths[at]), int(second.lengths[then])
    room = first.tokens.shape[-1] + second.tokens.shape[-1] - sum(lengths)
    whole = []
    for field, other, empty in zip(first[:3], second[:3], (0, 0, -1), strict=True):
        ends = np.asarray(field[at])[..., : lengths[0]], np.asarray(other[then])[..., : lengths[1]]
        row = np.concatenate(ends, axis=-1)
        wide = [(0, 0)] * (row.ndim - 1) + [(0, room)]
        whole.append(jnp.asarray(np.pad(row, wide, constant_values=empty)[None]))
    return Rows(*whole, lengths=jnp.array([sum(lengths)]))


def test_match_and_document_equal_the_whole_prompt_read_at_once(sampler: PairSampler) -> None:
    arrays = sampler.arrays(2)
    shard = jax.tree.map(lambda x: jnp.asarray(x[0]), PretrainBatch(**arrays))
    model = Model(small(), nnx.Rngs(3))
    compute = Compute()
    features = nnx.jit(lambda model, images: encode_images(model, images, compute))(
        model, shard.images
    )
    vectors, found = nnx.jit(lambda *given: decode(*given, compute))(model, features, shard)
    apart = nnx.jit(lambda *given: embed(*given, compute))(model, features, shard)
    for alone, beside in zip(apart, vectors, strict=True):
        np.testing.assert_allclose(alone, beside, atol=1e-5)

    @nnx.jit
    def read(model: Model, whole: Rows) -> jax.Array:
        hidden, _ = model.text(whole, features, Compute())
        return model.text.norm(hidden[0])

    signed, nats, predicted = [], 0.0, 0
    for at in range(8):
        static = int(shard.static_index[at])
        before = int(shard.static.lengths[static])
        whole = joined(shard.static, static, shard.pair, at)
        states = read(model, whole)[: int(whole.lengths[0])]
        yes, no = sampler.prompt.label_ids
        logit = float(states[-1] @ (model.head_table[yes] - model.head_table[no]))
        signed.append(logit if arrays["own"][0, at] else -logit)
        chances = jax.nn.log_softmax(vocabulary_logits(model, states))
        for place in np.flatnonzero(arrays["echoed"][0, at]):
            token = before + int(shard.query_length[at]) + place
            nats -= float(chances[token - 1, whole.tokens[0, token]])
            predicted += 1
    assert float(found["match"][0]) == pytest.approx(np.logaddexp(0, -np.array(signed)).sum())
    assert float(found["match_right"][0]) == (np.array(signed) > 0).sum()
    assert predicted == int(found["document"][1]) > 0
    assert float(found["document"][0]) == pytest.approx(nats, rel=1e-5)


def test_named_is_the_formula(sampler: PairSampler) -> None:
    model = Model(small(), nnx.Rngs(0))
    shard = jax.tree.map(lambda x: x[0], pretrain.to_batch(sampler.arrays(2)))
    features = encode_images(model, shard.images, Compute())
    assert features is not None
    some = features, shard.caption, shard.spoken, shard.group, model
    (total, count), (first, words) = named(*some)
    table = np.asarray(model.text.embed.table[...], np.float64)
    merged = np.asarray(features.merged, np.float64)
    tokens, spoken = np.asarray(shard.caption.tokens), np.asarray(shard.spoken)
    group, index = np.asarray(shard.group), np.asarray(shard.caption.image_index)
    unit = np.square(table).mean() * table.shape[1] ** 0.5
    n = len(tokens)
    said = [[int(t) for t in tokens[i][spoken[i]]] for i in range(n)]

    def logit(image: int, token: int) -> float:
        places = merged[index[image][index[image] >= 0]]
        return float(np.logaddexp.reduce(places @ table[token] / unit))

    def wrong(image: int, owner: int, token: int) -> bool:
        return token not in said[image] and group[image] != group[owner]

    expected, won, asked = 0.0, 0, 0
    for i in range(n):
        others = [logit(i, t) for j in range(n) for t in said[j] if wrong(i, j, t)]
        for token in said[i]:
            own = logit(i, token)
            rest = [logit(k, token) for k in range(n) if wrong(k, i, token)]
            for against in (others, rest):
                expected += np.logaddexp.reduce([own, *against]) - own
            won += all(own > other for other in rest)
            asked += 1
    assert asked == int(words) == int(count) // 2 > n
    assert float(total) == pytest.approx(expected, rel=1e-4) and int(first) == won


def test_alike_is_the_formula(sampler: PairSampler) -> None:
    model = Model(small(), nnx.Rngs(0))
    shard = jax.tree.map(lambda x: x[0], pretrain.to_batch(several_images(sampler, 0.6).arrays(2)))
    features = encode_images(model, shard.images, Compute())
    assert features is not None
    (total, count), (first, asked) = alike(features, shard, 0.1)
    merged, group = np.asarray(features.merged, np.float64), np.asarray(shard.group)

    def vector(index: np.ndarray) -> np.ndarray | None:
        places = index[index >= 0]
        mean = merged[places].mean(0) if len(places) else None
        return None if mean is None else mean / np.linalg.norm(mean)

    pair, lengths = np.asarray(shard.pair.image_index), np.asarray(shard.query_length)
    n = len(group)
    asking = [vector(pair[i, : lengths[i]]) for i in range(n)]
    image = [vector(row) for row in np.asarray(shard.caption.image_index)]
    shown = [i for i in range(n) if asking[i] is not None and not shard.image_query[i]]
    assert 2 <= len(shown) < n

    def logit(i: int, k: int) -> float:
        return float(asking[i] @ image[k]) / 0.1

    expected, won = 0.0, 0
    for i in shown:
        others = [logit(i, k) for k in range(n) if group[k] != group[i]]
        rest = [logit(j, i) for j in shown if group[j] != group[i]]
        for against in (others, rest):
            expected += np.logaddexp.reduce([logit(i, i), *against]) - logit(i, i)
        won += all(logit(i, i) > other for other in others)
    assert int(count) == 2 * len(shown) == 2 * int(asked) and int(first) == won
    assert float(total) == pytest.approx(expected, rel=1e-4)


def test_every_objective_trains_what_it_should(sampler: PairSampler) -> None:
    model = Model(small(), nnx.Rngs(0))
    graph, params = nnx.split(model)
    one = pretrain.to_batch(sampler.arrays(1))
    several = pretrain.to_batch(several_images(sampler, 1.0).arrays(1))

    @partial(jax.jit, static_argnums=1)
    def slopes(params: nnx.State, names: tuple[str, ...]) -> dict[str, nnx.State]:
        def values(params: nnx.State) -> dict[str, jax.Array]:
            batch = several if names == ("alike",) else one
            terms = losses(nnx.merge(graph, params), batch, frozenset(names), 0.1, Compute())
            return {name: terms[name][0] / terms[name][1] for name in names}

        found, pull = jax.vjp(values, params)
        zero = dict.fromkeys(names, jnp.zeros(()))
        return {name: pull(zero | {name: jnp.ones(())})[0] for name in names}

    others = tuple(name for name in TERMS if name != "alike")
    found = slopes(params, ("alike",)) | slopes(params, others)
    reached = {}
    for name in TERMS:
        gradient = nnx.to_pure_dict(found[name])
        reached[name] = {
            part: any(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient[part]))
            for part in ("vision", "text")
        }
        layers = float(jnp.abs(gradient["text"]["stage_0"]["q"]["kernel"]).max())
        assert (layers > 0) == (name not in OF_THE_TOWER), "the tower's need no decoder"
    for name, parts in reached.items():
        assert parts == {"vision": True, "text": name != "alike"}, name


def test_a_short_run_exports_a_base_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [*FEW, "schedule.steps=3", "schedule.warmup_steps=1", "log.every_steps=1"]
    common.append(r"freeze=text\.embed\..*")
    arguments = ["--config", CONFIG, "--workdir", str(tmp_path), "--set", *common]
    assert pretrain.main(arguments) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3]
    wanted = {*TERMS, "first_any", "match_right"} - {"named", "alike"}
    assert wanted <= lines[0].keys()
    base = load_reranker(tmp_path / "exported")
    model, fresh = base.engine.model, Model(preset("tiny"), nnx.Rngs(load(CONFIG).seed))
    table, began = (np.asarray(m.text.embed.table[...], np.float32) for m in (model, fresh))
    np.testing.assert_allclose(table, began, rtol=2**-8)  # frozen, and stored in bfloat16
    first, last = (np.asarray(m.text.stage_0.q.kernel[...], np.float32) for m in (fresh, model))
    assert np.abs(last - first).max() > 1e-3
    assert np.isfinite(base.logits("methane", ["CH4"])).all()
    assert pretrain.main(arguments) == 0  # nothing left to do
    assert "the base to start train.sft from" in capsys.readouterr().out
    wrong = [*arguments[:-1], "pools.figure=2000", "--workdir", str(tmp_path / "x")]
    assert pretrain.main(wrong) == 1
    assert "pools.figure: 2000 objects per batch" in capsys.readouterr().err


def test_wrong_candidates_are_look_alikes_as_often_as_asked(sampler: PairSampler) -> None:
    def share_of_alike(asked: float) -> float:
        settings = replace(sampler.settings, alike_share=asked)
        other = PairSampler(sampler.pools, sampler.prompt, sampler.config, settings, 0)
        rng = np.random.default_rng(0)
        found = []
        for number in range(60):
            units = other.draw(number)
            for at, unit in enumerate(units):
                same = [u for u in units if u.family == unit.family and u.group != unit.group]
                owner = other._owner(units, at, None, rng)
                if same and owner != at:
                    found.append(units[owner].family == unit.family)
        assert len(found) > 50
        return float(np.mean(found))

    assert share_of_alike(1.0) == 1 > share_of_alike(0.5) + 0.05
    assert share_of_alike(0.5) > share_of_alike(0.0) + 0.05

"""The public face: order, batch invariance, bounded compilation, errors, truncation, saving.

A random model of the tiny shape whose label rows are scaled, so that logits spread as real ones.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_reranker
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from tiny_reranker import QUERY, picture, save

import unirank_jax
from unirank_jax import loading, sharding
from unirank_jax.batch import Bucket
from unirank_jax.content import ContentError
from unirank_jax.engine import MAX_PROGRAMS
from unirank_jax.hub import WeightsError
from unirank_jax.intake import Outcome, TruncationWarning, portions
from unirank_jax.loading import load
from unirank_jax.prompt import DEFAULT_INSTRUCTION
from unirank_jax.ranked import Ranked
from unirank_jax.reranker import Reranker
from unirank_jax.scoring_config import Cascade, ScoringConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "tiny", "unirank-native-1")


@pytest.fixture(scope="module")
def model(folder: Path) -> Reranker:
    return load(folder)


@pytest.fixture(scope="module")
def candidates() -> list[Any]:
    return tiny_reranker.candidates()


def test_a_logit_does_not_depend_on_its_company(model: Reranker, candidates: list[Any]) -> None:
    together = model.logits(QUERY, candidates)
    spread = together.std()
    assert together.shape == (24,) and together.dtype == np.float32
    assert spread > 1.0
    alone = np.concatenate([model.logits(QUERY, [one]) for one in candidates])
    reverse = model.logits(QUERY, candidates[::-1])[::-1]
    small = Reranker(
        model.engine.model,
        model.prompt,
        model.manifest,
        model.source,
        model.engine.compute,
        ScoringConfig(token_budget=200),
    )
    other_buckets = small.logits(QUERY, candidates)
    many = model.logits_many([QUERY, picture(72, 48, 7)], [candidates, candidates[:3]])[0]
    for found in (alone, reverse, other_buckets, many):
        np.testing.assert_allclose(found, together, rtol=0, atol=1e-4 * spread)
    assert small.engine.buckets != model.engine.buckets


def test_cached_pictures_give_the_same_logits(folder: Path, candidates: list[Any]) -> None:
    """Cold, warm, and in a corpus where other pictures were seen before; every entry its own."""
    plain = load(folder, scoring=ScoringConfig(cache_bytes=0))
    model = load(folder)
    expected = plain.logits(QUERY, candidates)
    cold = model.logits(QUERY, candidates)
    seen = model.engine.features.statistics.misses
    assert seen > 0 and plain.engine.features.statistics.hits == 0
    warm = model.logits(QUERY, candidates[::-1])[::-1]
    assert model.engine.features.statistics.misses == seen, "nothing is encoded again"
    asked = picture(72, 96, 50)
    mixed = [*candidates[:5], asked, picture(96, 72, 51), candidates[6]]
    some = model.logits(asked, mixed)
    for found, wanted in (
        (cold, expected),
        (warm, expected),
        (some, plain.logits(asked, mixed)),
    ):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * expected.std())
    assert model.engine.features.statistics.misses == seen + 2


def test_an_engine_with_the_history_of_another_gives_the_same_bits(
    folder: Path, candidates: list[Any]
) -> None:
    model, after, fresh = (load(folder) for _ in range(3))
    model.logits(QUERY, candidates)
    model.logits(picture(72, 96, 50), candidates)
    history = model.engine.history()
    model.engine.recall(history)
    after.engine.recall(json.loads(json.dumps(history)))
    expected = model.logits(QUERY, candidates[3:9])
    assert after.logits(QUERY, candidates[3:9]).tobytes() == expected.tobytes()
    assert after.engine.history() == model.engine.history()
    fresh.logits(QUERY, candidates[3:9])
    assert fresh.engine.buckets != model.engine.buckets


def test_the_same_size_with_other_pixels_is_another_picture(model: Reranker) -> None:
    image = picture(48, 48, 60)
    changed = image.copy()
    changed.putpixel((20, 20), (1, 2, 3))
    first, second, again = (model.logits(QUERY, [one])[0] for one in (image, changed, image))
    assert first == pytest.approx(again, abs=1e-5)
    assert first != second


def test_a_long_list_is_encoded_and_scored_in_portions(folder: Path, candidates: list[Any]) -> None:
    small = load(folder, scoring=ScoringConfig(token_budget=96, workers=3))
    given: list[Any] = []
    for n in range(3):
        given += [*candidates, "", f"another text {n}", b"no image"]
    found = small.logits(QUERY, given, on_error="nan")
    failed = [i for i, one in enumerate(given) if one in ("", b"no image")]
    assert np.flatnonzero(np.isnan(found)).tolist() == failed
    whole = load(folder).logits(QUERY, given, on_error="nan")
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-4 * np.nanstd(whole))
    with pytest.raises(ContentError, match=r"^candidates\[24\]"):
        small.logits(QUERY, given)


def test_the_first_portion_may_be_smaller(model: Reranker) -> None:
    texts = [f"text number {n}" for n in range(40)]
    asked = [("query", QUERY, None, texts)]
    outcomes = [Outcome.empty(texts, "candidates")]
    made = portions(model.prompt, asked, outcomes, "raise", 2, 120, lambda _: True, first=20)
    places = [[place for work in one for place in work.places] for one in made]
    assert sum(places, []) == list(range(40)), "each once, in order"
    first, *middle, _ = map(len, places)
    assert len(middle) > 1 and 2 * first <= min(middle), "only the first one is"


def test_instructions_are_kept_apart(model: Reranker) -> None:
    """Static prompts are cached: one never answers for another."""
    spoken = [None, "Find the opposite.", "Find the opposite of it, and be quick.", None]
    together = model.logits_many([QUERY] * 4, [["a", "b c"]] * 4, instruction=spoken)
    alone = [model.logits(QUERY, ["a", "b c"], instruction=one) for one in spoken]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)
    assert len({tuple(np.round(one, 3)) for one in alone}) == 3


def test_a_static_prompt_is_as_large_as_it_is(folder: Path) -> None:
    """One that is computed in a program for many long queries does not grow to their size."""
    model = load(folder)
    expected = load(folder).logits(QUERY, ["a", "b c"], instruction="Other.")
    model.engine._buckets["prefixes", False].chosen.append(Bucket(4, 128, 0, 0, 0, 0, given=64))
    found = model.logits(QUERY, ["a", "b c"], instruction="Other.")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert {bucket.outer for bucket in model.engine.buckets} == {0, 64}


def test_programs_are_few_over_mixed_sizes(folder: Path, candidates: list[Any]) -> None:
    model = load(folder)
    rng = np.random.default_rng(0)
    queries: list[Any] = [
        "short",
        "a longer question " * 8,
        picture(96, 96, 1),
        [picture(24, 48, 2), "and?"],
    ]
    for _ in range(40):
        some = [candidates[i] for i in rng.permutation(24)[: rng.integers(1, 24)]]
        model.logits(queries[rng.integers(4)], some)
    print(f"{model.engine.programs} programs: {model.engine.buckets}")
    assert 2 <= model.engine.programs == len(model.engine.buckets) <= MAX_PROGRAMS


def test_a_reranker_computes_on_the_device_that_holds_it(model: Reranker) -> None:
    """Of the eight here; so a kernel can serve it (see attention.py)."""
    compute = model.engine.compute
    assert compute.mesh is not None
    assert list(compute.mesh.devices.flat) == jax.devices()[:1]


def test_scores_are_calibrated_logits(model: Reranker, candidates: list[Any]) -> None:
    logits = model.logits(QUERY, candidates)
    scores = model.score(QUERY, candidates)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-(logits + 0.5) / 2.0)), rtol=1e-6)


def test_rank_sorts_by_logit_and_keeps_failures_last(model: Reranker) -> None:
    given = ["b", b"no image", "a", "b", ""]
    ranked = model.rank(QUERY, given, on_error="nan")
    logits = model.logits(QUERY, given, on_error="nan")
    assert [one.index for one in ranked[-2:]] == [1, 4]
    assert all(np.isnan(one.score) and one.error for one in ranked[-2:])
    assert ranked[-2].error is not None and ranked[-2].error.startswith("candidates[1]")
    good = [one.index for one in ranked[:3]]
    assert good.index(0) < good.index(3), "ties by index"
    assert logits[0] == logits[3]
    assert [one.logit for one in ranked[:3]] == sorted(logits[[0, 2, 3]].tolist(), reverse=True)
    with pytest.raises(ContentError, match=r"^candidates\[1\]"):
        model.rank(QUERY, given)


def test_a_bad_query_always_raises(model: Reranker) -> None:
    with pytest.raises(ContentError, match="^query"):
        model.score("", ["a"], on_error="nan")
    with pytest.raises(ContentError, match=r"^queries\[1\]"):
        model.score_many(["a", ""], [["x"], ["y"]])


@pytest.mark.parametrize("given", ["text", b"bytes", {"text": "x"}, None, picture(9, 9, 0)])
def test_candidates_must_be_a_list(model: Reranker, given: Any) -> None:
    with pytest.raises(ContentError, match="put it into a list"):
        model.score(QUERY, given)


def test_wrong_arguments(model: Reranker) -> None:
    with pytest.raises(ValueError, match="one list per query"):
        model.score_many(["a"], [])
    with pytest.raises(ValueError, match="on_error"):
        model.score(QUERY, ["a"], on_error="skip")  # type: ignore[arg-type]


def test_empty_lists(model: Reranker) -> None:
    assert model.score(QUERY, []).shape == (0,)
    assert model.rank(QUERY, []) == []
    assert [x.shape for x in model.score_many(["a", "b"], [[], ["c"]])] == [(0,), (1,)]
    assert model.score_many([], []) == []


def test_truncation_is_reported(model: Reranker) -> None:
    given = ["short", "long " * 400]
    with pytest.warns(TruncationWarning, match=r"indices 1\)"):
        model.score(QUERY, given)
    assert {one.index: one.truncated for one in model.rank(QUERY, given)} == {0: False, 1: True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.score(QUERY, ["short"])
    with pytest.warns(TruncationWarning):
        model.score("long question " * 100, ["short"])


def test_the_instruction_counts(model: Reranker) -> None:
    plain = model.logits(QUERY, ["a"])
    assert model.logits(QUERY, ["a"], instruction="Find the opposite.") != plain
    assert model.logits(QUERY, ["a"], instruction=DEFAULT_INSTRUCTION) == plain


def test_saving_and_loading_gives_the_same_logits(
    folder: Path, candidates: list[Any], tmp_path: Path
) -> None:
    model = load(folder)  # fresh, as the copy: the same programs run
    copy = load(model.save_pretrained(tmp_path / "copy"))
    np.testing.assert_array_equal(copy.logits(QUERY, candidates), model.logits(QUERY, candidates))
    assert copy.manifest == model.manifest
    with pytest.raises(WeightsError, match="not empty"):
        model.save_pretrained(tmp_path / "copy")


def test_a_training_folder_names_the_export(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(WeightsError, match=r"train\.export"):
        load(tmp_path)


def test_module_functions_take_a_model(model: Reranker) -> None:
    np.testing.assert_array_equal(
        unirank_jax.score(QUERY, ["a", "b"], model=model), model.score(QUERY, ["a", "b"])
    )
    assert unirank_jax.rank(QUERY, ["a"], model=model)[0].index == 0
    assert loading.rank is unirank_jax.rank


def test_bfloat16_keeps_float32_scores(folder: Path) -> None:
    model = load(folder, dtype="bfloat16")
    logits = model.logits(QUERY, [f"passage {n}" for n in range(8)])
    assert logits.dtype == np.float32 and len(set(logits.tolist())) == 8
    assert jax.tree.leaves(nnx.state(model.engine.model))[0].dtype == "bfloat16"


def test_after_a_warmup_nothing_is_compiled(folder: Path, candidates: list[Any]) -> None:
    model = load(folder)
    assert model.warmup([QUERY], [candidates]) == model.engine.programs > 2
    before = model.engine.programs
    model.logits(QUERY, candidates)
    assert model.engine.programs == before
    assert load(folder).warmup() > 1


def test_features_on_disk_serve_the_next_process(
    folder: Path, candidates: list[Any], tmp_path: Path
) -> None:
    expected = load(folder).logits(QUERY, candidates)
    scoring = ScoringConfig(cache_folder=tmp_path / "features", cache_bytes=0)
    first, second = load(folder, scoring=scoring), load(folder, scoring=scoring)
    np.testing.assert_allclose(first.logits(QUERY, candidates), expected, rtol=0, atol=1e-3)
    found = second.logits(QUERY, candidates)
    assert second.engine.features.statistics.misses == 0, "no tower runs"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())
    (own,) = (tmp_path / "features").iterdir()
    other = tiny_reranker.save(tmp_path / "other", "unirank-native-1", seed=1)
    load(other, scoring=scoring).logits(QUERY, candidates[:2])
    assert len(list((tmp_path / "features").iterdir())) == 2, "another model, another folder"


def test_a_cascade_scores_the_best_again_and_says_so(
    folder: Path, model: Reranker, candidates: list[Any]
) -> None:
    def cascade(top: int, given: list[Any], **changes: Any) -> list[Ranked]:
        scoring = ScoringConfig(cascade=Cascade(top, visual_tokens=2))
        return load(folder, scoring=scoring).rank(QUERY, given, **changes)

    whole = {one.index: one.logit for one in model.rank(QUERY, candidates)}
    found = cascade(6, candidates)
    assert [one.full for one in found] == [True] * 6 + [False] * 18
    assert sorted(one.index for one in found) == list(range(24))
    best = [one.logit for one in found[:6]]
    assert best == sorted(best, reverse=True)
    spread = np.std(list(whole.values()))
    for one in found[:6]:
        assert abs(one.logit - whole[one.index]) < 1e-4 * spread
    few = model.prompt.with_visual_tokens(2)
    first = model._run([QUERY], [candidates], None, "raise", few)[0]
    assert {one.index for one in found[:6]} == set(first.best()[:6])
    pictures = [one for one in found if not one.full and one.index % 4 == 1]
    assert any(abs(one.logit - whole[one.index]) > 1e-3 * spread for one in pictures)

    everything = cascade(99, candidates)
    assert [one.index for one in everything] == sorted(whole, key=lambda i: (-whole[i], i))
    failing = cascade(1, ["a", b"none", "b"], on_error="nan")
    assert failing[-1].index == 1 and failing[-1].error and np.isnan(failing[-1].score)
    assert [one.full for one in failing[:2]] == [True, False]
    assert cascade(3, []) == []
    for top, visual_tokens in ((0, 2), (1, 0)):
        with pytest.raises(ValueError, match=r"cascade\..* is 0; give at least 1"):
            Cascade(top, visual_tokens)


@pytest.mark.parametrize("prompt_id", ["unirank-native-1", "unirank-docfirst-1"])
def test_a_mesh_gives_the_same_logits(
    tmp_path: Path, eight_devices: list[jax.Device], candidates: list[Any], prompt_id: str
) -> None:
    """Weights split over heads, widths and layers' inputs; no device holds a whole model."""
    folder = save(tmp_path / "model", prompt_id)
    expected = load(folder).logits(QUERY, candidates)
    spread = load(folder, mesh=sharding.mesh(1, 4, 2, eight_devices))
    state = nnx.state(spread.engine.model)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert held < 0.3 * whole
    found = spread.logits(QUERY, candidates)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())
    if prompt_id == "unirank-docfirst-1":
        store = spread.index(candidates)
        kept = spread.logits(QUERY, [store[n] for n in range(len(candidates))])
        np.testing.assert_allclose(kept, expected, rtol=0, atol=1e-4 * expected.std())
    with pytest.raises(sharding.ShardingError, match="does not divide"):
        load(folder, mesh=sharding.mesh(1, 1, 7, eight_devices[:7]))


def test_compiled_programs_are_kept(folder: Path, tmp_path: Path) -> None:
    names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs")
    names += ("persistent_cache_min_entry_size_bytes",)
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    try:
        for place in ("one", "two"):  # the second folder of a process counts as well
            jax.clear_caches()
            scoring = ScoringConfig(compile_cache=tmp_path / place)
            load(folder, scoring=scoring).logits(QUERY, ["water"])
            assert list((tmp_path / place).iterdir())
    finally:
        compilation_cache.reset_cache()
        for name, value in before.items():
            jax.config.update(name, value)

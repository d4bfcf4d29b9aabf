"""Mixing forms: the same objects as texts and as images, on lists whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from train.evaluation import evaluate, examples_of
from train.mixing import Pairs, mixing, pairs_of
from train.tables import render
from unirank_jax.datasets.dataset import sample
from unirank_jax.datasets.records import Example


@pytest.fixture(scope="module")
def pairs() -> list[Pairs]:
    return pairs_of(sample("sci"), "valid", examples_of(sample("sci"), "valid", 120), 1000)


def test_both_forms_show_the_same_objects_and_never_the_query(pairs: list[Pairs]) -> None:
    assert len(pairs) > 40
    for one in pairs:
        items, query = one.example.candidates, one.example.query
        half = len(items) // 2
        assert [i.unit_id for i in items[:half]] == [i.unit_id for i in items[half:]]
        assert {i.modality for i in items[:half]} == {"text"}
        assert {i.modality for i in items[half:]} == {"image"}
        assert query.dup_id not in {i.dup_id for i in items}
        right = [i.unit_id for i, g in zip(items, one.example.grades, strict=True) if g]
        assert right == [query.unit_id] * 2


def examples(pairs: list[Pairs]) -> list[Example]:
    return [one.example for one in pairs]


def scorer(bias: float, noise: float):
    """Knows the grades, up to noise that belongs to the object; images get `bias` on top."""

    def score(examples: Sequence[Example]) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        made = []
        for example in examples:
            half = len(example.candidates) // 2
            own = np.array(example.grades[:half]) + noise * rng.normal(size=half)
            made.append(np.concatenate([own, own + bias]).astype(np.float32))
        return made

    return score


def test_one_scale_does_not_dip_and_two_scales_do(pairs: list[Pairs]) -> None:
    fair = mixing(pairs, scorer(0.0, 0.4)(examples(pairs)), resamples=200, seed=0)
    assert fair.dip.mean == pytest.approx(0, abs=1e-6)
    assert (fair.swap.mean, fair.changed.mean) == (0.0, 0.0)
    assert len({one.mean for one in fair.curve.values()}) == 1
    biased = mixing(pairs, scorer(3.0, 0.4)(examples(pairs)), resamples=200, seed=0)
    assert biased.curve[0.0].mean == biased.curve[1.0].mean == fair.curve[0.0].mean
    assert biased.dip.low > 0.05
    assert biased.swap.mean > 1 and biased.changed.mean == 0.0
    assert biased.queries == len(pairs)


def test_a_form_that_is_not_understood_changes_the_first_place(pairs: list[Pairs]) -> None:
    scores = scorer(0.0, 0.0)(examples(pairs))
    for one in scores:
        half = len(one) // 2
        one[half:] = np.roll(one[:half], 1)
    found = mixing(pairs, scores, resamples=50, seed=0)
    assert found.changed.mean == 1.0
    assert found.curve[0.0].mean == 1.0 > found.curve[1.0].mean


def test_limit_and_data_without_pairs() -> None:
    data = sample("sci")
    some = examples_of(data, "valid", 60)
    assert len(pairs_of(data, "valid", some, 7)) == 7
    drawings = [one for one in some if one.query.kind.startswith("drawing")]
    assert drawings and pairs_of(data, "valid", drawings, 7) == []
    with pytest.raises(ValueError, match="both forms"):
        mixing([], [], resamples=1, seed=0)


def test_an_evaluation_scores_both_forms_with_the_models_alone() -> None:
    def reads_images_badly(examples: Sequence[Example]) -> list[np.ndarray]:
        images = [np.array([c.modality == "image" for c in e.candidates]) for e in examples]
        return [np.array(e.grades) - 0.5 * image for e, image in zip(examples, images, strict=True)]

    model = {"model": reads_images_badly}
    report = evaluate(sample("sci"), "valid", model, resamples=50, seed=0, limit=60, mixed=20)
    assert set(report.mixing) == {"model"} and report.mixing["model"].queries == 20
    assert "## the same candidates as texts and as images" in render(report, every_slice=False)
    assert len(report.queries) == 60, "the further lists are in no other table"

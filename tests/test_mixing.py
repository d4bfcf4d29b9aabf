"""Mixing forms: the same objects as texts and as images, on lists whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from train.evaluation import examples_of
from train.mixing import Pairs, mixing, mixing_of, pairs_of
from unirank_jax.datasets.dataset import sample
from unirank_jax.datasets.records import Example


@pytest.fixture(scope="module")
def pairs() -> list[Pairs]:
    return pairs_of(sample("sci"), "valid", examples_of(sample("sci"), "valid", 120))


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
    fair = mixing(pairs, scorer(0.0, 0.4), resamples=200, seed=0)
    assert fair.dip.mean == pytest.approx(0, abs=1e-6)
    assert (fair.swap.mean, fair.changed.mean) == (0.0, 0.0)
    assert len({one.mean for one in fair.curve.values()}) == 1
    biased = mixing(pairs, scorer(3.0, 0.4), resamples=200, seed=0)
    assert biased.curve[0.0].mean == biased.curve[1.0].mean == fair.curve[0.0].mean
    assert biased.dip.low > 0.05
    assert biased.swap.mean > 1 and biased.changed.mean == 0.0
    assert biased.queries == len(pairs)


def test_a_form_that_is_not_understood_changes_the_first_place(pairs: list[Pairs]) -> None:
    def reads_only_texts(examples: Sequence[Example]) -> list[np.ndarray]:
        fair = scorer(0.0, 0.0)(examples)
        for scores in fair:
            half = len(scores) // 2
            scores[half:] = np.roll(scores[:half], 1)
        return fair

    found = mixing(pairs, reads_only_texts, resamples=50, seed=0)
    assert found.changed.mean == 1.0
    assert found.curve[0.0].mean == 1.0 > found.curve[1.0].mean


def test_limit_and_data_without_pairs(pairs: list[Pairs]) -> None:
    data = sample("sci")
    examples = examples_of(data, "valid", 60)
    scorers = {"fair": scorer(0.0, 0.4)}
    found = mixing_of(data, "valid", examples, scorers, resamples=10, seed=0, limit=7)
    assert found["fair"].queries == 7
    drawings = [one for one in examples if one.query.kind.startswith("drawing")]
    assert mixing_of(data, "valid", drawings, scorers, resamples=10, seed=0, limit=7) == {}

"""Platt's fit across halves of the queries: it repairs what was put in and never sees its list."""

from __future__ import annotations

import numpy as np
import pytest

from train.calibrated import ALL, calibrated, cross_fitted
from unirank_jax.calibration import CalibrationError
from unirank_jax.metrics import Judged, measure


def made(queries: int = 400) -> tuple[list[np.ndarray], list[Judged]]:
    """Logits of which those of images are three too high and twice too large."""
    rng = np.random.default_rng(0)
    logits, lists = [], []
    for number in range(queries):
        grades = rng.permutation([1, 1] + [0] * 10)
        modalities = tuple(rng.permutation(["text", "image"] * 6))
        values = 2.0 * grades - 2.5 + rng.normal(size=12)
        image = np.array([one == "image" for one in modalities])
        logits.append(np.where(image, 2 * values + 3, values).astype(np.float32))
        lists.append(Judged(f"q{number}", tuple(grades.tolist()), 1, "", modalities))
    return logits, lists


def test_a_fit_per_modality_repairs_a_modality_that_is_off() -> None:
    logits, lists = made()
    repaired = cross_fitted(logits, lists, by_modality=True)
    before = measure(logits, lists, ["hit@1"])["hit@1"].mean()
    after = measure(repaired, lists, ["hit@1"])["hit@1"].mean()
    assert after > before + 0.1
    quality = calibrated(repaired, lists).before
    assert max(one.ece for one in quality.values()) < 0.03
    assert set(quality) == {ALL, "text", "image"}


def test_one_fit_for_all_keeps_every_order_and_calibrates_on_average() -> None:
    logits, lists = made()
    odds = cross_fitted(logits, lists, by_modality=False)
    for one, other in zip(logits, odds, strict=True):
        np.testing.assert_array_equal(np.argsort(one), np.argsort(other))
    found = calibrated(logits, lists)
    assert found.after[ALL].ece < found.before[ALL].ece
    assert found.after["image"].ece > 0.02, "one fit cannot repair two scales"


def test_a_list_is_never_judged_by_a_fit_that_has_seen_it() -> None:
    logits, lists = made(40)
    other = [values.copy() for values in logits]
    other[6] = other[6] + 50.0
    first, second = (cross_fitted(x, lists, by_modality=True) for x in (logits, other))
    for number in range(40):
        same = np.array_equal(first[number], second[number])
        assert same == (number % 2 == 0 and number != 6)


def test_failed_and_unjudged_candidates_are_not_fitted() -> None:
    logits, lists = made(40)
    wider = [np.append(values, [np.nan, 99.0]) for values in logits]
    more = [
        Judged(one.qid, (*one.grades, 1, -1), 1, "", (*one.modalities, "text", "image"))
        for one in lists
    ]
    plain, odds = (cross_fitted(*x, by_modality=True) for x in ((logits, lists), (wider, more)))
    for one, other in zip(plain, odds, strict=True):
        np.testing.assert_array_equal(one, other[:-2])
        assert np.isnan(other[-2]) and np.isfinite(other[-1])


def test_too_few_lists_are_told() -> None:
    logits, lists = made(1)
    with pytest.raises(CalibrationError, match="two lists"):
        cross_fitted(logits, lists, by_modality=False)

"""Scores made comparable after the fact: Platt's fit over all candidates, or one per modality.

Fitted on one half of the queries and applied to the other, and the other way round, so that no
list is judged with a fit that has seen it. A fit per modality is what a reranker that claims one
scale for texts and images has to beat (the idea of GR-CLIP, Li et al. 2025, at score level).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unirank_jax.calibration import (
    Calibration,
    CalibrationError,
    Quality,
    fit_platt,
    quality,
    sigmoid,
)
from unirank_jax.metrics import UNJUDGED, Judged

ALL = "all"
MODALITIES = ("text", "image", "mixed")


@dataclass(frozen=True)
class Calibrated:
    """Quality of a scorer's probabilities by modality ("all" too), before and after Platt's fit."""

    before: dict[str, Quality]
    after: dict[str, Quality]


def cross_fitted(
    logits: Sequence[ArrayLike], lists: Sequence[Judged], *, by_modality: bool
) -> list[NDArray[np.float32]]:
    """Log-odds of relevance for every candidate, from a fit on the other half of the queries.

    Raises:
        CalibrationError: a half, or a modality within it, that cannot be fitted.
    """
    if len(lists) < 2:
        raise CalibrationError("two lists are needed: one to fit on and one to apply it to")
    values = [np.asarray(one, np.float64) for one in logits]
    odds = [np.full(one.shape, np.nan, np.float64) for one in values]
    for half in (0, 1):
        table = flat(values[1 - half :: 2], lists[1 - half :: 2])
        for name in _present(lists) if by_modality else (ALL,):
            own = np.ones(len(table.logits), bool) if name == ALL else table.modalities == name
            found = fit_platt(table.logits[own], table.relevant[own], "the other half")
            for i in range(half, len(lists), 2):
                where = _where(lists[i], name)
                odds[i][where] = _log_odds(found, values[i][where])
    return [one.astype(np.float32) for one in odds]


def calibrated(logits: Sequence[ArrayLike], lists: Sequence[Judged]) -> Calibrated:
    """How far sigmoid(logit), and a cross-fitted Platt, are probabilities of relevance.

    Raises:
        CalibrationError: scores that cannot be fitted.
    """
    after = cross_fitted(logits, lists, by_modality=False)
    return Calibrated(_by_modality(logits, lists), _by_modality(after, lists))


@dataclass(frozen=True)
class Table:
    """Judged candidates with finite scores, of many lists: (N,) each."""

    logits: NDArray[np.float64]
    relevant: NDArray[np.bool_]
    modalities: NDArray[np.str_]


def _by_modality(logits: Sequence[ArrayLike], lists: Sequence[Judged]) -> dict[str, Quality]:
    table = flat([np.asarray(one, np.float64) for one in logits], lists)
    found = {ALL: quality(sigmoid(table.logits), table.relevant)}
    for name in _present(lists):
        own = table.modalities == name
        try:
            found[name] = quality(sigmoid(table.logits[own]), table.relevant[own])
        except CalibrationError:  # one class only, e.g. no relevant mixed candidate
            continue
    return found


def _present(lists: Sequence[Judged]) -> tuple[str, ...]:
    found = {modality for one in lists for modality in one.modalities}
    return tuple(name for name in MODALITIES if name in found)


def flat(values: Sequence[NDArray[np.floating]], lists: Sequence[Judged]) -> Table:
    """The judged candidates of all lists that have a score."""
    grades = np.concatenate([np.array(one.grades) for one in lists])
    logits = np.concatenate(values)
    relevant = np.concatenate([np.array(one.grades) >= one.rel_min for one in lists])
    modalities = np.concatenate([np.array(one.modalities, np.str_) for one in lists])
    used = (grades != UNJUDGED) & np.isfinite(logits)
    return Table(logits[used], relevant[used], modalities[used])


def _where(judged: Judged, name: str) -> NDArray[np.bool_]:
    if name == ALL:
        return np.ones(len(judged.grades), bool)
    return np.array(judged.modalities) == name


def _log_odds(calibration: Calibration, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return (logits + calibration.bias) / calibration.temperature

"""Candidates from best to worst, in one pass or in two. No JAX here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unirank_jax.calibration import Calibration
from unirank_jax.intake import Outcome


@dataclass(frozen=True)
class Ranked:
    """One candidate in rank order. A failed candidate has NaN numbers and an `error`.

    `full` is False where `Reranker.cascade` saw the candidate with few visual tokens only.
    """

    index: int
    score: float
    logit: float
    truncated: bool
    error: str | None
    full: bool = True


def ranked(
    outcome: Outcome, calibration: Calibration, second: Mapping[int, float] | None = None
) -> list[Ranked]:
    """All candidates by logit, ties by index, failed ones last.

    second: of a cascade, the logits of those that were scored again, by index; they stand before
        the others, whose logits are on another scale.
    """
    logits = np.array(outcome.logits, np.float32)
    full = np.full(len(logits), second is None)
    for index, logit in (second or {}).items():
        logits[index], full[index] = logit, True
    scores = calibration.scores(logits).astype(np.float32)
    keys = np.where(np.isnan(logits), -np.inf, logits)
    failed = [error is not None for error in outcome.errors]
    order = sorted(range(len(keys)), key=lambda i: (failed[i], not full[i], -keys[i], i))
    return [
        Ranked(
            i,
            float(scores[i]),
            float(logits[i]),
            outcome.truncated[i],
            outcome.errors[i],
            bool(full[i]),
        )
        for i in order
    ]

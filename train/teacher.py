"""A teacher of lists: measures of text and of embeddings, weighed by what asks and what is shown.

A cross-encoder from scratch learns slowly from one label per list what a dual encoder knows of
pictures already; the scores of all candidates tell it more (distillation, Hinton et al. 2015; of
several rankers, Hofstätter et al. 2020). The weights are those of a conditional logit (McFadden
1974): they maximise the likelihood that the relevant candidates of held-out lists are chosen, so
the softmax of the teacher's logits over a list is a calibrated distribution. No JAX here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unirank_jax.content import MODALITIES, modality
from unirank_jax.datasets.records import Example

Floats = NDArray[np.float64]
PENALTY = 1.0  # squared length of the weights, in nats of all lists together
STEPS = 50


@dataclass(frozen=True)
class Teacher:
    """Logits that are linear in measures, with other weights in each cell.

    A cell is what asks and what is shown: 3 * (place of the query's modality in MODALITIES) + (that
    of the candidate's).

    Attributes:
        names: of the measures.
        scale: (F,) float64: a measure is divided by this.
        weights: (9, F + 1) float64: of the measures, and a constant.
    """

    names: tuple[str, ...]
    scale: Floats
    weights: Floats

    def logits(self, measures: Mapping[str, NDArray[np.floating]], example: Example) -> Floats:
        """(N,) float64 of a list whose candidates have these measures, each (N,)."""
        values = np.stack([measures[name] for name in self.names], -1) / self.scale
        return (_with_constant(values) * self.weights[cells(example)]).sum(-1)


def cells(example: Example) -> NDArray[np.int64]:
    """(N,): the cell of each candidate."""
    asks = MODALITIES.index(modality(example.query.parts))
    shown = [MODALITIES.index(item.modality) for item in example.candidates]
    return len(MODALITIES) * asks + np.array(shown, np.int64)


def fit(
    measures: Mapping[str, Sequence[NDArray[np.floating]]], examples: Sequence[Example]
) -> Teacher:
    """The teacher of greatest likelihood, with a small penalty on its weights.

    Args:
        measures: name -> per list (N,) finite numbers.
        examples: the lists. Those without a relevant candidate, or with nothing else, say nothing.

    Raises:
        ValueError: no list says anything, or a measure is the same everywhere.
    """
    names = tuple(measures)
    rows, wanted = [], []
    for number, example in enumerate(examples):
        relevant = np.array(example.grades) >= example.query.rel_min
        judged = np.array(example.grades) >= 0
        if not relevant.any() or relevant[judged].all():
            continue
        values = np.stack([measures[name][number] for name in names], -1)
        rows.append((values[judged], cells(example)[judged]))
        wanted.append(relevant[judged] / relevant.sum())
    if not rows:
        raise ValueError("no list has a relevant candidate beside another one; give more lists")
    scale = np.concatenate([values for values, _ in rows]).std(0).astype(np.float64)
    if not (scale > 0).all():
        same = ", ".join(name for name, one in zip(names, scale, strict=True) if not one > 0)
        raise ValueError(f"the same number everywhere: {same}; leave it out")
    weights = _conditional_logit(
        [_spread(_with_constant(values / scale), at) for values, at in rows], wanted
    )
    return Teacher(names, scale, weights.reshape(len(MODALITIES) ** 2, -1))


def cross_fitted(
    measures: Mapping[str, Sequence[NDArray[np.floating]]], examples: Sequence[Example]
) -> list[NDArray[np.float32]]:
    """The logits of every list, (N,) each, by a teacher fitted to every other list.

    Lists at even places are judged by what those at odd places say, and the other way round.

    Raises:
        ValueError: as `fit`, of either half.
    """
    logits = [np.zeros(0, np.float32)] * len(examples)
    for half in (0, 1):
        other = range(1 - half, len(examples), 2)
        teacher = fit(
            {name: [values[i] for i in other] for name, values in measures.items()},
            [examples[i] for i in other],
        )
        for i in range(half, len(examples), 2):
            one = {name: values[i] for name, values in measures.items()}
            logits[i] = teacher.logits(one, examples[i]).astype(np.float32)
    return logits


def _with_constant(values: NDArray[np.floating]) -> Floats:
    """(N, F) -> (N, F + 1)."""
    return np.concatenate([values, np.ones((len(values), 1))], -1).astype(np.float64)


def _spread(values: Floats, cell: NDArray[np.int64]) -> Floats:
    """(N, F) -> (N, 9 * F): each row in the columns of its cell, 0 elsewhere."""
    out = np.zeros((len(values), len(MODALITIES) ** 2, values.shape[-1]))
    out[np.arange(len(values)), cell] = values
    return out.reshape(len(values), -1)


def _conditional_logit(lists: Sequence[Floats], wanted: Sequence[Floats]) -> Floats:
    """Weights (K,) by Newton's method with halving: the likelihood is concave.

    lists: (N_i, K) each; wanted: (N_i,) each, sums to 1.
    """
    size = lists[0].shape[-1]
    weights = np.zeros(size)

    def objective(at: Floats) -> float:
        total = -0.5 * PENALTY * float(at @ at)
        for values, target in zip(lists, wanted, strict=True):
            logits = values @ at
            top = logits.max()
            total += float(target @ logits - top - np.log(np.exp(logits - top).sum()))
        return total

    value = objective(weights)
    for _ in range(STEPS):
        gradient, curvature = -PENALTY * weights, PENALTY * np.eye(size)
        for values, target in zip(lists, wanted, strict=True):
            logits = values @ weights
            share = np.exp(logits - logits.max())
            share /= share.sum()
            mean = share @ values
            gradient += target @ values - mean
            curvature += (values * share[:, None]).T @ values - np.outer(mean, mean)
        step = np.linalg.solve(curvature, gradient)
        while (new := objective(weights + step)) < value and np.abs(step).max() > 1e-9:
            step = step / 2
        weights, gained, value = weights + step, new - value, new
        if gained < 1e-6 * abs(value):
            break
    return weights

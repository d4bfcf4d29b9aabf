"""Scorers judged on the lists of one split: every slice of the queries, with intervals.

`evaluate` scores every list with every scorer and returns a `Report`; `evaluate_scores` gives
plain numbers for scores that exist already, as training does. Tables are made in tables.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from train.baselines import Scorer, Scores, text_baselines
from train.calibrated import Calibrated, calibrated, cross_fitted
from train.judging import judged
from train.mixing import Mixing, mixing, pairs_of
from unirank_jax.calibration import CalibrationError
from unirank_jax.content import Part, TextPart
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.records import Example
from unirank_jax.metrics import (
    METRICS,
    Floats,
    Judged,
    MetricError,
    chance,
    measure,
    restrict,
    tie_rate,
)
from unirank_jax.modality_bias import Bias, modality_bias
from unirank_jax.significance import Difference, Interval, Resampled, mcnemar

HEADLINE = "hit@1"
LEVEL = 0.95
BIAS_RESAMPLES = 1000
MACRO, MICRO, SINGLE = "macro over kinds", "all queries", "single positive"
WHOLE = "whole lists"
PARTS = {"images only": "image", "texts only": "text"}  # view -> modality it keeps


@dataclass(frozen=True)
class Row:
    """One slice of the queries in one view of their lists.

    Attributes:
        view: "whole lists", or "images only" / "texts only": the part of each list that has the
            modality, over the lists where a relevant and a not relevant candidate remain.
        name: "macro over kinds", "all queries", "kind: ...", "positive: ..." (modality of the
            relevant candidates) or "single positive".
        queries: how many.
        values: scorer -> metric -> interval.
        differences: model -> other scorer -> paired difference on the headline metric.
        mcnemar: model -> other scorer -> p value; empty for macro averages (not defined there).
    """

    view: str
    name: str
    queries: int
    values: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Difference]]
    mcnemar: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Report:
    """All rows, with what is needed to read them and to compute them again.

    Attributes:
        about: dataset path and fingerprint, split, resamples, seed, level.
        rows: whole lists first, macro and micro first within each view.
        tie_rates: scorer -> share of pairs within a list with equal scores.
        bias: scorer -> its preference for a modality; empty where no list is hybrid.
        calibration: model -> how far its scores are probabilities; without those that rank
            relevant candidates below others.
        mixing: scorer that reads images -> the effect of a candidate's form; empty unless wanted.
        queries: one record per query with ids, grades and every scorer's scores.
    """

    about: dict[str, Any]
    rows: tuple[Row, ...]
    models: tuple[str, ...]
    baselines: tuple[str, ...]
    tie_rates: dict[str, float]
    bias: dict[str, Bias]
    calibration: dict[str, Calibrated]
    mixing: dict[str, Mixing]
    queries: tuple[dict[str, Any], ...]

    def row(self, name: str, view: str = WHOLE) -> Row:
        """The row of that name in that view; KeyError where no query falls into it."""
        for row in self.rows:
            if (row.name, row.view) == (name, view):
                return row
        raise KeyError(f"no row {name!r} in view {view!r}")


def evaluate(
    dataset: Dataset,
    split: str,
    models: Mapping[str, Scorer],
    baselines: Mapping[str, Scorer] | None = None,
    *,
    resamples: int,
    seed: int,
    limit: int | None = None,
    mixed: int = 0,
    nan_last: bool = False,
) -> Report:
    """Score the lists of a split with every scorer and compare each model with all others.

    Args:
        models: name -> scorer (see baselines.py); each is compared with every other scorer.
        baselines: more of them, e.g. a dual encoder; random, BM25 and TF-IDF are always shown.
        resamples: bootstrap resamples of the queries.
        limit: at most this many lists, evenly spaced over the split.
        mixed: score up to so many queries with all candidates in both forms too (mixing.py).
        nan_last: count candidates that failed (NaN) as last instead of raising.

    Raises:
        MetricError: NaN scores or lists without a relevant candidate, all named at once.
        ValueError: a name given to both a model and a baseline.
    """
    examples = examples_of(dataset, split, limit)
    of_text = text_baselines(dataset, split, examples)
    baselines = {**of_text, **(baselines or {})}
    both = models.keys() & baselines.keys()
    if both:
        raise ValueError(f"{sorted(both)}: names of a model and of a baseline; rename the model")
    lists = [judged(example) for example in examples]
    pairs = pairs_of(dataset, split, examples, mixed)
    everything = [*examples, *(pair.example for pair in pairs)]  # one call: a model is loaded once
    scored = {
        name: scorer(examples if name in of_text else everything)
        for name, scorer in {**baselines, **models}.items()
    }
    scores = {name: found[: len(examples)] for name, found in scored.items()}
    of_models = {name: scores.pop(name) for name in models}
    repaired = _platt_by_modality(of_models, lists)
    scores |= {**repaired, **of_models}
    about = {
        "data": dataset.path.name,
        "fingerprint": dataset.fingerprint,
        "split": split,
        "queries": len(examples),
        "resamples": resamples,
        "seed": seed,
        "level": LEVEL,
    }
    rows: list[Row] = []
    for view, modality in {WHOLE: None, **PARTS}.items():
        part, part_scores = _view(lists, scores, modality)
        if part:
            rows += _rows(view, part, part_scores, tuple(models), resamples, seed, nan_last)
    return Report(
        about=about,
        rows=tuple(rows),
        models=tuple(models),
        baselines=(*baselines, *repaired),
        tie_rates={name: tie_rate(values, lists) for name, values in scores.items()},
        bias=_bias(scores, lists, min(resamples, BIAS_RESAMPLES), seed),
        calibration=_calibration(of_models, lists),
        mixing={
            name: mixing(pairs, found[len(examples) :], resamples=resamples, seed=seed)
            for name, found in scored.items()
            if pairs and name not in of_text
        },
        queries=tuple(_record(example, scores, i) for i, example in enumerate(examples)),
    )


def evaluate_scores(
    examples: Sequence[Example],
    scores: Sequence[ArrayLike],
    *,
    metrics: Sequence[str] = METRICS,
    nan_last: bool = False,
) -> dict[str, float]:
    """Means for one system without intervals, as logged during training.

    Keys: "macro/hit@1" (mean over query kinds), "micro/hit@1", "kind/<kind>/hit@1",
    "positive/<modality>/hit@1", and for the parts of the lists "images/hit@1", "texts/hit@1"
    (macro) beside "images/chance/hit@1"; likewise for every metric. "tie_rate" and "queries".
    """
    lists = [judged(example) for example in examples]
    result: dict[str, float] = {}
    table = measure(scores, lists, metrics, nan_last=nan_last)
    for name, members, strata in _slices(lists):
        key = {MACRO: "macro", MICRO: "micro"}.get(name, name.replace(": ", "/"))
        for metric in metrics:
            result[f"{key}/{metric}"] = _mean(table[metric][members], strata)
    for view, modality in PARTS.items():
        part, part_scores = _view(lists, {"": list(scores)}, modality)
        key = view.removesuffix(" only")
        if part:
            kinds = [one.kind for one in part]
            own = measure(part_scores[""], part, metrics, nan_last=nan_last)
            for metric, random in chance(part, metrics).items():
                result[f"{key}/{metric}"] = _mean(own[metric], kinds)
                result[f"{key}/chance/{metric}"] = _mean(random, kinds)
    return result | {"tie_rate": tie_rate(scores, lists), "queries": float(len(lists))}


def examples_of(dataset: Dataset, split: str, limit: int | None = None) -> list[Example]:
    """The examples of a split, or `limit` of them evenly spaced over it."""
    total = len(dataset.lists(split))
    count = total if limit is None else min(limit, total)
    return [dataset.example(split, i * total // count) for i in range(count)]


def content(parts: Sequence[Part]) -> list[Any]:
    """Parts in the form that `Reranker` takes: a list of str and {"image": ...}."""
    return [part.text if isinstance(part, TextPart) else {"image": part.source} for part in parts]


def reranker_scorer(
    reranker: Any, lists_per_call: int = 64, *, on_error: str = "raise", progress: str = ""
) -> Scorer:
    """A scorer from a `unirank_jax.Reranker`: its logits, which unlike scores never saturate.

    `on_error="nan"` gives candidates that cannot be read NaN (count them with `nan_last`). With
    `progress`, a bar of that name on stderr.
    """

    def score(examples: Sequence[Example]) -> Scores:
        scores: Scores = []
        with tqdm(total=len(examples), desc=progress, unit="list", disable=not progress) as bar:
            for start in range(0, len(examples), lists_per_call):
                chunk = examples[start : start + lists_per_call]
                scores += reranker.logits_many(
                    [content(example.query.parts) for example in chunk],
                    [[content(item.parts) for item in example.candidates] for example in chunk],
                    instruction=[example.query.instruction for example in chunk],
                    on_error=on_error,
                )
                bar.update(len(chunk))
        return scores

    return score


def _platt_by_modality(models: Mapping[str, Scores], lists: Sequence[Judged]) -> dict[str, Scores]:
    """Each model with one Platt fit per modality on top; none where a modality cannot be fitted."""
    if len({modality for one in lists for modality in one.modalities}) < 2:
        return {}  # the same order as before
    repaired: dict[str, Scores] = {}
    for name, logits in models.items():
        with suppress(CalibrationError):
            repaired[f"{name} + Platt"] = cross_fitted(logits, lists, by_modality=True)
    return repaired


def _bias(
    scores: Mapping[str, Scores], lists: Sequence[Judged], resamples: int, seed: int
) -> dict[str, Bias]:
    found: dict[str, Bias] = {}
    for name, values in scores.items():
        with suppress(MetricError):  # no hybrid list, or a random order
            found[name] = modality_bias(values, lists, resamples=resamples, seed=seed)
    return found


def _calibration(models: Mapping[str, Scores], lists: Sequence[Judged]) -> dict[str, Calibrated]:
    found: dict[str, Calibrated] = {}
    for name, logits in models.items():
        with suppress(CalibrationError):
            found[name] = calibrated(logits, lists)
    return found


# Rows ---------------------------------------------------------------------------------------------

_Slice = tuple[str, NDArray[np.int64], list[str] | None]


def _slices(lists: Sequence[Judged]) -> list[_Slice]:
    """(name, members, strata) of every row: macro, micro, kinds, positives, single positive."""
    kinds = [one.kind for one in lists]
    everything = np.arange(len(lists))
    found: list[_Slice] = [(MACRO, everything, kinds), (MICRO, everything, None)]
    found += _groups("kind", kinds)
    found += _groups("positive", [one.positive_modality for one in lists])
    single = np.flatnonzero([one.relevant == 1 for one in lists])
    return [*found, (SINGLE, single, None)] if len(single) else found


def _groups(title: str, labels: Sequence[str]) -> list[_Slice]:
    values = np.asarray(labels)
    return [
        (f"{title}: {name}", np.flatnonzero(values == name), None) for name in sorted(set(labels))
    ]


def _view(
    lists: Sequence[Judged], scores: Mapping[str, Sequence[ArrayLike]], modality: str | None
) -> tuple[list[Judged], dict[str, list[NDArray]]]:
    """The lists, and every scorer's scores, restricted to one modality (None: as they are)."""
    if modality is None:
        return list(lists), {
            name: [np.asarray(s) for s in values] for name, values in scores.items()
        }
    parts = {i: part for i, one in enumerate(lists) if (part := restrict(one, modality))}
    kept = {
        name: [np.asarray(values[i])[places] for i, (_, places) in parts.items()]
        for name, values in scores.items()
    }
    return [part for part, _ in parts.values()], kept


def _rows(
    view: str,
    lists: list[Judged],
    scores: Mapping[str, list[NDArray]],
    models: tuple[str, ...],
    resamples: int,
    seed: int,
    nan_last: bool,
) -> list[Row]:
    columns = [(name, metric) for name in scores for metric in METRICS]
    tables = {name: measure(values, lists, nan_last=nan_last) for name, values in scores.items()}
    values = np.stack([tables[name][metric] for name, metric in columns], axis=1)  # (Q, columns)
    rows = []
    for name, members, strata in _slices(lists):
        if view != WHOLE and name.startswith("positive"):
            continue  # one modality only: this row would repeat "all queries"
        drawn = Resampled.draw(values[members], strata, resamples=resamples, seed=seed)
        place = {column: i for i, column in enumerate(columns)}
        intervals: dict[str, dict[str, Interval]] = {scorer: {} for scorer in scores}
        for i, (scorer, metric) in enumerate(columns):
            intervals[scorer][metric] = drawn.interval(i, LEVEL)
        others = {model: [name for name in scores if name != model] for model in models}
        differences = {
            model: {
                other: drawn.difference(place[model, HEADLINE], place[other, HEADLINE], LEVEL)
                for other in others[model]
            }
            for model in models
        }
        hits = {scorer: tables[scorer][HEADLINE][members] for scorer in scores}
        tests = {
            model: {o: mcnemar(hits[model], hits[o], seed=seed) for o in others[model]}
            for model in models
            if strata is None
        }
        rows.append(Row(view, name, len(members), intervals, differences, tests))
    return rows


def _mean(values: Floats, strata: Sequence[str] | None) -> float:
    if strata is None:
        return float(values.mean())
    labels = np.asarray(strata)
    return float(np.mean([values[labels == name].mean() for name in sorted(set(strata))]))


def _record(example: Example, scores: Mapping[str, Scores], place: int) -> dict[str, Any]:
    """A line of queries.jsonl; %.9g carries a float32 without loss, null: the candidate failed."""
    return {
        "qid": example.query.qid,
        "kind": example.query.kind,
        "rel_min": example.query.rel_min,
        "dids": [item.did for item in example.candidates],
        "modalities": [item.modality for item in example.candidates],
        "grades": list(example.grades),
        "neg_types": list(example.neg_types),
        "scores": {
            name: [None if np.isnan(s) else float(f"{s:.9g}") for s in values[place]]
            for name, values in scores.items()
        },
    }

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
from numpy.typing import ArrayLike
from tqdm import tqdm

from train.baselines import Scorer, Scores, text_baselines
from train.calibrated import Calibrated, calibrated, cross_fitted
from train.config import ConfigError
from train.first_stage import fused
from train.judging import judged
from train.mixing import Mixing, mixing, pairs_of
from train.slices import (
    LEVEL,
    MACRO,
    MICRO,
    PARTS,
    WHOLE,
    Row,
    mean_of,
    rows_of,
    slices_of,
    view_of,
)
from unirank_jax.calibration import CalibrationError
from unirank_jax.content import Part, TextPart
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.records import Example
from unirank_jax.metrics import METRICS, Judged, MetricError, chance, measure, tie_rate
from unirank_jax.modality_bias import Bias, modality_bias

BIAS_RESAMPLES = 1000
DUAL, FIRST = "dual encoder", "first stage"


@dataclass(frozen=True)
class Report:
    """All rows, with what is needed to read them and to compute them again.

    Attributes:
        about: dataset path and fingerprint, split, resamples, seed, level; notes, in sentences.
        rows: whole lists first, macro and micro first within each view.
        models: in the order of the tables; those in `runs` were made elsewhere.
        baselines: likewise; those in `repaired` are fits on top of a model.
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
    runs: tuple[str, ...]
    baselines: tuple[str, ...]
    repaired: tuple[str, ...]
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
    runs: Mapping[str, Scorer] | None = None,
    notes: Sequence[str] = (),
    limit: int | None = None,
    mixed: int = 0,
    nan_last: bool = False,
) -> Report:
    """Score the lists of a split with every scorer and compare each model with all others.

    Args:
        models: name -> scorer (see baselines.py); each is compared with every other scorer.
        baselines: more of them, e.g. a dual encoder; random, BM25 and TF-IDF are always shown.
            With a dual encoder (`DUAL`) and without a first stage (`FIRST`) the fusion of BM25 and
            the dual encoder within each list is shown as the latter.
        resamples: bootstrap resamples of the queries, and rounds of the randomisation test.
        runs: rankings made elsewhere. They are compared like models, but their scores are not
            taken for logits: no calibration, no Platt fit, no mixing.
        notes: sentences about the lists that readers should see.
        limit: at most this many lists, evenly spaced over the split.
        mixed: score up to so many queries with all candidates in both forms too (mixing.py).
        nan_last: count candidates that failed (NaN) as last instead of raising.

    Raises:
        MetricError: NaN scores or lists without a relevant candidate, all named at once.
        ConfigError: a name given to two scorers.
    """
    examples = examples_of(dataset, split, limit)
    of_text = text_baselines(dataset, split, examples)
    baselines, runs = {**of_text, **(baselines or {})}, runs or {}
    derived = [FIRST] if DUAL in baselines and FIRST not in baselines else []
    _distinct([*models, *runs, *baselines, *derived])
    lists = [judged(example) for example in examples]
    pairs = pairs_of(dataset, split, examples, mixed)
    everything = [*examples, *(pair.example for pair in pairs)]  # one call: a model is loaded once
    both_forms = {*models, DUAL}
    scored = {
        name: scorer(everything if name in both_forms else examples)
        for name, scorer in {**baselines, **runs, **models}.items()
    }
    scores = {name: found[: len(examples)] for name, found in scored.items()}
    of_models = {name: scores.pop(name) for name in models}
    of_runs = {name: scores.pop(name) for name in runs}
    if derived:
        scores[FIRST] = fused_within(examples, scores["BM25"], scores[DUAL])
    plain = tuple(scores)
    repaired = _platt_by_modality(of_models, lists)
    scores |= {**repaired, **of_runs, **of_models}
    about = {
        "data": dataset.path.name,
        "fingerprint": dataset.fingerprint,
        "split": split,
        "queries": len(examples),
        "resamples": resamples,
        "seed": seed,
        "level": LEVEL,
        "notes": [*notes, *_missing(lists)],
    }
    compared = (*runs, *models)
    rows: list[Row] = []
    for view, modality in {WHOLE: None, **PARTS}.items():
        part, part_scores = view_of(lists, scores, modality)
        if part:
            rows += rows_of(view, part, part_scores, compared, resamples, seed, nan_last)
    return Report(
        about=about,
        rows=tuple(rows),
        models=compared,
        runs=tuple(runs),
        baselines=(*plain, *repaired),
        repaired=tuple(repaired),
        tie_rates={name: tie_rate(values, lists) for name, values in scores.items()},
        bias=_bias(scores, lists, min(resamples, BIAS_RESAMPLES), seed),
        calibration=_calibration(of_models, lists),
        mixing={
            name: mixing(pairs, found[len(examples) :], resamples=resamples, seed=seed)
            for name, found in scored.items()
            if pairs and name in both_forms
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
    for name, members, strata in slices_of(lists):
        key = {MACRO: "macro", MICRO: "micro"}.get(name, name.replace(": ", "/"))
        for metric in metrics:
            result[f"{key}/{metric}"] = mean_of(table[metric][members], strata)
    for view, modality in PARTS.items():
        part, part_scores = view_of(lists, {"": list(scores)}, modality)
        key = view.removesuffix(" only")
        if part:
            kinds = [one.kind for one in part]
            own = measure(part_scores[""], part, metrics, nan_last=nan_last)
            for metric, random in chance(part, metrics).items():
                result[f"{key}/{metric}"] = mean_of(own[metric], kinds)
                result[f"{key}/chance/{metric}"] = mean_of(random, kinds)
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


def fused_within(examples: Sequence[Example], lexical: Scores, dense: Scores) -> Scores:
    """The first stage on lists that exist: both retrievers' ranks within each list, fused."""
    found = []
    for example, words, cosines in zip(examples, lexical, dense, strict=True):
        is_text = np.array([item.modality == "text" for item in example.candidates], bool)
        found.append(fused(cosines, words, is_text).astype(np.float32))
    return found


def _distinct(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{twice}: names of two scorers; rename one (NAME=PATH)")


def _missing(lists: Sequence[Judged]) -> list[str]:
    """How many relevant candidates are not on the lists, in a sentence; none for whole lists."""
    relevant = sum(one.relevant for one in lists)
    missed = sum(grade >= one.rel_min for one in lists for grade in one.missing)
    if not missed:
        return []
    none = sum(not any(grade >= one.rel_min for grade in one.grades) for one in lists)
    return [
        f"{100 * (1 - missed / relevant):.1f} % of the relevant candidates are on the lists; the "
        f"others count as missed. {none} of {len(lists)} lists hold none."
    ]


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


def _record(example: Example, scores: Mapping[str, Scores], place: int) -> dict[str, Any]:
    """A line of queries.jsonl; %.9g carries a float32 without loss, null: the candidate failed."""
    return {
        "qid": example.query.qid,
        "kind": example.query.kind,
        "rel_min": example.query.rel_min,
        "dids": [item.did for item in example.candidates],
        "modalities": [item.modality for item in example.candidates],
        "grades": list(example.grades),
        "missing": list(example.missing),
        "neg_types": list(example.neg_types),
        "scores": {
            name: [None if np.isnan(s) else float(f"{s:.9g}") for s in values[place]]
            for name, values in scores.items()
        },
    }

"""Whether the scores of a study's rows are one scale: calibration, and a liking for a modality."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields

import numpy as np

from train.calibrated import ALL, calibrated
from train.study_numbers import Floats, Found, row_of
from unirank_jax.calibration import CalibrationError
from unirank_jax.metrics import Judged, MetricError
from unirank_jax.modality_bias import modality_bias


@dataclass(frozen=True)
class Scale:
    """Of one row, one value per seed; a value that the lists do not let one measure is NaN.

    Attributes:
        raw: expected calibration error of sigmoid(score).
        fitted: the same after one temperature and bias, fitted on the other half of the queries.
        apart: |fitted, of images - fitted, of texts|.
        share_excess: images in the first place, less their share there in the ideal order.
        shift: c of `unirank_jax.modality_bias.Bias`.
        size: mean |score|, in logits.
    """

    raw: tuple[float, ...]
    fitted: tuple[float, ...]
    apart: tuple[float, ...]
    share_excess: tuple[float, ...]
    shift: tuple[float, ...]
    size: tuple[float, ...]


def scales(found: Found, rows: Sequence[str], arms: Sequence[str]) -> dict[str, Scale]:
    """Of those of `rows` that are scores of a model, not of a text measure without a scale."""
    measured: dict[str, list[dict[str, float]]] = {}
    for name, values in found.scores.items():
        row = row_of(name, arms)
        if row in rows:
            measured.setdefault(row, []).append(_measure(values, found.lists))
    return {
        row: Scale(**{one.name: tuple(seed[one.name] for seed in seeds) for one in fields(Scale)})
        for row, seeds in measured.items()
    }


def _measure(values: Sequence[Floats], lists: Sequence[Judged]) -> dict[str, float]:
    told = dict.fromkeys((one.name for one in fields(Scale)), float("nan"))
    told["size"] = float(np.nanmean(np.abs(np.concatenate(values))))
    with suppress(CalibrationError):
        quality = calibrated(values, lists)
        told["raw"], told["fitted"] = quality.before[ALL].ece, quality.after[ALL].ece
        if {"image", "text"} <= quality.after.keys():
            told["apart"] = abs(quality.after["image"].ece - quality.after["text"].ece)
    with suppress(MetricError):
        bias = modality_bias(values, lists, resamples=1, seed=0)
        told["share_excess"] = bias.share_excess[1].mean
        told["shift"] = bias.shift.mean if bias.shift else float("nan")
    return told


def markdown(found: dict[str, Scale]) -> str:
    """A table of means over the seeds, with the least and the largest in brackets."""
    lines = [
        "Means over the seeds, in brackets the least and the largest: expected calibration error "
        "in percent of the scores as they are, after one temperature and bias (fitted on the other "
        "half of the queries), and how far that of images is from that of texts; images in the "
        "first place beyond their share in the ideal order, in points; what the modality says "
        "beside the score (c, log-odds); mean |score|. 0 and 0 in the fourth and fifth: no liking "
        "for a modality.",
        "",
        "| | ECE | ECE, fitted | images - texts | images first | c | mean size |",
        "| - | -: | -: | -: | -: | -: | -: |",
    ]
    for row, one in found.items():
        cells = [
            _span(one.raw, 100, ".1f"),
            _span(one.fitted, 100, ".2f"),
            _span(one.apart, 100, ".2f"),
            _span(one.share_excess, 100, "+.1f"),
            _span(one.shift, 1, "+.2f"),
            _span(one.size, 1, ".2f"),
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_json(one: Scale) -> dict[str, list[float | None]]:
    """Plain values; what could not be measured is None, since JSON has no NaN."""
    return {
        name: [None if np.isnan(value) else value for value in values]
        for name, values in vars(one).items()
    }


def _span(values: Iterable[float], factor: float, form: str) -> str:
    some = [factor * one for one in values if not np.isnan(one)]
    if not some:
        return ""
    told = f"{float(np.mean(some)):{form}}"
    return f"{told} [{min(some):{form}}, {max(some):{form}}]" if len(some) > 1 else told

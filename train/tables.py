"""A `Report` as tables that read as plain text and as Markdown alike.

All numbers are percent. Rows of fewer than 500 queries carry a star; nothing is left out because
it looks bad: every baseline, every slice and every lost comparison has its row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from train.calibrated import Calibrated
from train.evaluation import Report
from train.forms import EVERYTHING, GROUPS
from train.mixing import SHARES, Mixing
from train.slices import HEADLINE, MACRO, MICRO, PARTS, SINGLE, WHOLE, Row
from unirank_jax.metrics import METRICS
from unirank_jax.modality_bias import Bias
from unirank_jax.significance import Difference, Interval, holm

_BIAS = (
    "0 is unbiased. Images in top 1: their share beyond that of the ideal order. Order: relevant "
    "text above irrelevant image less relevant image above irrelevant text. Gap: pairs in the "
    "right order within a modality less across. Win rate: text above image of equal grade less a "
    "half. Shift and slope: what the modality adds to the score in a logistic regression."
)
_CALIBRATION = (
    "Of sigmoid(logit) as a probability of relevance, before and after Platt's fit on the other "
    "half of the queries; a slope of 1 is calibrated, below it is overconfident."
)
_TOKENS = (
    "Text and visual tokens of a candidate as it is scored, and by what the candidate is in the "
    "data, both together (characters of a text); the prefix is what the candidates of a list share."
)
_MIXING = (
    "nDCG@10 by the share of candidates shown as images. Dip: the middle of the straight line "
    "between the ends less the curve there. Swap: mean change of a score when a candidate changes "
    "its form, in standard deviations. Changed: first places that change when all do."
)
ENOUGH = 500  # queries that a number should rest on
ABOVE, BELOW = "\u25b2", "\u25bc"  # marks of a model that differs from the strongest baseline
LEVELS = (0.05, 0.01)  # one mark, two marks

_TITLES = {
    "hit": "Hit",
    "recall": "Recall",
    "mrr": "MRR",
    "map": "MAP",
    "ndcg": "nDCG",
}


def render(report: Report, *, every_slice: bool) -> str:
    """All tables. `every_slice` False compares systems on macro and micro averages only."""
    about = report.about
    parts = [
        f"# {about['data']} / {about['split']}: {about['queries']} queries",
        "Percent. Metrics are exact expected values under random order of equal scores, in "
        f"brackets {100 * about['level']:.0f} % bootstrap intervals over the queries "
        f"({about['resamples']} resamples, seed {about['seed']}). "
        f"A star marks fewer than {ENOUGH} queries.",
        *about["notes"],
    ]
    views = [view for view in (WHOLE, *PARTS) if any(row.view == view for row in report.rows)]
    for view in views:
        rows = [row for row in report.rows if row.view == view]
        for row in rows:
            repeats = row.name == SINGLE and row.queries == rows[0].queries  # the same as MICRO
            if row.name in (MACRO, MICRO, SINGLE) and not repeats:
                parts += [f"## {view}, {row.name} ({_count(row)} queries)", _metrics(report, row)]
                parts += _legend(report, row)
        parts += [f"## {view}: {_title(HEADLINE)} by slice", _slices(report, rows)]
    for view in views:
        rows = [
            row
            for row in report.rows
            if row.view == view and (every_slice or row.name in (MACRO, MICRO))
        ]
        if report.models:
            parts += [f"## {view}: paired differences of {_title(HEADLINE)}", _differences(rows)]
    if report.bias:
        parts += ["## modality bias", _BIAS, _bias(report.bias)]
    if about.get("tokens"):
        parts += ["## tokens per candidate", _TOKENS, _tokens(about["tokens"])]
    if report.calibration:
        parts += ["## calibration", _CALIBRATION, _calibration(report.calibration)]
    rerankers = [name for name in report.models if name not in report.runs]
    if refused := [name for name in rerankers if name not in report.calibration]:
        parts += [f"No Platt fit: {', '.join(refused)} ranks relevant candidates below others."]
    if report.mixing:
        parts += ["## the same candidates as texts and as images", _MIXING, _mixing(report.mixing)]
    return "\n\n".join(parts) + "\n"


def as_json(report: Report) -> dict[str, Any]:
    """Everything but the per-query records, as plain values."""
    return {
        "about": report.about,
        "models": list(report.models),
        "runs": list(report.runs),
        "baselines": list(report.baselines),
        "tie_rates": report.tie_rates,
        "bias": {name: dataclasses.asdict(one) for name, one in report.bias.items()},
        "calibration": {name: dataclasses.asdict(one) for name, one in report.calibration.items()},
        "mixing": {name: dataclasses.asdict(one) for name, one in report.mixing.items()},
        "rows": [dataclasses.asdict(row) for row in report.rows],
    }


def strongest(report: Report, row: Row) -> str:
    """The baseline with the highest headline metric in a row; fits on top of models are none."""
    names = [name for name in report.baselines if name not in report.repaired]
    return max(names, key=lambda name: row.values[name][HEADLINE].mean)


def marks(report: Report, row: Row) -> dict[str, str]:
    """Model -> how surely it is above or below the strongest baseline; "" where it may be equal."""
    other = strongest(report, row)
    corrected = holm([row.randomisation[model][other] for model in report.models])
    found = {}
    for model, p in zip(report.models, corrected, strict=True):
        sign = ABOVE if row.differences[model][other].mean > 0 else BELOW
        found[model] = sign * sum(p < level for level in LEVELS)
    return found


def _legend(report: Report, row: Row) -> list[str]:
    if not report.models:
        return []
    count = len(report.models)
    return [
        f"{ABOVE} above, {BELOW} below the strongest baseline here ({strongest(report, row)}): "
        f"paired randomisation test on {_title(HEADLINE)}, p < {LEVELS[0]}, two marks "
        f"p < {LEVELS[1]}, corrected by Holm over {count} comparison{'s' * (count > 1)} "
        "(the models shown)."
    ]


def _metrics(report: Report, row: Row) -> str:
    """One line per scorer, one column per metric."""
    marked = marks(report, row)
    whole = row.view == WHOLE  # the tie rate is that of whole lists
    header = ["", *(_title(metric) for metric in METRICS), *(["tied pairs"] if whole else [])]
    lines = [
        [
            name,
            *(
                f"{_interval(values[metric])} {marked.get(name, '')}".strip()
                if metric == HEADLINE
                else f"{100 * values[metric].mean:.1f}"
                for metric in METRICS
            ),
            *([f"{100 * report.tie_rates[name]:.1f}"] if whole else []),
        ]
        for name, values in row.values.items()
    ]
    return _table(header, lines)


def _slices(report: Report, rows: Sequence[Row]) -> str:
    """One line per slice, one column per scorer."""
    names = [*report.baselines, *report.models]
    lines = [
        [row.name, _count(row), *(_interval(row.values[name][HEADLINE]) for name in names)]
        for row in rows
    ]
    return _table(["", "queries", *names], lines)


def _differences(rows: Sequence[Row]) -> str:
    lines = [
        [
            row.name,
            _count(row),
            f"{model} - {other}",
            _difference(difference),
            _p(difference.p),
            _p(row.randomisation[model][other]),
            _p(row.mcnemar[model][other]) if row.mcnemar else "",
        ]
        for row in rows
        for model, others in row.differences.items()
        for other, difference in others.items()
    ]
    tests = [f"p ({name})" for name in ("bootstrap", "randomisation", "McNemar")]
    return _table(["", "queries", "", "difference", *tests], lines)


def _bias(found: Mapping[str, Bias]) -> str:
    header = [
        "",
        "images in top 1",
        "order",
        "gap",
        "win rate, grade 0",
        "shift c",
        "slope e",
        "distance, grade 0",
    ]
    lines = [
        [
            name,
            _signed(bias.share_excess[1]),
            _signed(bias.order_bias),
            _signed(bias.gap),
            _signed(bias.win_rate.get(0)),
            _signed(bias.shift, percent=False),
            _signed(bias.slope, percent=False),
            f"{100 * bias.distance[0]:.1f}" if 0 in bias.distance else "",
        ]
        for name, bias in found.items()
    ]
    return _table(header, lines)


def _calibration(found: Mapping[str, Calibrated]) -> str:
    lines = [
        [f"{name}, {modality}", when, *(f"{100 * x:.1f}" for x in (one.ece, one.brier, one.nll))]
        + ["" if one.slope is None else f"{one.slope:.2f}"]
        for name, both in found.items()
        for when, by_modality in (("as it is", both.before), ("Platt", both.after))
        for modality, one in by_modality.items()
    ]
    return _table(["", "", "ECE", "Brier", "NLL (cnat)", "slope"], lines)


def _tokens(found: Mapping[str, Mapping[str, Any]]) -> str:
    groups = [name for name in GROUPS[1:] if any(name in one["groups"] for one in found.values())]
    lines = []
    for name, one in found.items():
        means = {group: (x["text"], x["visual"]) for group, x in one["groups"].items()}
        cells = [f"{one['prefix']:.1f}", *(f"{x:.1f}" for x in means[EVERYTHING])]
        cells += [f"{sum(means[group]):.1f}" if group in means else "" for group in groups]
        lines.append([f"{name} ({one['form']})", *cells])
    return _table(["", "prefix", "text", "visual", *groups], lines)


def _mixing(found: Mapping[str, Mixing]) -> str:
    header = ["", "queries", *(f"{100 * share:.0f} %" for share in SHARES)]
    lines = [
        [
            name,
            str(one.queries),
            *(f"{100 * one.curve[share].mean:.1f}" for share in SHARES),
            _signed(one.dip),
            f"{one.swap.mean:.2f} [{one.swap.low:.2f}, {one.swap.high:.2f}]",
            _interval(one.changed),
        ]
        for name, one in found.items()
    ]
    return _table([*header, "dip", "swap", "changed"], lines)


def _signed(value: Interval | None, percent: bool = True) -> str:
    if value is None:
        return ""
    numbers = [(100 if percent else 1) * x for x in (value.mean, value.low, value.high)]
    mean, low, high = (f"{x:+.1f}" if percent else f"{x:+.2f}" for x in numbers)
    return f"{mean} [{low}, {high}]"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """An aligned Markdown table: names to the left, numbers to the right."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (header, *lines)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        for line in cells
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))


def _title(metric: str) -> str:
    kind, at, cutoff = metric.partition("@")
    return _TITLES[kind] + at + cutoff


def _count(row: Row) -> str:
    return f"{row.queries}{'*' if row.queries < ENOUGH else ''}"


def _interval(value: Interval) -> str:
    return f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def _difference(value: Difference) -> str:
    return f"{100 * value.mean:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"

"""A `Report` as one self-contained HTML page: tables, plots, ranked lists, the worst misses.

Nothing is loaded from anywhere: plots are inline SVG, images inline PNG, and there is no script.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from train.calibrated import ALL, Calibrated
from train.evaluation import Report
from train.mixing import SHARES, Mixing
from train.page import Candidate, RankedList, document, section
from train.plots import Line, intervals, square
from train.slices import HEADLINE, MACRO
from train.tables import render as as_markdown
from unirank_jax.calibration import Quality
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.records import Item

FIRST_SHOWN = 15  # candidates of a ranked list; the relevant ones are shown wherever they are
FOLDED = "paired differences"  # long tables with these words in their title are folded
_NUMBER = re.compile(r"^[<+-]?\d")


def render(report: Report, dataset: Dataset, config: Mapping[str, Any], shown: int) -> str:
    """The page. `config`: what was asked for; `shown`: ranked lists of each sort."""
    model = report.models[0] if report.models else report.baselines[0]
    about = report.about
    (title, introduction), *rest = sections(as_markdown(report, every_slice=True), report.models)
    parts = {"At a glance": _row([_headline(report)])}
    parts |= {name: body for name, body in rest if FOLDED not in name}
    if report.bias:
        parts["modality bias"] += _row(_bias(report))
    if report.calibration:
        parts["calibration"] += _row(_reliability(report.calibration))
    if report.mixing:
        parts["the same candidates as texts and as images"] += _row([_mixing(report.mixing)])
    for name, records in (
        (f"Ranked by {model}: one list of each kind", _one_per_kind(report.queries)),
        (f"The worst misses of {model}", worst(report.queries, model)),
    ):
        lists = [section(_ranked(one, dataset, model), FIRST_SHOWN) for one in records[:shown]]
        parts[name] = "\n".join(lists) or "<p>There is none.</p>"
    parts |= {
        name: f"<details><summary>Show the table</summary>{body}</details>"
        for name, body in rest
        if FOLDED in name
    }
    text = json.dumps({"about": about, "command": dict(config)}, indent=1, ensure_ascii=False)
    parts["Configuration"] = f"<pre>{html.escape(text)}</pre>"
    links = "".join(
        f'<a href="#s{n}">{html.escape(name)}</a>' for n, name in enumerate(parts, start=1)
    )
    body = "\n".join(
        f'<h2 id="s{n}">{html.escape(name)}</h2>\n{part}'
        for n, (name, part) in enumerate(parts.items(), start=1)
    )
    head = f"<h1>{html.escape(title)}</h1>\n{introduction}\n<nav>{links}</nav>"
    return document(f"{about['data']} / {about['split']}", f"{head}\n{body}")


def worst(records: Sequence[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """Records whose best relevant candidate lies furthest below their first one, worst first."""

    def behind(record: dict[str, Any]) -> float:
        scores = [float("-inf") if s is None else s for s in record["scores"][model]]
        pairs = [p for p in zip(scores, record["grades"], strict=True) if p[1] >= 0]
        best = max(score for score, grade in pairs if grade >= record["rel_min"])
        return max(score for score, _ in pairs) - best

    found = [(behind(record), record) for record in records if _has_relevant(record)]
    return [record for gap, record in sorted(found, key=lambda pair: -pair[0]) if gap > 0]


def sections(markdown: str, models: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(title, HTML of its paragraphs and tables) of the headings of `train.tables`.

    Lines of tables that begin with the name of a model are set off.
    """
    found: list[tuple[str, str]] = []
    for block in markdown.strip().split("\n\n"):
        if block.startswith("#"):
            found.append((block.lstrip("#").strip(), ""))
            continue
        made = _table(block, models) if block.startswith("|") else f"<p>{html.escape(block)}</p>"
        title, body = found.pop()
        found.append((title, body + made))
    return found


def _table(block: str, models: Sequence[str]) -> str:
    header, rule, *lines = [_cells(line) for line in block.splitlines()]
    numeric = [cell.endswith(":") for cell in rule]
    head = "".join(
        f"<th{_kind(right)}>{html.escape(cell)}</th>"
        for cell, right in zip(header, numeric, strict=True)
    )
    body = "".join(
        f"<tr{_kind(line[0] in models, 'model')}>"
        + "".join(
            f"<td{_kind(right and bool(_NUMBER.match(cell)))}>{html.escape(cell)}</td>"
            for cell, right in zip(line, numeric, strict=True)
        )
        + "</tr>"
        for line in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _kind(applies: bool, name: str = "number") -> str:
    return f' class="{name}"' if applies else ""


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line)[1:-1]
    return [cell.replace("\\|", "|").strip() for cell in cells]


# Plots --------------------------------------------------------------------------------------------


def _headline(report: Report) -> str:
    values = {name: found[HEADLINE] for name, found in report.row(MACRO).values.items()}
    return intervals("Hit@1 in percent, whole lists, macro over kinds", values, zero=False)


def _bias(report: Report) -> list[str]:
    top = {name: one.share_excess[1] for name, one in report.bias.items()}
    order = {name: one.order_bias for name, one in report.bias.items() if one.order_bias}
    plots = [intervals("images in first place beyond their share, percent", top, zero=True)]
    if order:
        plots.append(intervals("order: above 0 texts are favoured, percent", order, zero=True))
    return plots


def _reliability(found: Mapping[str, Calibrated]) -> list[str]:
    return [
        square(f"{name}, {when}", "mean score", "share relevant", _lines(qualities), diagonal=True)
        for name, both in found.items()
        for when, qualities in (("as it is", both.before), ("Platt", both.after))
    ]


def _lines(qualities: Mapping[str, Quality]) -> list[Line]:
    names = [ALL, *(name for name in qualities if name != ALL)]
    return [(name, [(b.score, b.relevant) for b in qualities[name].bins]) for name in names]


def _mixing(found: Mapping[str, Mixing]) -> str:
    lines = [
        (name, [(share, one.curve[share].mean) for share in SHARES]) for name, one in found.items()
    ]
    return square("mixing", "share of candidates shown as images", "nDCG@10", lines, diagonal=False)


def _row(plots: Sequence[str]) -> str:
    return f'<div class="plots">{"".join(plots)}</div>'


# Lists --------------------------------------------------------------------------------------------


def _one_per_kind(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first list of each kind that has a relevant candidate on it."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        if _has_relevant(record):
            found.setdefault(record["kind"], record)
    return list(found.values())


def _ranked(record: dict[str, Any], dataset: Dataset, model: str) -> RankedList:
    """A record's judged candidates by falling score, failed ones last."""
    scores, grades = record["scores"][model], record["grades"]
    judged = [place for place, grade in enumerate(grades) if grade >= 0]
    order = sorted(judged, key=lambda i: (scores[i] is None, -(scores[i] or 0.0), i))
    items: list[Item] = [dataset.item(did) for did in record["dids"]]
    candidates = tuple(
        Candidate(
            items[i].parts,
            float("nan") if scores[i] is None else scores[i],
            grades[i] >= record["rel_min"],
        )
        for i in order
    )
    return RankedList(record["kind"], dataset.query(record["qid"]).parts, candidates)


def _has_relevant(record: dict[str, Any]) -> bool:
    return any(grade >= record["rel_min"] for grade in record["grades"])

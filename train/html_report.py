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
from train.tables import render as as_markdown
from unirank_jax.calibration import Quality
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.records import Item

SIDE, EDGE = 260, 34  # pixels: of a plot's square, of its margin
COLOURS = ("#1f5fbf", "#c2410c", "#18794e", "#7c3aed", "#475569", "#b4861b")
_NUMBER = re.compile(r"^[<+-]?\d")


def render(report: Report, dataset: Dataset, config: Mapping[str, Any], shown: int) -> str:
    """The page. `config`: what was asked for; `shown`: ranked lists of each sort."""
    model = report.models[0] if report.models else report.baselines[0]
    about = report.about
    parts = [tables(as_markdown(report, every_slice=True))]
    if report.calibration:
        parts.append("<h2>Reliability</h2>" + _row(_reliability(report.calibration)))
    if report.mixing:
        parts.append("<h2>Mixing forms</h2>" + _row([_mixing(report.mixing)]))
    for title, records in (
        (f"Ranked by {model}: one list of each kind", _one_per_kind(report.queries)),
        (f"The worst misses of {model}", worst(report.queries, model)),
    ):
        parts.append(f"<h2>{html.escape(title)}</h2>")
        parts += [section(_ranked(one, dataset, model)) for one in records[:shown]]
    text = json.dumps({"about": about, "command": dict(config)}, indent=1, ensure_ascii=False)
    parts.append(f"<h2>Configuration</h2><pre>{html.escape(text)}</pre>")
    return document(f"{about['data']} / {about['split']}", "\n".join(parts))


def worst(records: Sequence[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """Records whose best relevant candidate lies furthest below their first one, worst first."""

    def behind(record: dict[str, Any]) -> float:
        scores = [float("-inf") if s is None else s for s in record["scores"][model]]
        pairs = list(zip(scores, record["grades"], strict=True))
        best = max(score for score, grade in pairs if grade >= record["rel_min"])
        return max(scores) - best

    found = [(behind(record), record) for record in records if _has_relevant(record)]
    return [record for gap, record in sorted(found, key=lambda pair: -pair[0]) if gap > 0]


def tables(markdown: str) -> str:
    """Headings, paragraphs and tables of `train.tables` as HTML."""
    made = []
    for block in markdown.strip().split("\n\n"):
        if block.startswith("#"):
            level = len(block) - len(block.lstrip("#"))
            made.append(f"<h{level}>{html.escape(block[level + 1 :])}</h{level}>")
        elif block.startswith("|"):
            lines = [_cells(line) for line in block.splitlines()]
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in lines[0])
            body = "".join(f"<tr>{''.join(map(_cell, line))}</tr>" for line in lines[2:])
            made.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        else:
            made.append(f"<p>{html.escape(block)}</p>")
    return "\n".join(made)


# Plots --------------------------------------------------------------------------------------------

Line = tuple[str, Sequence[tuple[float, float]]]  # name, points in [0, 1]


def plot(title: str, across: str, up: str, lines: Sequence[Line], diagonal: bool) -> str:
    """Lines in the unit square as SVG."""
    size = SIDE + 2 * EDGE

    def at(x: float, y: float) -> str:
        return f"{EDGE + x * SIDE:.1f},{EDGE + (1 - y) * SIDE:.1f}"

    marks = [f'<rect x="{EDGE}" y="{EDGE}" width="{SIDE}" height="{SIDE}" class="frame"/>']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = EDGE + tick * SIDE, EDGE + (1 - tick) * SIDE
        marks.append(f'<text x="{x}" y="{EDGE + SIDE + 13}" class="mid">{tick:g}</text>')
        marks.append(f'<text x="{EDGE - 4}" y="{y + 4}" class="end">{tick:g}</text>')
    if diagonal:
        marks.append(f'<polyline points="{at(0, 0)} {at(1, 1)}" class="guide"/>')
    for number, (name, points) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(at(x, y) for x, y in points)
        marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in points:
            cx, cy = at(x, y).split(",")
            marks.append(f'<circle cx="{cx}" cy="{cy}" r="2.5" fill="{colour}"/>')
        where = EDGE + 14 * (number + 1)
        marks.append(f'<text x="{EDGE + 8}" y="{where}" fill="{colour}">{html.escape(name)}</text>')
    centre = size / 2
    marks.append(f'<text x="{centre}" y="{size - 4}" class="mid">{html.escape(across)}</text>')
    marks.append(f'<text x="{centre}" y="14" class="mid">{html.escape(title)}: {up}</text>')
    return f'<svg viewBox="0 0 {size} {size}" width="{size}" role="img">{"".join(marks)}</svg>'


def _reliability(found: Mapping[str, Calibrated]) -> list[str]:
    return [
        plot(f"{name}, {when}", "mean score", "share relevant", _lines(qualities), diagonal=True)
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
    return plot("mixing", "share of candidates shown as images", "nDCG@10", lines, diagonal=False)


# Lists --------------------------------------------------------------------------------------------


def _one_per_kind(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        found.setdefault(record["kind"], record)
    return list(found.values())


def _ranked(record: dict[str, Any], dataset: Dataset, model: str) -> RankedList:
    """A record's candidates by falling score, failed ones last."""
    scores, grades = record["scores"][model], record["grades"]
    order = sorted(range(len(scores)), key=lambda i: (scores[i] is None, -(scores[i] or 0.0), i))
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


def _row(plots: Sequence[str]) -> str:
    return f'<div class="plots">{"".join(plots)}</div>'


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line)[1:-1]
    return [cell.replace("\\|", "|").strip() for cell in cells]


def _cell(text: str) -> str:
    kind = ' class="number"' if _NUMBER.match(text) else ""
    return f"<td{kind}>{html.escape(text)}</td>"

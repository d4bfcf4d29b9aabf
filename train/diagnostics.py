"""How a run of stage 2 went, as one self-contained page: every quantity against the steps."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from train.page import document
from train.plots import curves

PAGE = "diagnostics.html"

# title -> name of the curve -> column of metrics.jsonl
TRAINED: Mapping[str, Mapping[str, str]] = {
    "Rewards of the sampled orders": {"reward": "reward", "nDCG of the grades": "gold"},
    "Queries": {
        "without a signal": "dead",
        "first became relevant": "flips_good",
        "first is no longer": "flips_bad",
    },
    "Distance from stage 1 (nats)": {
        "yes or no": "bernoulli",
        "who comes first": "first",
        "whole orders": "order_divergence",
    },
    "Entropy of who comes first (nats)": {"entropy": "entropy"},
    "Logits": {
        "mean magnitude": "magnitude",
        "in stage 1": "magnitude_before",
        "relevant": "score_relevant",
        "others": "score_other",
    },
    "Label loss": {"bce": "bce"},
    "Placements outside the clip": {"share": "clipped"},
    "Cosine of the objective's slope and the label loss's": {"cosine": "agreement"},
}
PROXY = "Reward and nDCG against distance"


def write_page(workdir: Path) -> None:
    """Write `diagnostics.html` beside metrics.jsonl, if there is one with lines of training."""
    path = workdir / "metrics.jsonl"
    if jax.process_index() or not path.exists():
        return
    whole = [text for text in path.read_text("utf-8").splitlines(True) if text.endswith("\n")]
    lines = [json.loads(text) for text in whole]  # a killed run may have left half a line
    if any(line["kind"] == "train" for line in lines):
        (workdir / PAGE).write_text(page(workdir.name, lines), encoding="utf-8")


def page(name: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """The page of a run from the lines of its metrics.jsonl."""
    trained = [line for line in lines if line["kind"] == "train"]
    plots = []
    for title, columns in TRAINED.items():
        found = [(label, _series(trained, "step", column)) for label, column in columns.items()]
        plots.append((title, "step", [line for line in found if line[1]]))
    found = [
        (label, [(math.sqrt(max(x, 0.0)), y) for x, y in _series(trained, "order_divergence", key)])
        for label, key in (("reward", "reward"), ("nDCG of the grades", "gold"))
    ]
    plots.append((PROXY, "root of the divergence of whole orders", [p for p in found if p[1]]))
    for kind in sorted({line["kind"] for line in lines} - {"train"}):
        some = [line for line in lines if line["kind"] == kind]
        names = [key for key in ("hit@1", "mrr@10", "ndcg@10") if key in some[0]]
        plots.append(
            (f"Split {kind}", "step", [(key, _series(some, "step", key)) for key in names])
        )
    body = "\n".join(curves(*plot) for plot in plots if plot[2])
    head = f"<h1>{html.escape(name)}: {len(trained)} windows of training</h1>"
    return document(f"{name}: diagnostics", f'{head}\n<div class="plots">{body}</div>')


def _series(lines: Sequence[Mapping[str, Any]], across: str, up: str) -> Sequence[tuple[Any, Any]]:
    return [(line[across], line[up]) for line in lines if across in line and up in line]

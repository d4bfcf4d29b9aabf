"""The report's page: it stands alone, shows every table, and picks the right lists."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from train.evaluation import Report, evaluate
from train.html_report import plot, render, tables, worst
from train.tables import render as as_markdown
from unirank_jax.datasets.dataset import sample


def oracle_with_noise(examples):
    rng = np.random.default_rng(0)
    return [np.array(e.grades) + rng.normal(size=len(e.grades)) for e in examples]


@pytest.fixture(scope="module")
def report() -> Report:
    scorers = {"a <model> | odd": oracle_with_noise}
    return evaluate(sample("sci"), "valid", scorers, resamples=50, seed=0, limit=80, mixed=20)


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report, sample("sci"), {"limit": 80}, 3)


class Strict(HTMLParser):
    """Collects tags and fails where they do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    parser = Strict()
    parser.feed(re.sub(r"<(rect|circle|polyline)([^>]*)/>", "", page))
    assert parser.open == []
    assert {"table", "svg", "section", "pre"} <= set(parser.seen)
    assert "script" not in parser.seen
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(source.startswith("data:") for source in sources)
    assert "url(" not in page and "@import" not in page


def test_names_are_escaped_and_every_table_is_there(report: Report, page: str) -> None:
    assert "<model>" not in page and "a &lt;model&gt; | odd" in page
    markdown = as_markdown(report, every_slice=True)
    assert page.count("<table>") == len(re.findall(r"^\| -", markdown, re.M))
    assert page.count("<svg") == 3, "reliability before and after, and mixing"
    assert page.count("<section>") == 6


def test_tables_keep_rows_and_cells() -> None:
    made = tables("# T\n\n| a\\|b | n |\n| --- | --: |\n| x | 1.0 |\n| y | +2 |\n")
    assert made.startswith("<h1>T</h1>") and "<th>a|b</th>" in made
    assert made.count("<tr>") == 3
    assert '<td class="number">+2</td>' in made and "<td>x</td>" in made


def test_the_worst_misses_come_first_and_hits_are_none() -> None:
    def record(qid: str, scores: list) -> dict:
        return {"qid": qid, "rel_min": 1, "grades": [1, 0], "scores": {"m": scores}}

    records = [record("hit", [2.0, 1.0]), record("near", [0.0, 0.5]), record("far", [0.0, 9.0])]
    records.append(record("failed", [None, 1.0]))
    assert [one["qid"] for one in worst(records, "m")] == ["failed", "far", "near"]


def test_a_plot_puts_points_where_they_belong() -> None:
    made = plot("t", "x", "y", [("line", [(0.0, 0.0), (1.0, 1.0)])], diagonal=False)
    circles = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', made)
    (left, bottom), (right, top) = [(float(x), float(y)) for x, y in circles]
    assert left < right and top < bottom, "the y axis of a picture points down"

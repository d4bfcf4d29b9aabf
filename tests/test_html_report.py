"""The report's page: it stands alone, shows every table, and picks the right lists."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from train.evaluation import Report, evaluate
from train.html_report import render, sections, worst
from train.page import Candidate, RankedList, section
from train.plots import intervals, square
from train.tables import render as as_markdown
from unirank_jax.content import TextPart
from unirank_jax.datasets.dataset import sample
from unirank_jax.significance import Interval


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
    parser.feed(re.sub(r"<(rect|circle|polyline|line)([^>]*)/>", "", page))
    assert parser.open == []
    assert {"table", "svg", "section", "pre"} <= set(parser.seen)
    assert "script" not in parser.seen
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert {source for source in sources if source.startswith("#")} == {
        f"#{name}" for name in re.findall(r'id="([^"]*)"', page)
    }
    assert "url(" not in page and "@import" not in page


def test_names_are_escaped_and_every_table_is_there(report: Report, page: str) -> None:
    assert "<model>" not in page and "a &lt;model&gt; | odd" in page
    markdown = as_markdown(report, every_slice=True)
    assert page.count("<table>") == len(re.findall(r"^\| -", markdown, re.M))
    assert page.count("<svg") == 6, "Hit@1, two of bias, two of reliability, and mixing"
    assert page.count("<details>") == len(re.findall("^## .*paired differences", markdown, re.M))
    for title in re.findall(r"^## (.*)$", markdown, re.M):
        assert re.search(rf"<h2[^>]*>{re.escape(title)}</h2>", page), title
    assert page.count("<section>") == 6


def test_tables_keep_rows_and_cells() -> None:
    text = "# T\n\nword\n\n## U\n\n| a\\|b | n |\n| --- | --: |\n| x | 1.0 |\n| y | +2 |\n"
    (title, words), (other, made) = sections(text, models=["y"])
    assert (title, words, other) == ("T", "<p>word</p>", "U")
    assert '<th>a|b</th><th class="number">n</th>' in made
    assert made.count("<tr>") == 2 and made.count('<tr class="model"><td>y</td>') == 1
    assert '<td class="number">+2</td>' in made and "<td>x</td>" in made


def test_the_worst_misses_come_first_and_hits_are_none() -> None:
    def record(qid: str, scores: list) -> dict:
        return {"qid": qid, "rel_min": 1, "grades": [1, 0], "scores": {"m": scores}}

    records = [record("hit", [2.0, 1.0]), record("near", [0.0, 0.5]), record("far", [0.0, 9.0])]
    records.append(record("failed", [None, 1.0]))
    assert [one["qid"] for one in worst(records, "m")] == ["failed", "far", "near"]


def test_unjudged_candidates_are_no_misses() -> None:
    record = {"qid": "q", "rel_min": 1, "grades": [-1, 1, 0], "scores": {"m": [9.0, 2.0, 1.0]}}
    assert worst([record], "m") == []


def test_a_long_list_shows_its_first_and_its_relevant_candidates() -> None:
    candidates = [Candidate((TextPart(f"t{n}"),), -float(n), n == 70) for n in range(100)]
    ranked = RankedList("k", (TextPart("q"),), tuple(candidates))
    short = section(ranked, 3)
    assert short.count("<li") == 4 and "71." in short and ">t2<" in short
    assert "96 more that are not relevant are not shown" in short
    assert section(ranked).count("<li") == 100 and "not shown" not in section(ranked)


def test_a_plot_puts_points_where_they_belong() -> None:
    made = square("t", "x", "y", [("line", [(0.0, 0.0), (1.0, 1.0)])], diagonal=False)
    circles = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', made)
    (left, bottom), (right, top) = [(float(x), float(y)) for x, y in circles]
    assert left < right and top < bottom, "the y axis of a picture points down"


def test_intervals_lie_around_their_means_on_one_scale() -> None:
    found = {"a": Interval(0.1, 0.0, 0.3, 9), "b <c>": Interval(-0.2, -0.25, -0.1, 9)}
    made = intervals("t", found, zero=True)
    assert "b &lt;c&gt;" in made and made.count("<circle") == 2
    spans = re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)"', made)
    zero, first, second = [(float(a), float(b)) for a, b in spans]
    centres = [float(x) for x in re.findall(r'cx="([\d.]+)"', made)]
    assert zero[0] == zero[1] == pytest.approx(first[0], abs=0.1)
    ticks = re.findall(r'class="mid">(-?[\d.]+)<', made)
    assert ticks == ["-20", "-10", "0", "10", "20", "30"]
    assert first[0] < centres[0] < first[1] and second[0] < centres[1] < second[1] < zero[0]

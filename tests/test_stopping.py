"""The rules that end a run of stage 2, the runs that they end, and the page of its curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_html_report import Strict

from train.diagnostics import PROXY, page, write_page
from train.loop import Item, Resumed, Schedule, StoppedError, run
from train.report import Report
from train.signals import turned
from train.stopping import LINES, verdict


def lines(**changes: tuple[float, float]) -> list[dict[str, Any]]:
    """A healthy run of ten lines; a change (first, last) moves a quantity along a straight line."""
    quantities = {
        "reward": (0.5, 0.6),
        "gold": (0.5, 0.55),
        "dead": (0.2, 0.3),
        "entropy": (1.5, 1.0),
        "magnitude": (2.0, 2.5),
        "magnitude_before": (2.0, 2.0),
        "order_divergence": (0.0, 0.3),
        "bce": (0.4, 0.4),
    } | changes
    return [
        {
            "step": 10 * n,
            "kind": "train",
            **{name: a + (b - a) * n / 9 for name, (a, b) in quantities.items()},
        }
        for n in range(10)
    ]


@pytest.mark.parametrize(
    "change, told",
    [
        ({"dead": (0.2, 0.9)}, "policy.temperature"),
        ({"magnitude": (2.0, 6.0)}, "times as large"),
        ({"entropy": (1.5, -0.5)}, "entropy of who comes first fell"),
        ({"gold": (0.5, 0.4)}, "the reward model is exploited"),
    ],
    ids=str,
)
def test_each_failure_is_told(change: dict[str, tuple[float, float]], told: str) -> None:
    assert verdict(lines()) is None
    found = lines(**change)
    assert told in (verdict(found) or "")
    assert verdict(found[:LINES]) is None, "too early to tell"
    assert verdict([*found[:-1], lines()[-1]]) is None, "one line that is well again"


def test_objectives_without_samples_are_judged_by_what_they_have() -> None:
    missing = ("reward", "gold", "dead")
    found = [{k: v for k, v in one.items() if k not in missing} for one in lines()]
    assert verdict(found) is None


def test_a_rule_ends_the_run_with_its_state_saved(tmp_path: Path) -> None:
    saved: list[tuple[int, dict[str, Any]]] = []

    class Checkpoints:
        latest = None

        def save(self, step: int, state: int, meta: Any, values: Any) -> None:
            saved.append((step, meta.extra))

        def wait(self) -> None:
            pass

    def rule(history: Any) -> str | None:
        return "enough" if history[-1]["loss"] >= 3 else None

    def step(state: int, batch: int) -> tuple[int, dict[str, float]]:
        return state + 1, {"loss": float(state), "grad_norm": 1.0}

    items: Any = (Item(0, (), n) for n in range(1, 100))
    start = Resumed(0, 0, 0, None, [])
    checkpoints: Any = Checkpoints()
    with Report(tmp_path, 1, 50, 0, None, rule=rule) as report:
        with pytest.raises(StoppedError, match="stopped at step 5: enough"):
            run(start, step, items, Schedule(50, 0, 0), checkpoints, report, {})
    ((at, extra),) = saved
    assert at == 5, "metrics are read one step late"
    assert [one["loss"] for one in extra["history"]] == [0.0, 2.0, 3.0, 4.0]
    with Report(tmp_path, 1, 50, 5, None, extra["history"], rule) as report:
        assert report.history == extra["history"]


def test_the_page_shows_what_there_is(tmp_path: Path) -> None:
    valid = [{"step": 50, "kind": "valid", "hit@1": 0.4, "mrr@10": 0.5, "ndcg@10": 0.6}]
    made = page("a <run>", [*lines(), *valid])
    Strict().feed(made)
    assert PROXY in made and "Split valid" in made and "a &lt;run&gt;" in made
    assert "Placements outside the clip" not in made, "a plot without a point"
    assert "http" not in made.replace("http-equiv", "")
    write_page(tmp_path)
    assert not list(tmp_path.iterdir()), "nothing without metrics"
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines()))
    write_page(tmp_path)
    assert (tmp_path / "diagnostics.html").read_text("utf-8").count("<svg") == 7


def test_preferences_are_turned_as_told() -> None:
    given = {f"q{n}": [(f"a{k}", f"b{k}", 0.5) for k in range(20)] for n in range(50)}
    assert turned(given, 0.0, 0) == given
    found = turned(given, 0.2, 0)
    wrong = [
        one
        for qid, some in found.items()
        for one, was in zip(some, given[qid], strict=True)
        if one != was
    ]
    assert 0.15 < len(wrong) / 1000 < 0.25 and wrong[0][0].startswith("b")
    assert turned(given, 0.2, 0) == found != turned(given, 0.2, 1)

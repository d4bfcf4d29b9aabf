"""The demo's whole tour in small: fine-tune, export, evaluate, and the page of ranked lists."""

from __future__ import annotations

import json
from pathlib import Path

from train import demo
from train.page import Candidate, RankedList, render
from unirank_jax.content import TextPart


def test_the_whole_tour(tmp_path: Path) -> None:
    few = ["schedule.steps=2", "schedule.warmup_steps=1", "evaluation.lists=4", "batch.lists=8"]
    arguments = ["--workdir", str(tmp_path), "--lists", "11", "--shown", "2", "--set", *few]
    assert demo.main(arguments) == 0
    page = (tmp_path / "ranked.html").read_text("utf-8")
    assert page.count("<section>") == 2 and page.count("<li class") == 40
    assert "data:image/png;base64," in page and "http" not in page.replace("http-equiv", "")
    report = json.loads((tmp_path / "evaluation" / "report.json").read_text("utf-8"))
    assert report["models"] == ["before", "after"]
    assert {"random", "BM25", "TF-IDF", "dual encoder", "first stage"} == set(report["baselines"])
    assert (tmp_path / "exported" / "unirank.json").is_file()


def test_text_on_the_page_is_escaped() -> None:
    part = TextPart("<script>alert(1)</script> & more")
    ranked = RankedList("kind", (part,), (Candidate((part,), 0.5, True),))
    page = render("<title>", "a < b", "x & y", [ranked])
    assert "<script>" not in page and "&lt;script&gt;" in page and "x &amp; y" in page

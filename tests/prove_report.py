"""The report's page in a real browser: no console message, and nothing loaded from anywhere.

    python -m pytest tests/prove_report.py -rs

Needs Chromium (Debian: apt-get install chromium); without it the proof is skipped and says so.
Set PAGE to the path of a report.html to examine that one too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.evaluation import DUAL, evaluate
from train.html_report import render
from unirank_jax.datasets.dataset import sample

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium on the path; on Debian: apt-get install chromium"
)
# The browser itself asks for updates and the time; what a page asks for has an initiator.
BROWSER_S_OWN = (None, "not an origin")


def visit(page: Path, folder: Path) -> tuple[list[str], list[str], Path]:
    """(console messages, addresses that the page asked for, screenshot) of a page."""
    log, shot = folder / "net.json", folder / "page.png"
    done = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"),
            *(f"--log-net-log={log}", "--window-size=1200,2400", f"--screenshot={shot}"),
            page.resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and shot.is_file(), done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    text = log.read_text("utf-8").rstrip()
    events = json.loads(text if text.endswith("}") else text.rstrip(",") + "]}")["events"]
    asked = [event["params"] for event in events if "url" in event.get("params", {})]
    return console, [p["url"] for p in asked if p.get("initiator") not in BROWSER_S_OWN], shot


def guesses(examples):
    rng = np.random.default_rng(0)
    return [np.array(e.grades) + rng.normal(size=len(e.grades)) for e in examples]


def test_the_page_opens_without_a_message_and_without_the_network(tmp_path: Path) -> None:
    report = evaluate(
        sample("sci"), "valid", {"m": guesses}, {DUAL: guesses}, resamples=50, seed=0, limit=80,
        mixed=20,
    )  # fmt: skip
    page = tmp_path / "report.html"
    page.write_text(render(report, sample("sci"), {"limit": 80}, 3), encoding="utf-8")
    for one in [page, *([Path(os.environ["PAGE"])] if "PAGE" in os.environ else [])]:
        folder = tmp_path / one.stem / "visit"
        folder.mkdir(parents=True)
        console, asked, shot = visit(one, folder)
        assert console == [] and asked == []
        with Image.open(shot) as image:
            assert len(image.convert("L").getcolors()) > 50, "something is drawn"
        shutil.rmtree(folder.parent)


def test_the_proof_sees_messages_and_requests(tmp_path: Path) -> None:
    """A page that does what ours must not do is caught."""
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><body><img src="http://127.0.0.1:9/x.png">'
        '<script>console.error("seen")</script></body>'
    )
    console, asked, _ = visit(page, tmp_path)
    assert any("seen" in line for line in console)
    assert asked == ["http://127.0.0.1:9/x.png"]

"""Mining 2,000 queries, killed at random moments and taken up again: not a byte is different.

Needs the built `sci` (half an hour of two cores):
`UNIRANK_SCI=data/sci python -m pytest tests/prove_mining.py -rP`.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCI = Path(os.environ.get("UNIRANK_SCI", ROOT / "runs/prove-m2/sci")).resolve()
KILLS, SHARDS = 5, 40


def command(workdir: Path) -> list[str]:
    settings = [f"source={SCI}", "limit=2000", f"model={ROOT / 'results/m2/stage1-sci'}"]
    mine = [sys.executable, "-m", "train.mine", "--config", "configs/sci_mine.py"]
    return [*mine, "--set", *settings, "--workdir", str(workdir)]


def contents(folder: Path) -> dict[str, str]:
    """Every file's hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def shards(folder: Path) -> int:
    """How many are complete."""
    return len(list(folder.glob("scores-*.jsonl.gz")))


@pytest.mark.skipif(not SCI.exists(), reason=f"{SCI}: build the dataset first")
def test_a_killed_mining_goes_on_without_a_changed_byte(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.perf_counter()
    done = subprocess.run(command(whole), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    took = time.perf_counter() - began
    print(f"unbroken in {took:.0f} s\n{done.stdout}")

    rng = random.Random(0)
    reached: list[int] = []
    for number in range(KILLS):
        running = subprocess.Popen(command(killed), cwd=ROOT, stdout=subprocess.DEVNULL)
        wanted = number and shards(killed) + rng.randint(1, SHARDS // KILLS - 1)  # first: none yet
        while running.poll() is None and shards(killed) < wanted:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.02) * took)
        assert running.poll() is None, "it must be killed before it ends"
        running.send_signal(signal.SIGKILL)
        running.wait()
        reached.append(shards(killed))
    print(f"{KILLS} kills, complete shards after each: {reached} of {SHARDS}")
    assert reached[0] < reached[-1] < SHARDS
    subprocess.run(command(killed), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert contents(killed) == contents(whole)

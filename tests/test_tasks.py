"""Commands of a study at once: chains stay in order, cores are shared out, a failure ends it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from train.study_numbers import StudyError
from train.tasks import Task, run_all, shares

MODULE = """
import os, pathlib, sys, time
name, folder, seconds, *needs = sys.argv[1:]
folder = pathlib.Path(folder)
assert all((folder / one).exists() for one in needs), f"before {needs}"
(folder / f"{name}.began").write_text(f"{time.time()} {len(os.sched_getaffinity(0))}")
time.sleep(float(seconds))
print("said by", name)
sys.exit(3 if name == "bad" else 0)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "one_command.py").write_text(MODULE)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def task(folder: Path, name: str, seconds: float, *needs: str) -> Task:
    argv = ("one_command", name, str(folder), str(seconds), *needs)
    return Task(name, argv, folder / name)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="macOS does not assign cores")
def test_several_at_once(tmp_path: Path, environment: dict[str, str]) -> None:
    chains = [
        [task(tmp_path, "a", 1.5), task(tmp_path, "a-judged", 0, "a")],
        [task(tmp_path, "b", 1.5), task(tmp_path, "b-judged", 0, "b")],
        [task(tmp_path, "a", 0)],  # stands twice
    ]
    mine = os.sched_getaffinity(0)
    run_all(chains, environment, 2, tmp_path / "logs")
    assert os.sched_getaffinity(0) == mine, "only the threads of the jobs were moved"
    began = {one.name: one.read_text().split() for one in tmp_path.glob("*.began")}
    assert len(began) == 4 and abs(float(began["a.began"][0]) - float(began["b.began"][0])) < 1.4
    assert {int(cores) for _, cores in began.values()} == {len(one) for one in shares(2)}
    assert (tmp_path / "logs" / "a-judged.log").read_text() == "said by a-judged\n"
    before = time.time()
    run_all(chains, environment, 2, tmp_path / "logs")
    assert float(began["a.began"][0]) < before, "nothing is left to do"
    assert len(list(tmp_path.glob("*.began"))) == 4


def test_a_failure_begins_no_further_one(tmp_path: Path, environment: dict[str, str]) -> None:
    chains = [[task(tmp_path, name, 2.0 * (name == "long"))] for name in ("bad", "long", "c", "d")]
    with pytest.raises(StudyError, match=r"(?s)bad ended with status 3: .*logs.*bad.log.*stays"):
        run_all(chains, environment, 2, tmp_path / "logs")
    assert (tmp_path / "long").exists(), "what ran was let go on to its end"
    begun = {one.stem for one in tmp_path.glob("*.began")}
    assert begun == {"bad", "long"} and not (tmp_path / "bad").exists()


def test_shares_hold_every_core() -> None:
    assert set.union(*shares(2)) == set.union(*shares(1)) and len(shares(3)) == 3
    assert all(shares(500)) or sys.platform != "linux", "fewer cores than jobs are shared"

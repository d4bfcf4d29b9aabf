"""Commands of a study at once: chains stay in order, cores are shared out, a failure ends it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.study_numbers import StudyError
from train.tasks import Task, alone, run_all, shares

MODULE = """
import os, pathlib, sys, time
name, folder, seconds, *needs = sys.argv[1:]
folder = pathlib.Path(folder)
assert os.path.samestat(os.fstat(int(os.environ["LOCK"])), os.stat(folder / "lock"))
assert all((folder / one).exists() for one in needs), f"before {needs}"
(folder / f"{name}.began").write_text(f"{time.time()} {len(os.sched_getaffinity(0))}")
meets = {"a": "b", "b": "a", "long": "bad"}.get(name)  # proof that both run at once
for _ in range(600):
    if meets is None or (folder / f"{meets}.began").exists():
        break
    time.sleep(0.1)
else:
    sys.exit(4)
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
        [task(tmp_path, "a", 0), task(tmp_path, "a-judged", 0, "a")],
        [task(tmp_path, "b", 0), task(tmp_path, "b-judged", 0, "b")],
        [task(tmp_path, "a", 0)],  # stands twice
    ]
    mine = os.sched_getaffinity(0)
    with alone(tmp_path) as lock:
        run_all(chains, environment | {"LOCK": str(lock)}, lock, 2, tmp_path / "logs")
    assert os.sched_getaffinity(0) == mine, "only the threads of the jobs were moved"
    began = {one.name: one.read_text().split() for one in tmp_path.glob("*.began")}
    assert len(began) == 4
    assert {int(cores) for _, cores in began.values()} == {len(one) for one in shares(2)}
    assert (tmp_path / "logs" / "a-judged.log").read_text() == "said by a-judged\n"
    more = [[task(tmp_path, "single", 0)]]
    with alone(tmp_path) as lock:
        run_all(more, environment | {"LOCK": str(lock)}, lock, 2, tmp_path / "logs")
    assert (tmp_path / "single.began").read_text().split()[1] == str(len(mine))
    before = time.time()
    with alone(tmp_path) as lock:
        run_all(chains, environment | {"LOCK": str(lock)}, lock, 2, tmp_path / "logs")
    assert float(began["a.began"][0]) < before, "nothing is left to do"
    assert len(list(tmp_path.glob("*.began"))) == 5


def test_a_failure_begins_no_further_one(tmp_path: Path, environment: dict[str, str]) -> None:
    chains = [[task(tmp_path, name, 2.0 * (name == "long"))] for name in ("bad", "long", "c", "d")]
    told = r"(?s)bad ended with status 3: .*logs.*bad.log.*stays"
    with alone(tmp_path) as lock, pytest.raises(StudyError, match=told):
        run_all(chains, environment | {"LOCK": str(lock)}, lock, 2, tmp_path / "logs")
    assert (tmp_path / "long").exists(), "what ran was let go on to its end"
    begun = {one.stem for one in tmp_path.glob("*.began")}
    assert begun == {"bad", "long"} and not (tmp_path / "bad").exists()


def test_a_command_that_outlives_its_study_keeps_the_folder(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    with alone(tmp_path) as lock:
        command = subprocess.Popen(sleeping, pass_fds=(lock,))
    with pytest.raises(StudyError, match="in use by another train.study, or by a command"):
        with alone(tmp_path):
            pass
    command.kill()
    command.wait()
    with alone(tmp_path) as lock:
        assert lock > 2


def test_shares_hold_every_core() -> None:
    assert set.union(*shares(2)) == set.union(*shares(1)) and len(shares(3)) == 3
    assert all(shares(500)) or sys.platform != "linux", "fewer cores than jobs are shared"

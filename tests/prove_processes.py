"""Long proofs of runs over several devices and processes, minutes each.

Run as `python -m pytest tests/prove_processes.py -rP`.
"""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
from several import Several, arguments

from train.checkpoint import Checkpoints

LAYOUTS = {"one device": (1, 1), "eight devices": (1, 8), "two processes": (2, 4)}
STEPS, LISTS = 20, 8
AHEAD = 12  # batches that may be read before they are due
KILLS = 50


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    data = tiny_run.dataset_folder(folder / "data", lists=(STEPS + AHEAD) * LISTS)  # one epoch
    return data, tiny_run.model_folder(folder / "model")


def commands(stage: str, inputs: tuple[Path, Path], workdir: Path, **changes: Any) -> list[str]:
    changes = {
        "batch__lists": LISTS,
        "schedule__steps": STEPS,
        "log__every_steps": 1,
        "evaluation__every_steps": 0,
        "checkpoint__every_steps": 1,
        "checkpoint__keep": STEPS,
        **changes,
    }
    settings = tiny_run.settings(*inputs, **changes)
    if stage == "sft":
        return arguments(workdir, settings)
    settings += ["data.max_positives=1", "batch.accumulate=1", "policy.temperature=1", "stop=false"]
    config = str(tiny_run.ROOT / "configs" / "sci_align.py:gold")
    return ["train.align", "--config", config, "--workdir", str(workdir), "--set", *settings]


def losses(workdir: Path) -> np.ndarray:
    lines = [line for line in tiny_run.series(workdir) if line["kind"] == "train"]
    return np.array([line["loss"] for line in lines])


def first_gradient(workdir: Path) -> dict[str, np.ndarray]:
    """The clipped gradient of the first update: ten times Adam's first moment after it."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(workdir, STEPS, "hit@1", reading=True) as checkpoints:
        state = checkpoints.restore_part(1, "optimizer", place)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    named = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    found = {name: 10 * leaf for name, leaf in named.items() if "mu" in name}
    assert len(found) > 20, sorted(named)[:5]
    return found


@pytest.mark.parametrize("stage", ["sft", "align"])
def test_devices_and_processes_do_not_change_a_run(
    stage: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    runs = {}
    for name, (count, devices) in LAYOUTS.items():
        workdir = tmp_path / name.replace(" ", "-")
        command = commands(stage, inputs, workdir)
        runs[name] = Several(command, count, devices, notes=workdir / "notes").finish()
    names = list(LAYOUTS)
    series = [losses(tmp_path / name.replace(" ", "-")) for name in names]
    gradients = [first_gradient(tmp_path / name.replace(" ", "-")) for name in names]
    for name, some, gradient in zip(names, series, gradients, strict=True):
        apart = np.abs(some / series[0] - 1).max()
        scale = max(np.abs(leaf).max() for leaf in gradients[0].values())
        far = max(np.abs(gradient[key] - leaf).max() for key, leaf in gradients[0].items()) / scale
        print(f"{stage}, {name}: {STEPS} losses within {apart:.1e}, first gradient {far:.1e}")
        assert len(some) == STEPS and apart < 1e-4 and far < 1e-5
    assert np.ptp(series[0]) > 0.01, "the loss does move"

    read = [set(runs["two processes"].read(n).read_text().split()) for n in (0, 1)]
    assert not read[0] & read[1], "each list is read by one process"
    assert min(map(len, read)) >= STEPS * LISTS // 2
    assert STEPS * LISTS <= len(read[0] | read[1]) <= (STEPS + AHEAD) * LISTS


def test_a_killed_process_and_a_restart_of_all(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    every = {"checkpoint__every_steps": 3}
    whole, parts = (
        commands("sft", inputs, tmp_path / name, **every) for name in ("whole", "parts")
    )
    Several(whole, 2, 2, notes=tmp_path / "whole" / "notes").finish()
    two = Several(parts, 2, 2, notes=tmp_path / "first", fatal=11)
    two.processes[1].wait()
    began = time.monotonic()
    codes = two.wait(120)
    print(f"the other process ended after {time.monotonic() - began:.0f} s with {codes[0]}")
    assert codes[0] != 0 and time.monotonic() - began < 40
    again = Several(parts, 2, 2, notes=tmp_path / "second").finish()
    assert "step 0 of" not in again.output()
    assert losses(tmp_path / "parts").tolist() == losses(tmp_path / "whole").tolist()

    one = commands("sft", inputs, tmp_path / "one", **every)  # two processes, then one alone
    first = Several(one, 2, 2, notes=tmp_path / "third", fatal=11)
    first.wait(120)
    Several(one, 1, 4, notes=tmp_path / "fourth").finish()
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "whole"), rtol=1e-4)


def test_fifty_kills_at_any_moment(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """SIGKILL while starting, or some updates later in the middle of whatever goes on then; the
    next start goes on from a committed step."""
    changes: dict[str, Any] = {"schedule__steps": 60 * KILLS, "checkpoint__every_steps": 5}
    changes |= {"checkpoint__keep": 2, "log__every_steps": 5}
    workdir, whole = tmp_path / "killed", tmp_path / "whole"
    Several(commands("sft", inputs, whole, **changes), 1, 1, notes=tmp_path / "notes").finish()
    command = commands("sft", inputs, workdir, **changes)
    rng, reached = random.Random(0), []
    for number in range(KILLS):
        before = last_step(workdir)
        run = Several(command, 1, 1, notes=tmp_path / f"{number}").processes[0]
        if number % 5 == 0:
            time.sleep(rng.uniform(0.5, 8.0))
        else:
            goal = before + rng.randint(0, 80)
            while run.poll() is None and last_step(workdir) < goal:
                time.sleep(0.02)
            time.sleep(rng.uniform(0.0, 0.5))
        assert run.poll() is None, f"it ended by itself: {(tmp_path / f'{number}/said-0.txt')}"
        run.send_signal(signal.SIGKILL)
        run.wait()
        steps = [int(path.name) for path in workdir.glob("checkpoints/[0-9]*") if complete(path)]
        reached.append(max(steps, default=0))
    assert reached == sorted(reached), f"a step that was complete is lost: {reached}"
    Several(command, 1, 1, notes=tmp_path / "last").finish()
    print(f"{KILLS} kills, complete steps after each: {reached}")
    assert len(set(reached)) > KILLS // 2
    assert tiny_run.series(workdir) == tiny_run.series(whole)


def last_step(workdir: Path) -> int:
    """Of the metrics that were written."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except json.JSONDecodeError:  # half a line
        return int(json.loads(lines[-2])["step"]) if len(lines) > 1 else 0


def complete(step: Path) -> bool:
    """Orbax renames a step's folder when it is whole."""
    return step.is_dir() and "orbax-checkpoint-tmp" not in step.name


def test_mining_gives_the_same_bytes_by_one_process_and_by_two(tmp_path: Path) -> None:
    """With the embedded models on the embedded sample; each process computes on its own device."""
    config = str(tiny_run.ROOT / "configs" / "sci_mine.py")
    settings = ["split=valid", "limit=60", "texts=8", "images=8", "shard_queries=10"]
    found = {}
    for count in (1, 2):
        folder = tmp_path / str(count)
        command = ["train.mine", "--config", config, "--workdir", str(folder), "--set", *settings]
        Several(command, count, 1, notes=tmp_path / f"notes-{count}").finish()
        found[count] = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
    assert len(found[1]) == 13 and found[1] == found[2]
    print(f"mining: {len(found[1])} files of one process and of two are the same")

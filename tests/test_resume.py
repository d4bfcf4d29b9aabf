"""A run that is killed and started again equals an unbroken one, bit for bit.

Real runs of train.sft in processes of their own, killed with SIGKILL between two steps; and the
loop alone with a toy step, for the loss that is not finite, SIGTERM and the cut of metrics.jsonl.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from train import report
from train.checkpoint import Checkpoints, Meta
from train.config import ConfigError, load
from train.loop import Item, Outcome, Schedule, resume, run
from train.report import NonFiniteError, Report, cut, describe_run

# Kills its own process when the metrics of the given step arrive: work of that step is lost.
KILLER = """
import os, signal, sys
from train import report, sft
step, original = int(sys.argv[1]), report.Report.step
def stop(self, now, *rest):
    if now == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, now, *rest)
report.Report.step = stop
sys.exit(sft.main(sys.argv[2:]))
"""


def killed(workdir: Path, overrides: list[str], step: int) -> int:
    arguments = tiny_run.command(workdir, overrides)[3:]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(step), *arguments],
        cwd=tiny_run.ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    return done.returncode


def finished(workdir: Path, overrides: list[str]) -> str:
    process = tiny_run.start(workdir, overrides)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def parameters(workdir: Path) -> dict[str, np.ndarray]:
    """The last checkpoint's whole state, by path."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(workdir, 2, "hit@1") as checkpoints:
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            checkpoints.abstract(checkpoints.resolve("last")),
        )
        state, _ = checkpoints.restore(None, abstract)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def test_a_killed_run_started_again_is_the_unbroken_run(tmp_path: Path) -> None:
    model = tiny_run.model_folder(tmp_path / "model")
    data = tiny_run.dataset_folder(tmp_path / "data")
    overrides = tiny_run.settings(data, model)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finished(unbroken, overrides)
    shutil.copytree(unbroken / "cache", broken / "cache")  # the programs, to save time
    first = random.randint(2, 12)
    second = random.randint(first, 12)
    print(f"killed at steps {first} and {second}")
    assert killed(broken, overrides, first) == -signal.SIGKILL
    assert killed(broken, overrides, second) == -signal.SIGKILL
    output = finished(broken, overrides)
    assert f"step {12} of 12" not in output  # it did have something left to do
    assert tiny_run.series(broken) == tiny_run.series(unbroken)
    assert len(tiny_run.series(broken)) == 6 + 3  # training lines and evaluations
    expected, found = parameters(unbroken), parameters(broken)
    assert expected.keys() == found.keys() and len(expected) > 50
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_the_timing_of_a_line_tells_waiting_from_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(report.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(report, "BEGAN", -30.0)  # half a minute to start
    with Report(tmp_path, 2, 4, 0, None) as kept:
        for step in range(1, 5):
            now[0] += 10.0
            kept.step(step, {"loss": 1.0}, (), waited=4.0)
        kept.flush()
    last = kept.lines[-1]["timing"]
    assert len(kept.lines) == 2 and last["goodput"] == pytest.approx((40 - 16) / 70)


# The loop alone -----------------------------------------------------------------------------------


class Numbers:
    """Item n has the batch n; its only state is the position."""

    def __init__(self, start: int, poison: int | None = None, at: Any = None) -> None:
        self.position, self.poison, self.at = start, poison, at

    def __next__(self) -> Item:
        self.position += 1
        if self.at is not None:
            self.at(self.position)
        value = float("nan") if self.position == self.poison else 1.0 / self.position
        return Item(jnp.float32(value), (f"query-{self.position}",), self.position)


@jax.jit
def toy_step(state: dict[str, jax.Array], batch: jax.Array) -> tuple[Any, dict[str, Any]]:
    loss = jnp.square(state["w"] - batch).sum()
    gradient = 2 * (state["w"] - batch)
    metrics = {
        "loss": loss,
        "grad_norm": jnp.abs(gradient).sum(),
        "share": (loss, jnp.float32(3)),
    }
    return {"w": state["w"] - 0.1 * gradient}, metrics


def toy_run(
    workdir: Path,
    steps: int = 10,
    poison: int | None = None,
    at: Any = None,
    log: int = 4,
    save: int = 3,
    evaluate: int = 5,
) -> Outcome:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    fresh = {"w": jax.device_put(jnp.ones(3), place)}
    abstract = {"w": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=place)}
    with Checkpoints(workdir, 2, "value") as checkpoints:
        start = resume(checkpoints, abstract, lambda: fresh)
        with Report(workdir, log, steps, start.step, start.pending) as report:
            return run(
                start,
                toy_step,
                Numbers(start.position, poison, at),
                Schedule(steps, evaluate, save),
                checkpoints,
                report,
                {"format": 1},
                lambda state: {"value": float(state["w"].sum())},
            )


@pytest.fixture
def workdirs(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    yield tmp_path / "one", tmp_path / "other"


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(
    workdirs: tuple[Path, Path],
) -> None:
    poisoned, clean = workdirs
    with pytest.raises(NonFiniteError, match=r"step 8: loss = nan.*query-8") as raised:
        toy_run(poisoned, poison=8)
    assert "query-7" not in str(raised.value)
    with Checkpoints(poisoned, 2, "value") as checkpoints:
        assert checkpoints.latest == 6  # saved every 3 steps: 3, 5 (evaluated), 6
        assert checkpoints.meta(6).position == 6
    toy_run(clean)
    toy_run(poisoned)  # with good data the run goes on as if nothing had happened
    assert tiny_run.series(poisoned) == tiny_run.series(clean)


@pytest.mark.parametrize("poison", [6, 10])
def test_a_bad_step_at_which_a_save_is_due_is_not_saved(
    workdirs: tuple[Path, Path], poison: int
) -> None:
    workdir, _ = workdirs
    with pytest.raises(NonFiniteError, match=f"step {poison}:"):
        toy_run(workdir, poison=poison)
    with Checkpoints(workdir, 2, "value") as checkpoints:
        assert checkpoints.latest == {6: 5, 10: 9}[poison]
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = {"w": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=place)}
        state, _ = checkpoints.restore(None, abstract)
    assert np.isfinite(np.asarray(state["w"])).all()


def test_sigterm_saves_and_ends_and_the_next_run_completes_the_series(
    workdirs: tuple[Path, Path],
) -> None:
    stopped, clean = workdirs

    def terminate(position: int) -> None:
        if position == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    outcome = toy_run(stopped, at=terminate)
    assert (outcome.step, outcome.finished) == (7, False)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the handler is gone again
    with Checkpoints(stopped, 2, "value") as checkpoints:
        assert checkpoints.latest == 7  # in the middle of a metrics window of 4 steps
    outcome = toy_run(stopped)
    assert (outcome.step, outcome.finished) == (10, True)
    toy_run(clean)
    assert tiny_run.series(stopped) == tiny_run.series(clean)


def test_the_metrics_window_survives_a_stop_at_any_step(workdirs: tuple[Path, Path]) -> None:
    broken, clean = workdirs
    toy_run(clean)

    def terminate(position: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    for step in range(1, 10):
        assert toy_run(broken, at=terminate).step == step
    toy_run(broken)
    assert tiny_run.series(broken) == tiny_run.series(clean)


def test_a_line_is_the_ratio_of_the_sums_of_its_window(tmp_path: Path) -> None:
    with Report(tmp_path, 2, 2, 0, None) as report:
        report.step(1, {"loss": jnp.float32(1), "bce": (jnp.float32(6), jnp.float32(2))}, (), 0.0)
        report.step(2, {"loss": jnp.float32(3), "bce": (jnp.float32(0), jnp.float32(4))}, (), 0.0)
        report.flush()
    (line,) = tiny_run.series(tmp_path)
    assert line == {"step": 2, "kind": "train", "loss": 2.0, "bce": 1.0}


def test_cut_keeps_the_lines_up_to_the_step_and_drops_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "kind": "train"}) for step in (2, 4, 6, 8)]
    path.write_text("\n".join(lines) + '\n{"step": 9, "ki')
    cut(path, 6)
    assert path.read_text().splitlines() == lines[:3]
    cut(path, -1)
    assert path.read_text() == ""


def test_a_finished_run_does_nothing_when_it_is_started_again(tmp_path: Path) -> None:
    toy_run(tmp_path)
    before = tiny_run.series(tmp_path)
    outcome = toy_run(tmp_path)
    assert (outcome.step, outcome.finished) == (10, True)
    assert tiny_run.series(tmp_path) == before


def test_a_run_may_be_made_longer_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(tiny_run.ROOT / "configs" / "sci.py")
    describe_run(tmp_path, load(config, ["schedule.steps=12"]), resuming=False)
    longer = load(config, ["schedule.steps=20", "checkpoint.keep=9"])
    describe_run(tmp_path, longer, resuming=True)
    assert capsys.readouterr().out == "schedule.steps: 12 -> 20 from here on\n"
    assert json.loads((tmp_path / "config.json").read_text())["config"]["schedule"]["steps"] == 20
    describe_run(tmp_path, longer, resuming=True)
    assert capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match="optimizer.lr: ") as refused:
        describe_run(tmp_path, load(config, ["schedule.steps=30", "optimizer.lr=1"]), resuming=True)
    assert "schedule.steps: 20 -> 30" in str(refused.value)
    assert json.loads((tmp_path / "config.json").read_text())["config"]["schedule"]["steps"] == 20


def test_meta_is_stored_with_the_step(tmp_path: Path) -> None:
    toy_run(tmp_path)
    with Checkpoints(tmp_path, 2, "value") as checkpoints:
        found = checkpoints.meta(10)
    history = found.extra["history"]
    assert found == Meta(10, {"format": 1}, {"pending": {}, "history": history})
    assert [line["step"] for line in history] == [4, 8, 10], "the first line and the last ones"

"""What a run says about itself: metrics.jsonl, env.json, config.json, TensorBoard, progress bar.

Device metrics are fetched one step late, so that reporting never waits for the device. All of it
happens on process 0; on the others a `Report` only checks the numbers.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import tensorboardX
import tqdm

from train.config import EXTENDED, ConfigError, completed, differences, digest, to_dict

GUARDED = ("loss", "grad_norm")  # a run stops when one of these is not finite
BEGAN = time.perf_counter()  # about when the process did
KEPT = 3  # of the last lines of training, beside the first, for the rule

Line = dict[str, Any]
Rule = Callable[[Sequence[Line]], str | None]  # lines of training -> why the run must end


class NonFiniteError(FloatingPointError):
    """The loss or its gradient is not finite; the message names the step and the queries."""


class Report:
    """Collects the metrics of steps and writes a line every `every_steps` of them.

    A step's metrics are a dictionary of scalars or (sum, count) pairs; a line holds, over its
    window of steps, the ratio of the sums, or the mean of the scalars. `pending()` is the open
    window: stored with a checkpoint, it makes the series of a resumed run exactly the unbroken one.
    """

    def __init__(
        self,
        workdir: str | Path,
        every_steps: int,
        total_steps: int,
        start: int,
        pending: Mapping[str, Sequence[float]] | None,
        history: Sequence[Line] = (),
        rule: Rule | None = None,
    ) -> None:
        self.every_steps, self.total_steps = every_steps, total_steps
        self.main = jax.process_index() == 0
        self.path = Path(workdir) / "metrics.jsonl"
        self._sums = {name: list(pair) for name, pair in (pending or {}).items()}
        self._late: tuple[int, Any, Sequence[str]] | None = None
        self._window = time.perf_counter()
        self._window_steps = 0
        self._waited = 0.0
        self._useful = 0.0  # seconds that went into updates
        self.history, self.rule = list(history), rule  # the first line of training, the last ones
        self.verdict: str | None = None  # what the rule says after the last line
        self.lines: list[dict[str, Any]] = []  # of this process, for callers and tests
        if self.main:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            cut(self.path, start if start > 0 else -1)  # a new run starts with an empty file
            self._file = self.path.open("a", encoding="utf-8")
            self._board = tensorboardX.SummaryWriter(
                str(self.path.parent / "tensorboard"), purge_step=start + 1
            )
            self._bar = tqdm.tqdm(
                total=total_steps, initial=start, disable=not sys.stderr.isatty(), unit="step"
            )

    def step(self, step: int, metrics: Any, ids: Sequence[str], waited: float) -> None:
        """Hand in the (still running) metrics of `step`; those of the step before are read.

        `ids` are the queries of the batch, `waited` the seconds spent waiting for the batch.

        Raises:
            NonFiniteError: the step before was not finite.
        """
        previous, self._late = self._late, (step, metrics, ids)
        if previous is not None:
            self._read(*previous)
        self._waited += waited
        self._window_steps += 1

    def flush(self) -> None:
        """Read the last step's metrics too (waits for the device).

        Raises:
            NonFiniteError: that step was not finite.
        """
        previous, self._late = self._late, None
        if previous is not None:
            self._read(*previous)

    def pending(self) -> dict[str, list[float]]:
        """The open window as plain numbers; call `flush` first."""
        return {name: list(pair) for name, pair in self._sums.items()}

    def evaluation(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Write a line of evaluation results."""
        self._write({"step": step, "kind": split, **values})
        self._restart_clock()

    def close(self) -> None:
        """Flush files; safe to call twice."""
        if self.main and not self._file.closed:
            self._bar.close()
            self._board.close()
            self._file.close()

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, step: int, metrics: Any, ids: Sequence[str]) -> None:
        values = {name: _pair(value) for name, value in jax.device_get(metrics).items()}
        bad = [name for name in GUARDED if name in values and not math.isfinite(values[name][0])]
        if bad:
            found = ", ".join(f"{name} = {values[name][0]}" for name in bad)
            raise NonFiniteError(
                f"step {step}: {found}; the queries of this batch were: {', '.join(ids) or 'none'}."
                " The last saved checkpoint is untouched; lower optimizer.lr or look at these"
                " queries, then run the same command again to resume from it"
            )
        for name, (total, count) in values.items():
            pair = self._sums.setdefault(name, [0.0, 0.0])
            pair[0] += total
            pair[1] += count
        if self.main:
            self._bar.update(step - self._bar.n)
        if step % self.every_steps == 0 or step == self.total_steps:
            self._end_window(step)

    def _end_window(self, step: int) -> None:
        """Write the line of a window, and ask the rule."""
        means = {name: _ratio(total, count) for name, (total, count) in self._sums.items()}
        line = {"step": step, "kind": "train", **means}
        self.history = [*self.history[:1], *self.history[1:][1 - KEPT :], line]
        if self.rule is not None:
            self.verdict = self.rule(self.history)
        self._write({**line, "timing": self._timing()})
        self._sums = {}

    def _timing(self) -> dict[str, float]:
        """Rates of the window: differ from run to run, so they stand apart from the metrics.

        goodput: the share of the process's life so far that went into updates, not into starting,
        evaluating or waiting for data (an update's compilation counts as update).
        """
        seconds = max(time.perf_counter() - self._window, 1e-9)
        steps = max(self._window_steps, 1)
        self._useful += max(seconds - self._waited, 0.0)
        timing = {
            "steps_per_second": steps / seconds,
            "data_wait_fraction": min(self._waited / seconds, 1.0),
            "goodput": self._useful / (time.perf_counter() - BEGAN),
        }
        if "pairs" in self._sums:
            timing["pairs_per_second"] = self._sums["pairs"][0] / seconds
        self._restart_clock()
        return timing

    def _restart_clock(self) -> None:
        self._window, self._window_steps, self._waited = time.perf_counter(), 0, 0.0

    def _write(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        if not self.main:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in {**line, **line.get("timing", {})}.items():
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(f"{line['kind']}/{name}", value, line["step"])
        if line["kind"] == "train":
            self._bar.set_postfix(
                {k: f"{line[k]:.4g}" for k in ("loss", "grad_norm") if k in line}, refresh=False
            )


def cut(path: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl after `step`, and a half-written last one."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # the process died while writing it
        if line["step"] <= step:
            kept.append(text + "\n")
    _write_atomically(path, "".join(kept))


def describe_run(workdir: str | Path, config: Any, resuming: bool, **facts: Any) -> None:
    """Write config.json and env.json, or, when resuming, check that the configuration is the same
    but for what a resumed run may change (train/config.py).

    Raises:
        ConfigError: the folder belongs to a run with another configuration; every field is named.
    """
    folder = Path(workdir)
    stored = folder / "config.json"
    new = to_dict(config)
    if resuming and stored.exists():
        old = json.loads(stored.read_text(encoding="utf-8"))["config"]
        changed = differences(completed(type(config), old), new)
        extended = [one for one in changed if one.startswith(f"{EXTENDED}:")]
        if changed != extended:
            raise ConfigError(
                f"--workdir: {folder} holds a run with another configuration; choose another "
                "--workdir, or undo these changes:\n  " + "\n  ".join(changed)
            )
        for one in extended:
            print(f"{one} from here on")
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        body = {"hash": digest(config), "config": new}
        _write_atomically(stored, json.dumps(body, indent=2) + "\n")
        _write_atomically(
            folder / "env.json", json.dumps({**environment(), **facts}, indent=2) + "\n"
        )


def environment() -> dict[str, Any]:
    """Versions and devices, for env.json."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": found,
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "cpu_count": os.cpu_count(),
        "command": " ".join(sys.argv),
    }


def _pair(value: Any) -> tuple[float, float]:
    """(sum, count) of a metric; a scalar counts once."""
    if isinstance(value, tuple | list):
        total, count = value
        return float(np.asarray(total)), float(np.asarray(count))
    return float(np.asarray(value)), 1.0


def _ratio(total: float, count: float) -> float:
    return total / count if count else 0.0


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)

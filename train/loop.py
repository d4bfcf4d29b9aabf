"""The training loop, the same for every stage: batch, step, report, evaluate, save; read it down.

A run is a pure function of its configuration: the loop holds no randomness, and a checkpoint plus
the data position (one integer) determine everything that follows, bit for bit.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
from jax.experimental import multihost_utils

from train.checkpoint import Checkpoints, Meta
from train.report import Report


class StoppedError(RuntimeError):
    """A run that its rule has ended (train/stopping.py); its last state is saved."""


class Item(NamedTuple):
    """One update's worth of data."""

    batch: Any  # arrays on the devices, as the step function takes them
    ids: tuple[str, ...]  # the queries in it (host side), named when the loss is not finite
    position: int  # global batches consumed once this one is


class Batches(Protocol):
    """An endless, checkpointable source: its whole state is the position of the last item."""

    def __next__(self) -> Item: ...


@dataclass(frozen=True)
class Schedule:
    """When things happen, in steps; 0 = never."""

    steps: int
    evaluate_every: int
    save_every: int
    profile: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Resumed:
    """Where a run stands: from its last checkpoint, or at the beginning."""

    state: Any
    step: int
    position: int
    pending: dict[str, list[float]] | None  # the open metrics window, for Report
    history: list[dict[str, Any]]  # lines of training, for Report


@dataclass(frozen=True)
class Outcome:
    """How a run ended: after its last step, or on SIGTERM at an earlier one, saved either way."""

    state: Any
    step: int
    finished: bool


def resume(checkpoints: Checkpoints, abstract: Any, fresh: Callable[[], Any]) -> Resumed:
    """The last complete checkpoint placed as `abstract` says, or `fresh()` when there is none."""
    if checkpoints.latest is None:
        return Resumed(fresh(), 0, 0, None, [])
    state, meta = checkpoints.restore(None, abstract)
    pending, history = meta.extra.get("pending"), meta.extra.get("history", [])
    return Resumed(state, checkpoints.latest, meta.position, pending, history)


def run(
    start: Resumed,
    step_function: Callable[[Any, Any], tuple[Any, dict[str, Any]]],
    batches: Batches,
    schedule: Schedule,
    checkpoints: Checkpoints,
    report: Report,
    unirank: dict[str, Any],
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    split: str = "valid",
) -> Outcome:
    """Train from `start` to `schedule.steps`.

    Args:
        start: from `resume`.
        step_function: jitted (state, batch) -> (state, metrics); the state may be donated. Metrics
            are scalars or (sum, count) pairs; "loss" and "grad_norm" must be finite.
        batches: continues at `start.position`.
        schedule: when to evaluate and save; the end is always evaluated and saved.
        checkpoints, report: of this run's workdir.
        unirank: content of unirank.json, stored with every checkpoint.
        evaluate: state -> values; also called before the first step.
        split: the name of the evaluation's lines in metrics.jsonl.

    Raises:
        NonFiniteError: a loss or gradient norm is not finite. Nothing is saved after the last
            finite step; the message names the queries of the batch.
        StoppedError: the report's rule ends the run, with what it says; the state is saved.
    """
    state, step, position = start.state, start.step, start.position
    if evaluate is not None and step == 0:
        report.evaluation(0, split, evaluate(state))

    def save(values: dict[str, float] | None) -> None:
        extra = {"pending": report.pending(), "history": report.history}
        meta = Meta(position, unirank, extra)
        checkpoints.save(step, state, meta, values)

    with _stop_signal() as stopping:
        while step < schedule.steps:
            _profile(schedule.profile, step, report.path.parent)
            began = time.perf_counter()
            item = next(batches)
            waited = time.perf_counter() - began

            state, metrics = step_function(state, item.batch)
            step, position = step + 1, item.position
            report.step(step, metrics, item.ids, waited)  # raises when the step before was bad

            last = step == schedule.steps
            values = None
            if evaluate is not None and (last or _due(step, schedule.evaluate_every)):
                report.flush()  # raises when this step was bad
                values = evaluate(state)
                report.evaluation(step, split, values)
            stop = stopping(step)
            ended = report.verdict  # of metrics, which are the same on all processes
            if last or stop or ended or values is not None or _due(step, schedule.save_every):
                report.flush()
                save(values)
            if ended:
                checkpoints.wait()
                raise StoppedError(f"stopped at step {step}: {ended}")
            if stop and not last:
                checkpoints.wait()
                return Outcome(state, step, finished=False)
    checkpoints.wait()
    return Outcome(state, step, finished=True)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _profile(window: tuple[int, int], step: int, workdir: Path) -> None:
    first, last = window
    if first < last and step == first:
        jax.profiler.start_trace(str(workdir / "profile"))
    elif first < last and step == last:
        jax.profiler.stop_trace()


@contextmanager
def _stop_signal() -> Iterator[Callable[[int], bool]]:
    """Gives `stopping(step)`: whether SIGTERM has asked for the end, agreed by all processes."""
    asked = []
    if jax.process_count() > 1:  # JAX's own service listens, and makes the processes agree
        yield multihost_utils.reached_preemption_sync_point
        return
    try:
        previous = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    except ValueError:  # not the main thread, where no signal arrives
        yield lambda step: False
        return
    try:
        yield lambda step: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, previous)

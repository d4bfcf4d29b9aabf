"""Checkpoints of a run: the only file that knows Orbax.

`workdir/checkpoints/{N, best}`: step folders, each {state, meta}, complete or absent, and a small
JSON file `best` that names the best kept step. What never changes is stored once, as `constant`.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

FILES = ("position", "unirank", "extra")


class CheckpointError(RuntimeError):
    """A checkpoint that is absent or does not fit; the message says what to do."""


@dataclass(frozen=True)
class Meta:
    """The small part of a checkpoint, stored as JSON files in `N/meta`."""

    position: int  # global batches consumed
    unirank: dict[str, Any]  # what every exported folder carries as unirank.json
    extra: dict[str, Any]  # whatever the caller needs to go on, e.g. the open metrics window


@dataclass(frozen=True)
class _Keep:
    """Preservation policy: the last `count` steps and the best one."""

    count: int
    metric: str

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        best = _best([(info.step, info.metrics) for info in checkpoints], self.metric)
        last = {info.step for info in checkpoints[-self.count :]}
        return [info.step in last or info.step == best for info in checkpoints]


class _JsonFiles:
    """The meta part as an Orbax checkpointable: plain JSON files that people can read."""

    def __init__(self, meta: Meta) -> None:
        self.texts = {name: json.dumps(getattr(meta, name), indent=2) for name in FILES}

    async def save(self, directory: Any) -> Awaitable[None]:
        async def write() -> None:
            folder = await directory.await_creation()
            if jax.process_index() == 0:
                for name, text in self.texts.items():
                    await asyncio.to_thread((folder / f"{name}.json").write_text, text)

        return write()

    async def load(self, directory: Any) -> Awaitable[None]:
        raise NotImplementedError("meta files are read directly")


class Checkpoints:
    """The checkpoints of one run. Saving is asynchronous; a half-written step is never seen.

    reading: nothing in the folder is changed, as it must be while a run writes there. Otherwise
        what a killed run left half written is removed.
    """

    def __init__(
        self, workdir: str | Path, keep: int, metric: str, *, reading: bool = False
    ) -> None:
        if keep < 1:
            raise CheckpointError(f"checkpoint.keep is {keep}; keep at least one step")
        self.folder = Path(workdir).absolute() / "checkpoints"
        self.metric, self.reading = metric, reading
        if not reading and jax.process_index() == 0:
            # Not Orbax's own cleaning: it goes on in the background, into what is written next.
            for left in self.folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(left)
        self._orbax = ocp.training.Checkpointer(
            self.folder,
            # When to save is the loop's decision; Orbax is asked only when it is time.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=_Keep(keep, metric),
        )
        self._pending: Any = None

    @property
    def steps(self) -> list[int]:
        """Complete steps, ascending."""
        return [info.step for info in self._orbax.checkpoints]

    @property
    def latest(self) -> int | None:
        """The last complete step, None before the first."""
        return self.steps[-1] if self.steps else None

    @property
    def best(self) -> int | None:
        """The step with the highest value of `metric`, the earliest of equals; None without one."""
        return _best([(info.step, info.metrics) for info in self._orbax.checkpoints], self.metric)

    def save(
        self, step: int, state: Any, meta: Meta, metrics: dict[str, float] | None = None
    ) -> None:
        """Start saving; the arrays may be donated once this returns. A step is saved only once."""
        if step in self.steps:
            return
        finite = {k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)}
        self.wait()  # the previous save
        self._pending = self._orbax.save_checkpointables_async(
            step,
            {"state": state, "meta": _JsonFiles(meta)},
            force=True,
            metrics=finite or None,
        )

    def save_constant(self, tree: Any) -> None:
        """Store, once per run, arrays that training does not change (frozen parameters)."""
        if not (self.folder / "constant").exists():
            ocp.save(self.folder / "constant", tree)

    def restore(self, step: int | None, abstract: Any) -> tuple[Any, Meta]:
        """State and meta of a step (None = the latest), placed as `abstract` says.

        `abstract` is a tree of jax.ShapeDtypeStruct with shardings.

        Raises:
            CheckpointError: no such step, or its arrays have other names, shapes or dtypes.
        """
        step = self.resolve("last" if step is None else step)
        found = _shapes(self._metadata(step))
        _compare(found, _shapes(abstract), f"{self.folder}/{step}")
        state = self._orbax.load_checkpointables(step, {"state": abstract})["state"]
        return state, self.meta(step)

    def restore_part(self, step: int, name: str, place: Any) -> Any:
        """One top-level entry of a step's state, without reading the others; `place`: a sharding.

        Raises:
            CheckpointError: the state has no such entry.
        """
        whole = self._metadata(step)
        if name not in whole:
            raise CheckpointError(f"{self.folder}/{step} has no {name!r}, only {list(whole)}")
        wanted = {key: jax.tree.map(lambda _: ocp.PLACEHOLDER, part) for key, part in whole.items()}
        wanted[name] = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), whole[name]
        )
        return self._orbax.load_checkpointables(step, {"state": wanted})["state"][name]

    def restore_constant(self, abstract: Any) -> Any:
        """The arrays of `save_constant`.

        Raises:
            CheckpointError: they were never stored or do not fit.
        """
        path = self.folder / "constant"
        if not path.exists():
            raise CheckpointError(f"{path} is missing: the folder was not written by this program")
        return ocp.load(path, abstract)

    def resolve(self, name: str | int) -> int:
        """`"last"`, `"best"` or a number, as a step that exists.

        Raises:
            CheckpointError: it does not exist; the message lists those that do.
        """
        wanted = {"last": self.latest, "best": self.best}.get(str(name), name)
        try:
            step = None if wanted is None else int(wanted)
        except ValueError:
            raise CheckpointError(f"--step {name!r}: write last, best or a number") from None
        if step is None or step not in self.steps:
            there = ", ".join(map(str, self.steps)) or "none"
            raise CheckpointError(
                f"{self.folder}: no checkpoint {name!r}; complete steps: {there}. "
                "Train first, or choose one of these"
            )
        return step

    def meta(self, step: int) -> Meta:
        """The JSON part of a step."""
        folder = self.folder / str(step) / "meta"
        return Meta(**{name: json.loads((folder / f"{name}.json").read_text()) for name in FILES})

    def problems(self, step: int) -> list[str]:
        """What is wrong with a complete step: every array is read, every number must be finite."""
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        try:
            self.meta(step)
            found = []
            for name in self._metadata(step):
                part = self.restore_part(step, name, place)
                found += [
                    f"{name}/{'/'.join(map(_name, path))} holds numbers that are not finite"
                    for path, leaf in jax.tree_util.tree_flatten_with_path(part)[0]
                    if jnp.issubdtype(leaf.dtype, jnp.inexact) and not jnp.isfinite(leaf).all()
                ]
            return found
        except Exception as error:  # whatever the store or the file system says
            return [f"cannot be read: {' '.join(str(error).split())[:300]}"]

    def abstract(self, step: int) -> Any:
        """Names, shapes and dtypes of a step's state as a nested dictionary."""
        return self._metadata(step)

    def wait(self) -> None:
        """Until everything is on disk; then `best` is refreshed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
        if self.best is not None and jax.process_index() == 0 and not self.reading:
            text = json.dumps({"step": self.best, "metric": self.metric})
            temporary = self.folder / "best.tmp"
            temporary.write_text(text + "\n")
            temporary.replace(self.folder / "best")

    def close(self) -> None:
        """Wait and release threads."""
        self.wait()
        self._orbax.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _metadata(self, step: int) -> Any:
        return ocp.metadata(self.folder / str(step), checkpointable_name="state").metadata


def _best(values: Sequence[tuple[int, dict[str, Any] | None]], metric: str) -> int | None:
    scored = [(m[metric], -step) for step, m in values if m and metric in m]
    return -max(scored)[1] if scored else None


def _shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        "/".join(_name(key) for key in path): (tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _compare(found: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    problems = [f"{name}: not in the checkpoint" for name in wanted.keys() - found.keys()]
    problems += [f"{name}: not in this model" for name in found.keys() - wanted.keys()]
    problems += [
        f"{name}: stored {found[name]}, wanted {wanted[name]}"
        for name in wanted.keys() & found.keys()
        if found[name] != wanted[name]
    ]
    if problems:
        shown = sorted(problems)[:20]
        rest = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError(
            f"{where} does not fit this configuration; use the --config it was made with, or "
            "another --workdir:\n  " + "\n  ".join(shown) + rest
        )

"""Commands of a study, run one after the other or several at once, each on its own CPU cores."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from train.study_numbers import StudyError


@dataclass(frozen=True)
class Task:
    """A command, and the file that says it is done."""

    name: str
    argv: tuple[str, ...]  # of `python -m`
    done: Path


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Holds a lock on a folder. Its file descriptor is for `run_all`: the commands hold it, too.

    So a study that was killed cannot be begun again beside a command of its own that lives on.

    Raises:
        StudyError: somebody else holds it.
    """
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"--workdir: {folder} is in use by another train.study, or by a command that one "
                "began before it was killed; wait until it has ended, or end it"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
                raise
            print(f"{folder} cannot be locked ({error.strerror}): run one study there at a time")
        yield file.fileno()


def run_all(
    chains: Sequence[Sequence[Task]],
    environment: Mapping[str, str],
    lock: int,
    jobs: int = 1,
    logs: Path | None = None,
) -> None:
    """Run what is not done yet; with several jobs, what a command prints goes to a file of `logs`.

    A tiny model leaves part of two cores idle, so that on a CPU two commands at once, on a core
    each, take less time than one after the other. On macOS cores cannot be assigned.

    chains: of tasks that need the one before them. lock: of `alone`.

    Raises:
        StudyError: a command failed; no further one was begun.
    """
    open_ones = _open(chains)
    workers = max(1, min(jobs, len(open_ones)))  # a single one has all cores
    count = sum(map(len, open_ones))
    waiting, numbers = iter(open_ones), iter(range(1, count + 1))
    mutex, stop = threading.Lock(), threading.Event()

    def work(cores: set[int]) -> None:
        if workers > 1 and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)  # of this thread; its commands inherit it
        try:
            while chain := _next(waiting, mutex):
                for task in chain:
                    if stop.is_set():
                        return
                    with mutex:
                        print(f"[{next(numbers)}/{count}] {task.name}", flush=True)
                    _run(task, environment, lock, logs if jobs > 1 else None)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(work, cores) for cores in shares(workers)]:
            future.result()


def _open(chains: Sequence[Sequence[Task]]) -> list[list[Task]]:
    """What is not done; a task that stands twice is done the first time."""
    seen: set[Path] = set()
    found: list[list[Task]] = []
    for chain in chains:
        fresh = [task for task in chain if task.done not in seen and not task.done.exists()]
        seen |= {task.done for task in fresh}
        found += [fresh] if fresh else []
    return found


def _next(waiting: Iterator[list[Task]], mutex: threading.Lock) -> list[Task]:
    with mutex:
        return next(waiting, [])


def shares(jobs: int) -> list[set[int]]:
    """The cores of this process, dealt out to the jobs; fewer cores than jobs are shared."""
    if not hasattr(os, "sched_getaffinity"):
        return [set() for _ in range(jobs)]
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[n::jobs]) or set(cores) for n in range(jobs)]


def _run(task: Task, environment: Mapping[str, str], lock: int, logs: Path | None) -> None:
    began = time.time()
    run = partial(
        subprocess.run,
        [sys.executable, "-m", *task.argv],
        env=dict(environment),
        pass_fds=(lock,),
    )
    if logs is None:
        status, told = run().returncode, ""
    else:
        logs.mkdir(parents=True, exist_ok=True)
        path = logs / f"{task.name.replace('/', '-').replace(' ', '-')}.log"
        with open(path, "ab") as file:
            status, told = run(stdout=file, stderr=file).returncode, f"; what it said: {path}"
    if status:
        raise StudyError(
            f"{task.name} ended with status {status}: python -m {' '.join(task.argv)}{told}\n"
            "mend the cause, then run the same study again; what is done stays"
        )
    task.done.parent.mkdir(parents=True, exist_ok=True)
    task.done.touch()
    print(f"    {task.name}: {time.time() - began:.0f} s", flush=True)

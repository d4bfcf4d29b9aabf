"""Several processes as one run: start-up on pods, Slurm, Open MPI and by hand, agreement on what
is run, and an end with a word when one of them is lost.

Every process runs the same command. A launcher that JAX knows says how many there are; by hand, set
JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
LOST_AFTER = 60  # seconds without a sign of life after which a process counts as lost
WAIT = "UNIRANK_LOST_AFTER"  # the variable that says otherwise
LOST = 75  # exit code where a collective fails before that: try again


Part = TypeVar("Part")


class ProcessesError(ValueError):
    """Processes that cannot run together; the message says what to set."""


def join() -> None:
    """Join the other processes, where a launcher or the environment says that there are some.

    Call it before anything touches a device. Prints a line per process. From here on JAX ends
    this process (abort, which process is lost on stderr) when another one gives no sign of life.

    Raises:
        ProcessesError: the environment names some of the three variables, or no numbers.
    """
    found = launched(os.environ, tpu=_tpu_here())
    if found is None:
        return
    seconds = int(os.environ.get(WAIT, LOST_AFTER))
    jax.distributed.initialize(
        **found, heartbeat_timeout_seconds=seconds, shutdown_timeout_seconds=seconds
    )
    here = ", ".join(f"{d.device_kind} {d.id}" for d in jax.local_devices())
    print(
        f"process {jax.process_index()} of {jax.process_count()} on {platform.node()}: {here}",
        flush=True,
    )
    if jax.process_index() == 0:
        print(
            f"when a process gives no sign of life for {seconds} s ({WAIT}), the others end too; "
            "the same command on all hosts again goes on from the last checkpoint",
            flush=True,
        )


def launched(environment: Mapping[str, str], tpu: bool) -> dict[str, Any] | None:
    """Arguments of jax.distributed.initialize: {} where JAX finds them itself; None: one process.

    Raises:
        ProcessesError: see `join`.
    """
    given = {name: environment[name] for name in BY_HAND if environment.get(name)}
    if given:
        missing = [name for name in BY_HAND if name not in given]
        if missing:
            raise ProcessesError(
                f"{', '.join(given)}: set {' and '.join(missing)} too, on every process "
                "(host:port of process 0, how many there are, which one this is)"
            )
        try:
            count, index = (int(given[name]) for name in BY_HAND[1:])
        except ValueError:
            count = index = -1
        if not 0 <= index < count:
            raise ProcessesError(
                f"JAX_NUM_PROCESSES={given[BY_HAND[1]]}, JAX_PROCESS_ID={given[BY_HAND[2]]}: give "
                "numbers, ids from 0 to one less than there are processes"
            )
        return {
            "coordinator_address": given[BY_HAND[0]],
            "num_processes": count,
            "process_id": index,
        }
    slurm = "SLURM_PROCID" in environment and int(environment.get("SLURM_NTASKS", 1)) > 1
    mpi = int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
    if mpi and "OMPI_MCA_orte_hnp_uri" not in environment:
        raise ProcessesError(
            "OMPI_COMM_WORLD_SIZE: this Open MPI does not tell where process 0 is; set "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID "
            "(=$OMPI_COMM_WORLD_RANK)"
        )
    return {} if slurm or mpi or tpu else None


def agree(facts: Mapping[str, str]) -> None:
    """Whether all processes were given the same.

    facts: name -> what this process has, such as a digest of its configuration.

    Raises:
        ProcessesError: names what differs and the processes that differ from process 0.
    """
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(value.encode()).digest() for value in facts.values()]
    mine = np.frombuffer(b"".join(digests), np.uint8).reshape(len(facts), -1)
    everyone = multihost_utils.process_allgather(mine)  # (processes, facts, 32)
    differing = (everyone != everyone[:1]).any(axis=2)
    problems = [
        f"{name}: processes {', '.join(map(str, np.flatnonzero(column)))} have another than "
        "process 0"
        for name, column in zip(facts, differing.T, strict=True)
        if column.any()
    ]
    if problems:
        raise ProcessesError(
            "\n".join(problems) + "\nstart every process with the same command, code and data"
        )


@dataclass(frozen=True)
class Share:
    """Which of several processes this one is, where each does a part of the work."""

    index: int = 0
    count: int = 1

    def of(self, parts: Sequence[Part]) -> Sequence[Part]:
        """This process's: every count-th."""
        return parts[self.index :: self.count]


def share() -> Share:
    """This process's."""
    return Share(jax.process_index(), jax.process_count())


def meet(name: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def same(value: bool) -> bool:
    """What process 0 says: for what is read from a disk that another process may be writing to."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def failed(command: str, error: Exception, workdir: Path) -> int:
    """Say why a command ends; returns its exit code. One process of several is ended here and now,
    so that it does not wait for the others, who end in turn.

    Raises:
        jax.errors.JaxRuntimeError: the error itself, in a run of one process.
    """
    lost = isinstance(error, jax.errors.JaxRuntimeError)
    if lost and jax.process_count() == 1:
        raise error
    message = str(error)
    if lost:
        message = (
            f"process {jax.process_index()} ends because another one is lost or has failed; see "
            f"the output of the others ({' '.join(message.split())[:200]}). What was saved is in "
            f"{workdir}; run the same command on all hosts again to go on from there"
        )
    print(f"{command}: {message}", file=sys.stderr, flush=True)
    code = LOST if lost else 1
    if jax.process_count() > 1:
        sys.stdout.flush()
        os._exit(code)
    return code


def _tpu_here() -> bool:
    """Whether this host has TPU chips and their library, and the platform is not another one."""
    wanted = os.environ.get("JAX_PLATFORMS", "tpu")
    if "tpu" not in wanted or importlib.util.find_spec("libtpu") is None:
        return False
    return any(any(Path("/dev").glob(name)) for name in ("accel[0-9]*", "vfio/[0-9]*"))

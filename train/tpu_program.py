"""Compilation for a TPU that is not there, as much of it as is asked for.

The compiler writes the optimised text and what the program takes of memory to a folder before it
makes machine code. That takes nineteen twentieths of the time and changes nothing that an estimate
reads: `optimised` compiles in a process of its own and ends it once the text is there.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
from jax.experimental import topologies

TEXT, REPORT = "*after_optimizations.txt", "*memory-usage-report.txt"  # in the order of writing
POLL = 0.2  # seconds


class EstimateError(ValueError):
    """An estimate that cannot be made, or that cannot be right."""


def devices(topology: str) -> Sequence[jax.Device]:
    """Devices of a topology, which exist for the compiler only.

    This process computes on its CPU, even where the TPU compiler is installed without a TPU.

    Raises:
        EstimateError: no TPU compiler, or no such topology.
    """
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no process takes a chip
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # the compiler raises what it likes
        raise EstimateError(
            f"{topology}: {error}; the TPU compiler comes with libtpu (pip install "
            "'unirank_jax[tpu]'), topologies are like v5e:4x4"
        ) from error
    return found.devices


def compiled(lowered: Any) -> tuple[str, int]:
    """The optimised text of a program that is compiled to its end, and the bytes of a chip's main
    memory that it takes with its arguments; of one that is too large for the chip, too.

    They stand in the compiler's report: `memory_analysis` of a TPU program with loops tells of more
    temporaries than are allocated.

    Raises:
        EstimateError: the compiler writes no such report.
    """
    with TemporaryDirectory() as folder:
        try:
            lowered.compile(compiler_options=_written_to(folder))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or not _read(folder, REPORT):
                raise
        return _found(folder)


def main_memory(report: str) -> int:
    """The total of the chip's main memory in a compiler's memory-usage report; 0 while it is not
    there."""
    found = re.search(r"Memory Space: default \(color=0\)\s+Total bytes: (\d+) \(", report)
    return int(found.group(1)) if found else 0


def optimised(lower: Callable[..., Any], *arguments: Any) -> tuple[str, int]:
    """What `compiled` gives, without machine code.

    lower: a function of a module that gives the lowered program. It is called in another process,
    so that it and its arguments are pickled.

    Raises:
        EstimateError: that process ended without it; what it printed says why.
    """
    with TemporaryDirectory() as folder:
        target = (folder, lower, arguments)
        process = multiprocessing.get_context("spawn").Process(target=_compile, args=target)
        process.daemon = True  # ends with this one
        process.start()
        try:
            while not _totals(folder):  # of a report that may be half written
                ended = process.exitcode is not None
                if ended and not _totals(folder):
                    raise EstimateError(
                        f"the compiler's process ended with status {process.exitcode} before the "
                        "program was optimised; it says why above"
                    )
                process.join(POLL)
        finally:
            process.kill()
            process.join()
        return _found(folder)


def _compile(folder: str, lower: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    lower(*arguments).compile(compiler_options=_written_to(folder))


def _written_to(folder: str) -> dict[str, Any]:
    return {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}


def _found(folder: str) -> tuple[str, int]:
    texts, totals = _read(folder, TEXT), _totals(folder)
    if len(texts) != 1 or not totals:
        raise EstimateError("the compiler wrote no report of the memory; take another libtpu")
    return texts[0], max(totals)


def _totals(folder: str) -> list[int]:
    return [found for report in _read(folder, REPORT) if (found := main_memory(report))]


def _read(folder: str, pattern: str) -> list[str]:
    return [path.read_text() for path in Path(folder).glob(pattern)]

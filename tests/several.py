"""Runs of the training program by several processes on this machine, for tests and proofs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import tiny_run

# Notes, per process, which lists it encodes for training (what the logits of stage 1 take is not
# counted), and kills its own process before a step's metrics.
RECORDER = """
import json, os, signal, sys
from train import data, report
command, path, fatal = sys.argv[1:4]
encode, start, step = data.Encoder._encode, report.Report.__init__, report.Report.step
def noted(self, chosen):
    with open(path, "a") as file:
        file.write(str(self.index.queries[chosen.number]) + "\\n")
    return encode(self, chosen)
def started(self, *rest):
    open(path, "w").close()
    start(self, *rest)
def stopped(self, now, *rest):
    if now == int(fatal):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, now, *rest)
data.Encoder._encode, report.Report.__init__, report.Report.step = noted, started, stopped
sys.argv = [command, *sys.argv[4:]]
module = __import__("train." + command, fromlist=["main"])
sys.exit(module.main(sys.argv[1:]))
"""


class Several:
    """`count` processes of `devices` CPU devices each that run one command."""

    def __init__(
        self,
        command: list[str],
        count: int,
        devices: int,
        *,
        notes: Path,
        fatal: int = 0,
        lost_after: int = 10,
        changed: list[str] | None = None,
    ) -> None:
        """command: the arguments of `python -m` on, module first. notes: folder for what each
        process encoded and said. fatal: the step at which the last process kills itself, 0 =
        never. changed: the command of the last process, where it is another one."""
        notes.mkdir(parents=True, exist_ok=True)
        self.notes, port = notes, _free_port()
        self.processes = []
        for n in range(count):
            last = n == count - 1
            module, *arguments = changed if changed and last else command
            environment = {
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": str(devices),
                "UNIRANK_LOST_AFTER": str(lost_after),
            }
            if count > 1:
                environment |= {
                    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                    "JAX_NUM_PROCESSES": str(count),
                    "JAX_PROCESS_ID": str(n),
                }
            spied = [module.removeprefix("train."), str(self.read(n)), str(fatal * last)]
            with self.said(n).open("w") as out:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-c", RECORDER, *spied, *arguments],
                        cwd=tiny_run.ROOT,
                        env=environment,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                    )
                )

    def read(self, process: int) -> Path:
        """The file with the queries that a process encoded, one per line."""
        return self.notes / f"read-{process}.txt"

    def said(self, process: int) -> Path:
        """The file with a process's output."""
        return self.notes / f"said-{process}.txt"

    def output(self) -> str:
        """What all said."""
        return "\n".join(self.said(n).read_text() for n in range(len(self.processes)))

    def wait(self, seconds: float = 600) -> list[int]:
        """The exit codes, once all have ended.

        Raises:
            TimeoutError: some have not; they are killed.
        """
        end = time.monotonic() + seconds
        for process in self.processes:
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                for other in self.processes:
                    other.kill()
                raise TimeoutError(f"after {seconds} s:\n{self.output()}") from None
        return [process.returncode for process in self.processes]

    def finish(self) -> Several:
        """Wait; every process must have ended well."""
        codes = self.wait()
        assert codes == [0] * len(codes), f"{codes}\n{self.output()}"
        return self


def arguments(workdir: Path, overrides: list[str]) -> list[str]:
    """A run of train.sft as `Several` takes it."""
    return tiny_run.command(workdir, overrides)[2:]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

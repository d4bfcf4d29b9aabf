"""Several processes as one run: how they find each other, agree, share the data and end."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from several import Several, arguments

from train.processes import LOST, ProcessesError, launched

ADDRESS = {"JAX_COORDINATOR_ADDRESS": "host:1234"}
HAND = {**ADDRESS, "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
SLURM = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}
MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}


def test_how_processes_find_each_other() -> None:
    assert launched({}, tpu=False) is None
    assert launched({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, tpu=False) is None
    for environment, tpu in ((SLURM, False), (MPI, False), ({}, True)):
        assert launched(environment, tpu=tpu) == {}
    by_hand = {"coordinator_address": "host:1234", "num_processes": 4, "process_id": 3}
    assert launched({**SLURM, **HAND}, tpu=True) == by_hand


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (ADDRESS, "JAX_COORDINATOR_ADDRESS: set JAX_NUM_PROCESSES and JAX_PROCESS_ID too"),
        ({"JAX_PROCESS_ID": "1"}, "JAX_PROCESS_ID: set JAX_COORDINATOR_ADDRESS and JAX_NUM_PROC"),
        ({**HAND, "JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4: give numbers, ids from 0 to one less"),
        ({**HAND, "JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two, JAX_PROCESS_ID=3: give num"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "does not tell where process 0 is; set JAX_COORDINATOR"),
    ],
)
def test_an_environment_that_says_too_little(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ProcessesError, match=message):
        launched(environment, tpu=False)


def test_a_lost_process_ends_the_other_and_one_alone_goes_on(tmp_path: Path) -> None:
    """Two processes, one killed; resumed by one process; against an unbroken run of that one."""
    model = tiny_run.model_folder(tmp_path / "model")
    data = tiny_run.dataset_folder(tmp_path / "data")
    changes: dict[str, object] = {"batch__lists": 4, "schedule__steps": 8}
    overrides = tiny_run.settings(data, model, evaluation__every_steps=0, **changes)
    unbroken, broken = (arguments(tmp_path / name, overrides) for name in ("unbroken", "broken"))

    two = Several(broken, 2, 1, notes=tmp_path / "two", fatal=7)
    two.processes[1].wait()
    began = time.monotonic()
    codes = two.wait(90)
    said = two.said(0).read_text()
    assert codes[0] != 0 and time.monotonic() - began < 40, said
    assert codes[0] != LOST or "ends because another one is lost" in said, said
    assert codes[0] == LOST or "unhealthy (stopped sending heartbeats):\n1\n" in said, said
    assert "no sign of life for 10 s" in said and "same command on all hosts again" in said, said
    assert "process 0 of 2 on " in said and "process 1 of 2 on " in two.output()
    read = [set(two.read(n).read_text().split()) for n in (0, 1)]
    assert read[0] and read[1]  # each encodes its own part of a batch; an epoch holds every list

    one = Several(broken, 1, 2, notes=tmp_path / "one").finish()
    assert re.search("step [36] of 8", one.said(0).read_text())  # what the two had saved
    Several(unbroken, 1, 2, notes=tmp_path / "whole").finish()
    losses = [
        np.array([line["loss"] for line in tiny_run.series(tmp_path / name)])
        for name in ("unbroken", "broken")
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert len(losses[0]) == 4


def test_processes_that_were_given_different_commands_say_so(tmp_path: Path) -> None:
    model = tiny_run.model_folder(tmp_path / "model")
    data = tiny_run.dataset_folder(tmp_path / "data")
    ours, theirs = (
        arguments(tmp_path / "run", tiny_run.settings(data, model, seed=seed)) for seed in (0, 1)
    )
    several = Several(ours, 2, 1, notes=tmp_path / "notes", changed=theirs)
    assert several.wait() == [1, 1]
    assert "configuration: processes 1 have another than process 0" in several.said(0).read_text()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_no_command_computes_before_the_processes_join() -> None:
    """JAX refuses to join where anything, such as the import of a library, has used a device."""
    code = """
import socket
import jax
import train.align, train.bulk, train.mine, train.sft
with socket.socket() as one:
    one.bind(("127.0.0.1", 0))
    port = one.getsockname()[1]
jax.distributed.initialize(f"127.0.0.1:{port}", 1, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tiny_run.ROOT
    )
    assert done.returncode == 0, done.stderr

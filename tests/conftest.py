"""Test set-up: CPU only, no network, 8 virtual devices.

The device count is set through jax.config, not the environment, so commands that a test starts
see one device, as a user's do. Tests that need a mesh ask for the `eight_devices` fixture; arrays
of all other tests stay on the first device. Compiled programs are kept for one run of the tests, so
that equal ones are compiled once.
"""

from __future__ import annotations

import os
import shutil
import tempfile

os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="unirank-tests-programs-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # "cuda" for prove_gpu_attention.py
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jax
import pytest

from benchmarks import torchvision_ops

torchvision_ops.declare()  # before anything imports transformers
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def eight_devices() -> list[jax.Device]:
    """The 8 virtual CPU devices."""
    devices = jax.devices()
    assert len(devices) == 8, devices
    return devices


def pytest_sessionfinish() -> None:
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

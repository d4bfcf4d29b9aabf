"""The classifier of modality: its gradient is turned round, and it stays out of exports."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from train import adversary, sft
from train.checkpoint import Checkpoints
from train.contenders import exported
from train.data import Micro, empty_targets
from train.signals import Signals
from unirank_jax.content import MODALITIES
from unirank_jax.loading import load


def test_the_gradient_is_turned_round() -> None:
    """Two lists of two; the last candidate is padding and a judged one is unjudged (-1)."""
    random = np.random.default_rng(0)
    states = jnp.asarray(random.normal(size=(1, 4, 5)), jnp.float32)
    targets = empty_targets(2, 2)
    targets.label_row[0] = [[2, 0], [3, 0]]
    targets.mask[0] = [[True, True], [True, False]]
    targets.grade[0] = [[1, 0], [0, 0]]
    nothing = np.zeros((1, 2, 2), np.float32)
    modality = np.array([[[0, 1], [2, 0]]], np.int32)
    micro = Micro(None, targets, Signals(nothing, nothing, nothing, modality))  # type: ignore[arg-type]
    params = {
        adversary.KERNEL: jnp.asarray(random.normal(size=(5, 3)), jnp.float32),
        adversary.BIAS: jnp.asarray([0.1, -0.2, 0.3]),
    }

    def plain(params: dict, states: jax.Array) -> jax.Array:
        own = states[0, jnp.array([2, 0, 3])]
        shares = jax.nn.log_softmax(own @ params[adversary.KERNEL] + params[adversary.BIAS])
        return -shares[jnp.arange(3), jnp.array([0, 1, 2])].sum()

    def turned(params: dict, states: jax.Array) -> jax.Array:
        return adversary.terms(params, states, micro)[0][0]

    expected, wanted = jax.value_and_grad(plain, (0, 1))(params, states)
    value, found = jax.value_and_grad(turned, (0, 1))(params, states)
    assert float(value) == pytest.approx(float(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found[0], wanted[0])
    np.testing.assert_allclose(found[1], -wanted[1], rtol=1e-5)
    assert float(adversary.terms(params, states, micro)[0][1]) == 3.0
    assert len(MODALITIES) == 3


def test_it_is_trained_beside_the_network(tmp_path: Path) -> None:
    """It resumes with the run; the export knows nothing of it."""
    data = tiny_run.dataset_folder(tmp_path / "data")
    model = tiny_run.model_folder(tmp_path / "model")
    settings = tiny_run.settings(
        data,
        model,
        batch__lists=8,
        schedule__steps=6,
        evaluation__every_steps=0,
        log__every_steps=1,
        optimizer__lr=1e-2,
        loss__adversary=0.1,
    )
    workdir = str(tmp_path / "run")
    command = ["--config", "configs/sci.py", "--workdir", workdir, "--set", *settings]
    assert sft.main(command) == 0
    assert sft.main(command) == 0, "again: it is finished, and reads its checkpoint"
    series = [one for one in tiny_run.series(Path(workdir)) if one["kind"] == "train"]
    assert series[0]["adversary"] == pytest.approx(np.log(3)), "it knows nothing yet"
    assert series[-1]["adversary"] < 0.95 * np.log(3), "two of three modalities occur"
    with Checkpoints(workdir, 1, "", reading=True) as checkpoints:
        assert checkpoints.latest == 6
        stored = checkpoints.restore_part(
            6, "trainable", jax.sharding.SingleDeviceSharding(jax.devices()[0])
        )
    assert np.abs(stored[adversary.KERNEL]).max() > 0
    with exported(workdir, "last") as folder:
        assert np.isfinite(load(folder).logits("a red square?", ["a red square", "no"])).all()

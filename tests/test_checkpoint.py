"""Checkpoints: what is kept, what is refused, and that a half-written step is never seen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import cli
from train.checkpoint import CheckpointError, Checkpoints, Meta


def abstract(tree: Any) -> Any:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def state(value: float) -> dict[str, Any]:
    return {
        "step": jnp.int32(value),
        "trainable": {"text.stage_0.q.kernel": jnp.full((4, 3), value)},
        "half": jnp.full((2,), value, jnp.bfloat16),
    }


def fill(folder: Path, values: dict[int, float | None], keep: int = 2) -> list[int]:
    with Checkpoints(folder, keep, "hit@1") as checkpoints:
        for step, value in values.items():
            metrics = None if value is None else {"hit@1": value, "odd": float("nan")}
            checkpoints.save(step, state(step), Meta(step * 10, {}, {}), metrics)
        checkpoints.wait()
        return checkpoints.steps


def test_the_last_steps_and_the_best_are_kept(tmp_path: Path) -> None:
    assert fill(tmp_path, {1: 0.1, 2: 0.9, 3: 0.3, 4: 0.9, 5: None, 6: 0.2}) == [2, 5, 6]
    with Checkpoints(tmp_path, 2, "hit@1") as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (6, 2)  # the earlier of equals
        assert checkpoints.resolve("best") == 2 and checkpoints.resolve("5") == 5
    assert '"step": 2' in (tmp_path / "checkpoints" / "best").read_text()


def test_a_step_comes_back_as_it_was(tmp_path: Path) -> None:
    fill(tmp_path, {1: None, 2: None})
    with Checkpoints(tmp_path, 2, "hit@1") as checkpoints:
        found, meta = checkpoints.restore(1, abstract(state(0)))
    assert meta.position == 10
    jax.tree.map(np.testing.assert_array_equal, found, state(1))
    assert found["half"].dtype == jnp.bfloat16


def test_arrays_may_be_donated_while_they_are_written(tmp_path: Path) -> None:
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    current = {"w": jnp.zeros((512, 512))}
    with Checkpoints(tmp_path, 5, "hit@1") as checkpoints:
        for step in range(1, 4):
            current = advance(current)
            checkpoints.save(step, current, Meta(step, {}, {}))
            for _ in range(3):
                current = advance(current)
        checkpoints.wait()
        for step, value in ((1, 1.0), (2, 5.0), (3, 9.0)):
            found, _ = checkpoints.restore(step, abstract({"w": jnp.zeros((512, 512))}))
            np.testing.assert_array_equal(found["w"], np.full((512, 512), value, np.float32))


def test_a_half_written_step_is_ignored_and_cleared(tmp_path: Path) -> None:
    fill(tmp_path, {1: None, 2: None})
    folder = tmp_path / "checkpoints"
    half = folder / "3.orbax-checkpoint-tmp"
    shutil.copytree(folder / "2", half)
    (half / "commit_success.txt").unlink(missing_ok=True)
    with Checkpoints(tmp_path, 2, "hit@1") as checkpoints:
        assert checkpoints.steps == [1, 2]
        assert checkpoints.restore(None, abstract(state(0)))[1].position == 20


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, 2, "hit@1") as checkpoints:
        checkpoints.save(1, state(1), Meta(1, {}, {}))
        checkpoints.wait()
        checkpoints.save(1, state(7), Meta(7, {}, {}))
        checkpoints.wait()
        assert checkpoints.meta(1).position == 1


def test_another_model_is_refused_with_every_difference(tmp_path: Path) -> None:
    fill(tmp_path, {1: None})
    other = state(0)
    other["trainable"] = {"text.stage_0.k.kernel": jnp.zeros((4, 3))}
    other["half"] = jnp.zeros((3,), jnp.bfloat16)
    with (
        Checkpoints(tmp_path, 2, "hit@1") as checkpoints,
        pytest.raises(CheckpointError) as raised,
    ):
        checkpoints.restore(1, abstract(other))
    message = str(raised.value)
    assert "trainable/text.stage_0.q.kernel: not in this model" in message
    assert "trainable/text.stage_0.k.kernel: not in the checkpoint" in message
    assert "half: stored ((2,), 'bfloat16'), wanted ((3,), 'bfloat16')" in message
    assert "--config" in message and "--workdir" in message


def test_an_absent_step_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, 2, "hit@1") as checkpoints:
        with pytest.raises(CheckpointError, match="complete steps: none"):
            checkpoints.resolve("last")
        with pytest.raises(CheckpointError, match="last, best or a number"):
            checkpoints.resolve("newest")
    fill(tmp_path, {1: None, 2: None})
    with Checkpoints(tmp_path, 2, "hit@1") as checkpoints:
        with pytest.raises(CheckpointError, match="no checkpoint 7; complete steps: 1, 2"):
            checkpoints.resolve(7)
        with pytest.raises(CheckpointError, match="no checkpoint 'best'"):
            checkpoints.resolve("best")


def test_what_never_changes_is_stored_once(tmp_path: Path) -> None:
    frozen = {"vision.table": jnp.arange(6.0).reshape(2, 3)}
    with Checkpoints(tmp_path, 1, "hit@1") as checkpoints:
        with pytest.raises(CheckpointError, match="constant is missing"):
            checkpoints.restore_constant(abstract(frozen))
        checkpoints.save_constant(frozen)
        checkpoints.save_constant({"vision.table": jnp.zeros((2, 3))})
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), Meta(step, {}, {}))
    with Checkpoints(tmp_path, 1, "hit@1") as checkpoints:
        assert checkpoints.steps == [3]
        found = checkpoints.restore_constant(abstract(frozen))
    np.testing.assert_array_equal(found["vision.table"], np.arange(6.0).reshape(2, 3))


def test_a_part_is_read_alone(tmp_path: Path) -> None:
    fill(tmp_path, {3: None})
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(tmp_path, 2, "hit@1") as checkpoints:
        found = checkpoints.restore_part(3, "trainable", place)
        with pytest.raises(CheckpointError, match="has no 'weights', only"):
            checkpoints.restore_part(3, "weights", place)
    assert list(found) == ["text.stage_0.q.kernel"]
    np.testing.assert_array_equal(found["text.stage_0.q.kernel"], np.full((4, 3), 3.0))


def test_keeping_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="keep at least one"):
        Checkpoints(tmp_path, 0, "hit@1")


def test_checkpoints_are_verified_without_touching_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, {1: None, 2: None})
    folder = tmp_path / "checkpoints"
    half = folder / "3.orbax-checkpoint-tmp"  # of a run that is going on
    shutil.copytree(folder / "2", half)
    assert cli.main(["ckpt", "verify", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "step 1: 3 arrays" in told and "step 2: 3 arrays" in told and "20 batches" in told
    assert half.is_dir()
    bad = {**state(4), "trainable": {"w": jnp.array([1.0, jnp.nan])}}
    with Checkpoints(tmp_path, 9, "hit@1") as checkpoints:
        assert not half.exists(), "what a killed run left"
        checkpoints.save(4, bad, Meta(40, {}, {}))
    for block in folder.glob("2/state/**/d/*"):
        block.write_bytes(b"")
    assert cli.main(["ckpt", "verify", str(tmp_path)]) == 1
    found = capsys.readouterr()
    assert "step 1: 3 arrays" in found.out
    assert "step 2: cannot be read" in found.err
    assert "step 4: trainable/w holds numbers that are not finite" in found.err
    assert cli.main(["ckpt", "verify", str(tmp_path / "nothing")]) == 1
    assert "holds no checkpoints" in capsys.readouterr().err

"""The update and the commands: accumulation, meshes, freezing, adapters, export, errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from flax import nnx

from train import export, sft
from train.config import ConfigError, load
from train.initial import make_layout, open_start, restore_model
from train.settings import LoRASettings, Method, OptimizerSettings, ScheduleSettings
from train.step import (
    Layout,
    Params,
    initial_state,
    learning_rate,
    make_optimizer,
    make_step,
    state_shardings,
)
from unirank_jax import lora, sharding
from unirank_jax.config import ModelConfig, preset
from unirank_jax.keys import flatten
from unirank_jax.model import Model
from unirank_jax.weights import load_model

CONFIG = str(tiny_run.ROOT / "configs" / "sci.py")
ADAM = OptimizerSettings(lr=0.1, weight_decay=0.01, beta1=0.9, beta2=0.98, eps=1e-8, clip_norm=1.0)
SCHEDULE = ScheduleSettings(steps=10, warmup_steps=2, final_fraction=0.1)


class Toy:
    """Squared errors of a linear map over the valid rows of a micro-batch, and an L1 term."""

    def __call__(self, params: Params, micro: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        error = (micro["x"] @ params["a.kernel"] + params["b.bias"]) - micro["y"]
        weight = micro["mask"][..., None]
        terms = {
            "square": ((jnp.square(error) * weight).sum(), micro["mask"].sum()),
            "absolute": ((jnp.abs(error) * weight).sum(), 2 * micro["mask"].sum()),
        }
        return terms, {"rows": (micro["mask"].sum(), jnp.float32(1))}

    def counts(self, micro: Any) -> dict[str, jax.Array]:
        return {"square": micro["mask"].sum(), "absolute": 2 * micro["mask"].sum()}


def toy_update(
    micro_batches: int,
    mesh: jax.sharding.Mesh,
    frozen_bias: bool = False,
    method: Method = "adamw",
) -> tuple[Params, dict[str, float]]:
    """Two updates over the same 16 rows, of which some are padding."""
    adam = replace(ADAM, method=method)
    rng = np.random.default_rng(0)
    shards = sharding.shard_count(mesh)
    shape = (micro_batches, shards, 16 // (micro_batches * shards))
    batch = {
        "x": rng.normal(size=(16, 4)).reshape(*shape, 4).astype(np.float32),
        "y": rng.normal(size=(16, 2)).reshape(*shape, 2).astype(np.float32),
        "mask": (np.arange(16) < 11).astype(np.float32).reshape(shape),
    }
    everything = {
        "a.kernel": jnp.asarray(rng.normal(size=(4, 2)), jnp.float32),
        "b.bias": jnp.zeros(2),
    }
    places = {
        "a.kernel": jax.NamedSharding(mesh, jax.P("fsdp", "tensor")),
        "b.bias": sharding.replicated(mesh),
    }
    values = {name: jax.device_put(array, places[name]) for name, array in everything.items()}
    frozen = {"b.bias": values.pop("b.bias")} if frozen_bias else {}
    optimizer = make_optimizer(adam, SCHEDULE)
    homes = state_shardings(optimizer, values, places, mesh)
    weights = {"square": 1.0, "absolute": 0.5}
    step = make_step(Toy(), weights, optimizer, learning_rate(ADAM, SCHEDULE), homes, frozen, mesh)
    state = initial_state(optimizer, values, homes)
    for _ in range(2):
        state, metrics = step(state, batch)
    assert int(state.step) == 2
    found = {
        name: float(pair[0] / pair[1]) if isinstance(pair, tuple) else float(pair)
        for name, pair in jax.device_get(metrics).items()
    }
    return jax.device_get(state.trainable), found


@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_accumulation_and_sharding_do_not_change_the_update(
    eight_devices: list[jax.Device], method: Method
) -> None:
    one = sharding.mesh(1, 1, 1, eight_devices[:1])
    wanted, metrics = toy_update(1, one, method=method)
    assert metrics["loss"] == pytest.approx(metrics["square"] + 0.5 * metrics["absolute"], rel=1e-5)
    assert metrics["learning_rate"] == pytest.approx(0.05)  # half way up the warm-up
    for micro_batches, mesh in (
        (4, one),
        (2, sharding.mesh(2, 2, 2, eight_devices)),
        (1, sharding.mesh(1, 4, 2, eight_devices)),
    ):
        found, others = toy_update(micro_batches, mesh, method=method)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, wanted
        )
        for name in ("loss", "grad_norm", "square", "absolute"):
            assert others[name] == pytest.approx(metrics[name], rel=1e-5), name


def test_frozen_parameters_have_no_moments_and_do_not_move() -> None:
    mesh = sharding.mesh(1, 1, 1, jax.devices()[:1])
    found, _ = toy_update(1, mesh, frozen_bias=True)
    assert set(found) == {"a.kernel"}


def test_the_learning_rate_rises_and_falls() -> None:
    rate = learning_rate(ADAM, SCHEDULE)
    values = [float(rate(step)) for step in range(11)]
    assert values[:3] == pytest.approx([0.0, 0.05, 0.1])
    assert values[2:] == sorted(values[2:], reverse=True)
    assert values[10] == pytest.approx(0.01)
    with pytest.raises(ConfigError, match="warmup_steps = 10 must be"):
        learning_rate(ADAM, ScheduleSettings(steps=10, warmup_steps=10, final_fraction=0.1))


def test_only_matrices_are_decayed() -> None:
    params = {
        "q.kernel": jnp.ones((2, 2)),
        "norm.scale": jnp.ones(2),
        "embed.table": jnp.ones((2, 2)),
    }
    optimizer = make_optimizer(ADAM, ScheduleSettings(10, 0, 0.1))
    nothing = jax.tree.map(jnp.zeros_like, params)
    changes, _ = optimizer.update(nothing, optimizer.init(params), params)
    moved = {name for name, change in changes.items() if float(jnp.abs(change).max()) > 0}
    assert moved == {"q.kernel"}


def test_muon_turns_every_matrix_of_a_stack_by_itself() -> None:
    rng = np.random.default_rng(0)
    gradient = {
        "text.stage_0.q.kernel": rng.normal(size=(2, 6, 4)).astype(np.float32),
        "text.embed.table": rng.normal(size=(6, 4)).astype(np.float32),
        "vision.patch.kernel": rng.normal(size=(2, 6, 4)).astype(np.float32),
        "text.stage_0.norm1.scale": rng.normal(size=(2, 4)).astype(np.float32),
    }
    gradient["text.stage_0.q.kernel"][1] *= 1e-3  # as small a gradient moves a layer as far
    settings = replace(ADAM, method="muon", weight_decay=0.0, clip_norm=1e9)
    optimizer = make_optimizer(settings, ScheduleSettings(10, 0, 0.1))
    params = jax.tree.map(jnp.zeros_like, gradient)
    changes, _ = optimizer.update(gradient, optimizer.init(params), params)
    for change in changes["text.stage_0.q.kernel"]:
        spread = np.linalg.svd(-change / ADAM.lr, compute_uv=False) / (0.2 * np.sqrt(6))
        assert ((spread > 0.6) & (spread < 1.3)).all()  # five Newton-Schulz steps: near 1
    for name in gradient.keys() - {"text.stage_0.q.kernel"}:  # Adam's first update: the sign
        np.testing.assert_allclose(np.abs(changes[name]), ADAM.lr, rtol=1e-3)


# What is trained ----------------------------------------------------------------------------------


def test_a_layout_gives_the_model_back() -> None:
    model = Model.abstract(preset("tiny"))
    layout = Layout.of(model)
    marks = {name: name for name in layout.variables}
    assert flatten(layout.model(marks)) == marks
    places = layout.shardings(sharding.mesh(1, 1, 1, jax.devices()[:1]))
    assert set(places) == set(layout.variables)


@pytest.mark.parametrize("size", ["2b", "8b", "2b_lora"])
def test_published_sizes_fit_eight_devices_and_with_adapters_one(
    size: str, eight_devices: list[jax.Device]
) -> None:
    config = load(f"{CONFIG}:{size}")
    model = preset(size[:2])
    devices = eight_devices[:1] if size == "2b_lora" else eight_devices
    mesh = sharding.mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices)
    if config.lora.rank:  # shapes only: no array of this size is made here
        abstract = nnx.eval_shape(lambda: adapted(model, config.lora))
        layout = Layout.of(abstract)
    else:
        layout = Layout.of(Model.abstract(model))
    places = layout.shardings(mesh)
    trained = layout.select(config.freeze)
    bytes_per_device = sum(
        int(np.prod(places[name].shard_shape(variable.shape))) * (12 if name in trained else 2)
        for name, variable in layout.variables.items()
    )
    least = {"2b": 3.0e9, "8b": 1.3e10, "2b_lora": 4.3e9}[
        size
    ]  # masters, both moments; or bfloat16
    assert least < bytes_per_device < 1.25 * least


def adapted(config: ModelConfig, settings: LoRASettings) -> Model:
    model = Model(config, nnx.Rngs(0))
    lora.add(model, settings.rank, settings.alpha, settings.targets, nnx.Rngs(0))
    return model


def test_freezing_is_by_pattern_over_whole_paths() -> None:
    layout = Layout.of(Model.abstract(preset("tiny")))
    trained = layout.select((r"vision\..*", r"text\.embed\.table"))
    assert trained and not any(n.startswith("vision.") for n in trained)
    assert "text.embed.table" not in trained and "text.norm.scale" in trained
    with pytest.raises(ConfigError, match="'vison.*' matches no parameter"):
        layout.select((r"vison.*",))
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        layout.select((r".*",))


def test_parameters_of_another_version_are_named() -> None:
    layout = Layout.of(Model.abstract(preset("tiny")))
    names = {name.replace("stage_2", "stage_9"): None for name in layout.variables}
    with pytest.raises(ConfigError, match=r"missing \(text\.stage_2.*unknown \(text\.stage_9"):
        layout.model(names)


def test_with_adapters_only_they_are_trained() -> None:
    settings = LoRASettings(rank=2, alpha=4.0, targets=r"text\.stage_\d+\.(q|v)")
    layout, fresh = make_layout(preset("tiny"), settings, 0)
    trained = layout.select(())
    assert set(trained) == set(fresh)
    assert {name.rsplit(".", 2)[1] for name in trained} == {"q", "v"}
    assert {name.rsplit(".", 1)[1] for name in trained} == {"lora_a", "lora_b"}


# The commands -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset folder and a model folder."""
    root = tmp_path_factory.mktemp("inputs")
    return tiny_run.dataset_folder(root / "data"), tiny_run.model_folder(root / "model")


def command(workdir: Path, overrides: list[str]) -> list[str]:
    return tiny_run.command(workdir, overrides)[3:]


def test_adapters_train_alone_and_leave_the_base_as_it_was(
    inputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = inputs
    workdir = tmp_path / "run"
    overrides = tiny_run.settings(
        data,
        model,
        batch__lists=8,  # a list for each of the 8 devices of the tests
        schedule__steps=4,
        evaluation__every_steps=2,
        lora__rank=2,
        lora__targets=r"text\.stage_\d+\.(q|k|v|o|gate|up|down)",
        loss__vocab_ce=0.1,
    )
    assert sft.main(command(workdir, overrides)) == 0
    said = capsys.readouterr().out
    assert "step 0 of 4" in said and "mesh data 8 x fsdp 1 x tensor 1" in said
    assert "1.0 bce + 0.5 rcr + 0.1 vocab_ce" in said

    trained, _, meta, step = restore_model(workdir, "last")
    assert (step, meta.position) == (4, 4)
    base = flatten(load_model(model))
    found = flatten(trained)
    adapters = {name for name in found if "lora" in name}
    assert set(found) - adapters == set(base)
    for name, array in base.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert all(np.abs(found[name]).max() > 0 for name in adapters if name.endswith("lora_b"))

    merged, adapter = tmp_path / "merged", tmp_path / "adapter"
    arguments = ["--workdir", str(workdir), "--step", "last"]
    assert export.main([*arguments, "--out", str(merged)]) == 0
    assert export.main([*arguments, "--out", str(adapter), "--lora", "adapter"]) == 0
    lora.fold(trained)
    for name, array in flatten(load_model(merged)).items():
        np.testing.assert_allclose(array, flatten(trained)[name], rtol=1e-6, atol=1e-7)
    adapted = json.loads((adapter / "adapter_config.json").read_text())
    assert adapted["r"] == 2 and adapted["base_model_name_or_path"] == str(model)
    assert json.loads((merged / "unirank.json").read_text())["max_visual_tokens"] == 6
    assert export.main([*arguments, "--out", str(merged)]) == 1  # it is not empty now
    assert "not empty" in capsys.readouterr().err

    # The same folder with another configuration is refused, and says which fields differ.
    assert sft.main(command(workdir, [*overrides, "optimizer.lr=0.5"])) == 1
    assert "optimizer.lr: 0.003 -> 0.5" in capsys.readouterr().err
    # A run can start from this run: the adapters are folded in.
    settings = replace(load(CONFIG).model, init=str(workdir))
    start = open_start(settings, 0)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    loaded = start.load({name: place for name in base})
    assert set(loaded) == set(base)
    for name, array in flatten(trained).items():
        np.testing.assert_array_equal(loaded[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lrr=1"], "'optimizer.lrr' is unknown; did you mean 'lr'?"),
        (["data.source=/nowhere"], "/nowhere: no dataset here"),
        (["model.init=/nowhere"], "/nowhere does not exist"),
        (["model.init=scratch", "model.preset=2b"], "only the tiny preset has a tokenizer"),
        (["batch.lists=3"], "must be a multiple of 8 shards"),
        (["mesh.data=3"], "needs 3 devices, 8 are here"),
        (["loss.bce=0", "loss.rcr=0"], "loss: no positive weight"),
        (["freeze=nothing"], "'nothing' matches no parameter"),
        (["evaluation.metric=f1"], "evaluation.metric must be one of"),
    ],
)
def test_a_wrong_setting_ends_with_a_message(
    inputs: tuple[Path, Path],
    tmp_path: Path,
    overrides: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = tiny_run.settings(*inputs, batch__lists=8)
    assert sft.main(command(tmp_path, [*settings, *overrides])) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "metrics.jsonl").exists()


def test_export_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["--workdir", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "holds no config.json" in capsys.readouterr().err

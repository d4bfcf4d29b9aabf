"""The network that a run starts from: the embedded base, random weights, a folder or a hub id, or
another run. Also the way back: the model of a run's checkpoint, for export and evaluation.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

import unirank_jax
from train.adversary import network
from train.checkpoint import Checkpoints, Meta
from train.config import ConfigError, from_dict
from train.settings import LoRASettings, ModelSettings, TrainConfig
from train.step import Layout, Params
from unirank_jax import hub, lora
from unirank_jax.config import ModelConfig, preset
from unirank_jax.keys import abstract_params, flatten, unflatten
from unirank_jax.model import Model
from unirank_jax.weights import load_params

ASSETS = Path(unirank_jax.__file__).parent / "assets"
MODEL_FOLDER = "model"  # inside a workdir: config.json and the tokenizer, so that it is complete

Places = Mapping[str, NamedSharding]


@dataclass(frozen=True)
class Start:
    """A network to start from: its shapes, its tokenizer, and how its parameters are made."""

    config: ModelConfig
    tokenizer: Path  # folder with tokenizer.json
    name: str  # recorded as the base of what is trained
    load: Callable[[Places], Params]  # base parameters (no adapters), placed


def open_start(settings: ModelSettings, seed: int) -> Start:
    """What `model.init` names.

    Raises:
        ConfigError: a published size from scratch, or no embedded base.
        WeightsError: a folder that holds no model.
    """
    if settings.init == "scratch":
        if settings.preset != "tiny":
            raise ConfigError(
                f"model.init = 'scratch': only the tiny preset has a tokenizer of its own; for "
                f"{settings.preset} give the folder or id of a published model"
            )
        config = preset(settings.preset)
        return Start(config, ASSETS / "tokenizer", "scratch", lambda p: _random(config, seed, p))
    if settings.init == "base" and not (ASSETS / "base" / "config.json").exists():
        raise ConfigError(
            "model.init = 'base': this installation has no embedded base; say "
            "--set model.init=scratch, or make one with python -m train.pretrain"
        )
    path = Path(settings.init)
    if (path / "checkpoints").is_dir() and (path / MODEL_FOLDER).is_dir():
        config = read_config(path / MODEL_FOLDER)
        return Start(config, path / MODEL_FOLDER, str(path), lambda p: _of_run(path, p))
    folder = ASSETS / "base" if settings.init == "base" else hub.resolve(settings.init)
    config = read_config(folder)
    return Start(config, folder, settings.init, lambda p: _of_folder(folder, config, p))


def keep_model_files(start: Start, workdir: Path) -> None:
    """Put config.json and the tokenizer into the workdir; process 0 does."""
    if jax.process_index():
        return
    folder = workdir / MODEL_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(start.config.to_hf(), indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        if (start.tokenizer / name).exists() and start.tokenizer != folder:
            shutil.copyfile(start.tokenizer / name, folder / name)


def make_layout(config: ModelConfig, adapters: LoRASettings, seed: int) -> tuple[Layout, Params]:
    """The layout of the trained model, and its new adapters (empty without LoRA)."""
    if adapters.rank == 0:
        return Layout.of(Model.abstract(config)), {}

    def adapted() -> Model:
        model = Model(config, nnx.Rngs(seed))
        lora.add(model, adapters.rank, adapters.alpha, adapters.targets, nnx.Rngs(seed))
        return model

    def new_adapters() -> Params:  # the compiler drops all that is not returned
        return {n: a for n, a in flatten(adapted()).items() if n.endswith(("lora_a", "lora_b"))}

    return Layout.of(nnx.eval_shape(adapted)), jax.jit(new_adapters)()


def cast(params: Params, dtypes: Mapping[str, Any]) -> Params:
    """Parameters in the dtypes given by name, where they are; each old array is released."""
    changed = {}
    for name in list(params):
        array = params.pop(name)
        changed[name] = array if array.dtype == dtypes[name] else array.astype(dtypes[name])
    return changed


def restore_model(workdir: Path, step: str | int) -> tuple[Model, TrainConfig, Meta, int]:
    """The model of a checkpoint on the first device, adapters beside their kernels.

    Raises:
        CheckpointError: no such step.
        ConfigError: the folder is no run of this program.
    """
    config = _config_of(workdir)
    layout, _ = make_layout(read_config(workdir / MODEL_FOLDER), config.lora, 0)
    names = layout.select(config.freeze)
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with _reading(workdir, config) as checkpoints:
        number = checkpoints.resolve(step)
        params = network(checkpoints.restore_part(number, "trainable", place))
        meta = checkpoints.meta(number)
        kept = [name for name in layout.variables if name not in names]
        if kept:
            dtype = jnp.dtype(config.model.frozen_dtype)
            shapes = {
                name: jax.ShapeDtypeStruct(layout.variables[name].shape, dtype, sharding=place)
                for name in kept
            }
            params |= checkpoints.restore_constant(shapes)
    return layout.model(params), config, meta, number


def find_step(workdir: Path, step: str | int) -> int:
    """Which step of a run `step` means ("last", "best" or a number).

    Raises:
        CheckpointError: no such step.
        ConfigError: the folder is no run of this program.
    """
    with _reading(workdir, _config_of(workdir)) as checkpoints:
        return checkpoints.resolve(step)


def _config_of(workdir: Path) -> TrainConfig:
    if not (workdir / "config.json").exists():
        raise ConfigError(f"--workdir: {workdir} holds no config.json; give a folder of train.sft")
    stored = json.loads((workdir / "config.json").read_text(encoding="utf-8"))["config"]
    shared = {field.name for field in fields(TrainConfig)}  # other stages have more of their own
    return from_dict(TrainConfig, {n: value for n, value in stored.items() if n in shared})


def _reading(workdir: Path, config: TrainConfig) -> Checkpoints:
    keep, metric = config.checkpoint.keep, config.evaluation.metric
    return Checkpoints(workdir, keep, metric, reading=True)


def read_config(folder: Path) -> ModelConfig:
    return ModelConfig.from_hf(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _random(config: ModelConfig, seed: int, places: Places) -> Params:
    def make() -> Params:
        return flatten(Model(config, nnx.Rngs(seed)))

    return jax.jit(make, out_shardings={name: places[name] for name in abstract_params(config)})()


def _of_folder(folder: Path, config: ModelConfig, places: Places) -> Params:
    own = {name: places[name] for name in abstract_params(config)}
    return flatten(load_params(folder, config, None, unflatten(own)))


def _of_run(workdir: Path, places: Places) -> Params:
    model, _, _, _ = restore_model(workdir, "last")
    lora.fold(model)
    return {name: jax.device_put(a, places[name]) for name, a in flatten(model).items()}

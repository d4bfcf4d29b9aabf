"""Loading and writing: the table is complete, every defect is named, nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from parity_models import random_torch_model, tiny_config
from safetensors.numpy import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from unirank_jax import sharding
from unirank_jax.config import ModelConfig, preset
from unirank_jax.hub import WeightsError, resolve
from unirank_jax.keys import abstract_params, canonical, entries, flatten, stage_of, unflatten
from unirank_jax.model import Model
from unirank_jax.weights import INDEX_FILE, SINGLE_FILE, load_model, load_params, write_weights

GIGABYTE = 1 << 30


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return tiny_config(tied=False)


@pytest.fixture(scope="module")
def published(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    random_torch_model(config).save_pretrained(folder)
    return folder


def copy_of(folder: Path, into: Path) -> tuple[Path, dict[str, np.ndarray]]:
    (into / "config.json").write_bytes((folder / "config.json").read_bytes())
    return into, load_file(folder / SINGLE_FILE)


def test_stage_of_at_the_boundaries() -> None:
    depths = (9, 8, 8, 2)  # the tower of the published 8B
    found = [stage_of(layer, depths) for layer in (0, 8, 9, 16, 17, 24, 25, 26)]
    assert found == [(0, 0), (0, 8), (1, 0), (1, 7), (2, 0), (2, 7), (3, 0), (3, 1)]
    assert stage_of(0, (0, 3)) == (1, 0)
    with pytest.raises(ValueError, match="layer 27"):
        stage_of(27, depths)


@pytest.mark.parametrize("name", ["tiny", "2b", "4b", "8b"])
def test_table_covers_every_parameter_of_the_presets(name: str) -> None:
    shape = preset(name)
    table = entries(shape)
    assert {entry.name for entry in table} == set(abstract_params(shape))
    assert len({entry.key for entry in table}) == len(table)
    for path, leaf in abstract_params(shape).items():
        layers = [entry.offset for entry in table if entry.name == path]
        assert layers == ([None] if layers[0] is None else list(range(leaf.shape[0]))), path


def test_table_names_every_tensor_of_transformers(config: ModelConfig) -> None:
    for tied in (False, True):
        model = random_torch_model(tiny_config(tied=tied))
        assert {entry.key for entry in entries(tiny_config(tied=tied))} == {
            name for name, _ in model.named_parameters()
        }


def test_round_trip_is_bit_equal(published: Path, config: ModelConfig, tmp_path: Path) -> None:
    write_weights(tmp_path, load_params(published, config), config, np.float32, GIGABYTE)
    before, after = load_file(published / SINGLE_FILE), load_file(tmp_path / SINGLE_FILE)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_sharded_files_load_in_both_libraries(
    published: Path, config: ModelConfig, tmp_path: Path
) -> None:
    params = load_params(published, config)
    write_weights(tmp_path, params, config, np.float32, 40_000)
    copy_of(published, tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    assert (tmp_path / INDEX_FILE).exists() and not (tmp_path / SINGLE_FILE).exists()
    again = flatten(load_params(tmp_path, config))
    assert all(np.array_equal(again[path], leaf) for path, leaf in flatten(params).items())
    theirs, report = Qwen3VLForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    original = load_file(published / SINGLE_FILE)
    assert all(
        np.array_equal(value.detach().numpy(), original[name])
        for name, value in theirs.named_parameters()
    )


def test_bfloat16_in_and_out(published: Path, config: ModelConfig, tmp_path: Path) -> None:
    params = load_params(published, config, dtype=ml_dtypes.bfloat16)
    assert {leaf.dtype for leaf in flatten(params).values()} == {np.dtype(ml_dtypes.bfloat16)}
    write_weights(tmp_path, params, config, ml_dtypes.bfloat16, GIGABYTE)
    kept = flatten(load_params(tmp_path, config))
    assert {leaf.dtype for leaf in kept.values()} == {np.dtype(ml_dtypes.bfloat16)}
    wide = flatten(load_params(tmp_path, config, dtype=np.float32))
    for path, leaf in flatten(load_params(published, config)).items():
        rounded = torch.tensor(np.asarray(leaf)).bfloat16().float().numpy()
        assert np.array_equal(np.asarray(wide[path]), rounded), path


def test_sharded_arrays_are_read_block_by_block(
    published: Path, config: ModelConfig, eight_devices: list[jax.Device]
) -> None:
    """Every axis of every parameter that divides is split once; the values are the same."""
    mesh = jax.make_mesh((2,), ("x",), devices=eight_devices[:2])
    whole = flatten(load_params(published, config))
    for axis in range(3):
        places = {}
        for path, leaf in whole.items():
            split = axis < leaf.ndim and leaf.shape[axis] % 2 == 0
            names = ["x" if split and at == axis else None for at in range(leaf.ndim)]
            places[path] = NamedSharding(mesh, PartitionSpec(*names))
        parts = flatten(load_params(published, config, shardings=unflatten(places)))
        for path, leaf in whole.items():
            assert parts[path].sharding == places[path]
            assert np.array_equal(parts[path], leaf), path


def test_loads_straight_into_the_shardings_of_a_mesh(
    published: Path, config: ModelConfig, eight_devices: list[jax.Device]
) -> None:
    mesh = sharding.mesh(2, 2, 2, eight_devices)
    places = sharding.shardings(nnx.state(Model.abstract(config), nnx.Param), mesh)
    model = load_model(published, mesh=mesh)
    expected = flatten(load_params(published, config))
    for path, place in flatten(places).items():
        leaf = flatten(model)[path]
        assert leaf.sharding == place and np.array_equal(leaf, expected[path]), path


def test_every_defect_is_listed_at_once(published: Path, tmp_path: Path) -> None:
    folder, tensors = copy_of(published, tmp_path)
    del tensors["model.visual.merger.norm.bias"]
    del tensors["model.language_model.layers.1.mlp.up_proj.weight"]
    tensors["model.visual.patch_embed.proj.bias"] = np.zeros(5, np.float32)
    tensors["model.visual.blocks.9.norm1.weight"] = np.zeros(24, np.float32)
    save_file(tensors, folder / SINGLE_FILE)
    with pytest.raises(WeightsError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "missing: model.visual.merger.norm.bias" in message
    assert "layers.1.mlp.up_proj.weight" in message
    assert "wrong shape: model.visual.patch_embed.proj.bias is (5,), expected (24,)" in message
    assert "unexpected: model.visual.blocks.9.norm1.weight" in message


def test_head_of_a_tied_model(tmp_path: Path) -> None:
    """A repeated embedding is accepted, a head of its own is not."""
    random_torch_model(tiny_config(tied=True)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / SINGLE_FILE)
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"]
    save_file(tensors, tmp_path / SINGLE_FILE)
    assert load_model(tmp_path).head is None
    save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"] + 1}, tmp_path / SINGLE_FILE)
    with pytest.raises(WeightsError, match="set tie_word_embeddings to false"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("visual.blocks.0.norm1.bias", "model.visual.blocks.0.norm1.bias"),
        ("model.layers.2.mlp.up_proj.weight", "model.language_model.layers.2.mlp.up_proj.weight"),
        ("language_model.model.norm.weight", "model.language_model.norm.weight"),
        ("language_model.norm.weight", "model.language_model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
    ],
)
def test_older_prefixes(old: str, new: str) -> None:
    assert canonical(old) == new and canonical(new) == new


def test_older_spelling_loads(published: Path, config: ModelConfig, tmp_path: Path) -> None:
    """Keys without `model.` and a config with rope_scaling + rope_theta."""
    folder, tensors = copy_of(published, tmp_path)
    old = {}
    for key, value in tensors.items():
        key = key.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        old[key] = value
    save_file(old, folder / SINGLE_FILE)
    raw = json.loads((folder / "config.json").read_text())
    rope = raw["text_config"].pop("rope_parameters")
    raw["text_config"]["rope_theta"] = rope.pop("rope_theta")
    raw["text_config"]["rope_scaling"] = rope
    (folder / "config.json").write_text(json.dumps(raw))
    model = load_model(folder)
    assert model.config == config
    expected = flatten(load_params(published, config))
    assert all(np.array_equal(leaf, expected[path]) for path, leaf in flatten(model).items())


def test_one_key_in_two_spellings_is_an_error(published: Path, tmp_path: Path) -> None:
    folder, tensors = copy_of(published, tmp_path)
    tensors["visual.merger.norm.bias"] = tensors["model.visual.merger.norm.bias"]
    save_file(tensors, folder / SINGLE_FILE)
    with pytest.raises(
        WeightsError, match=r"twice in the files: model\.visual\.merger\.norm\.bias"
    ):
        load_model(folder)


def test_a_lost_shard_and_a_lost_tensor(
    published: Path, config: ModelConfig, tmp_path: Path
) -> None:
    write_weights(tmp_path, load_params(published, config), config, np.float32, 40_000)
    first = sorted(tmp_path.glob("model-*.safetensors"))[0]
    tensors = load_file(first)
    dropped = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != dropped}, first)
    with pytest.raises(WeightsError, match=f"in no shard: {dropped}"):
        load_params(tmp_path, config)
    first.unlink()
    with pytest.raises(WeightsError, match=f"missing shards {first.name}"):
        load_params(tmp_path, config)


def test_writing_refuses_a_dropped_or_unknown_parameter(
    published: Path, config: ModelConfig, tmp_path: Path
) -> None:
    leaves = flatten(load_params(published, config))
    lost = {path: leaf for path, leaf in leaves.items() if path != "text.stage_2.q.kernel"}
    with pytest.raises(WeightsError, match=r"missing: text\.stage_2\.q\.kernel"):
        write_weights(tmp_path, unflatten(lost), config, np.float32, GIGABYTE)
    more = {**leaves, "text.stage_2.q.lora_a": np.zeros((1, 40, 2), np.float32)}
    with pytest.raises(WeightsError, match=r"merge adapters first.*lora_a"):
        write_weights(tmp_path, unflatten(more), config, np.float32, GIGABYTE)
    assert not list(tmp_path.iterdir())


def test_pickles_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config().to_hf()))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="only safetensors are read"):
        load_model(tmp_path)


def test_resolve(tmp_path: Path, published: Path) -> None:
    assert resolve(published) == published and resolve(str(published)) == published
    with pytest.raises(WeightsError, match="no config.json"):
        resolve(tmp_path)
    with pytest.raises(WeightsError, match="does not exist"):
        resolve(tmp_path / "nothing" / "here")
    run = tmp_path / "run"
    (run / "checkpoints" / "12").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    for place in (run, run / "checkpoints", run / "checkpoints" / "12"):
        with pytest.raises(WeightsError, match=r"python -m train\.export"):
            resolve(place)


def test_hub_download_takes_no_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = {}

    def fake(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    assert resolve("owner/name", revision="abc", local_files_only=True) == tmp_path
    assert asked["name"] == "owner/name" and asked["revision"] == "abc"
    assert asked["local_files_only"] is True
    assert asked["allow_patterns"] == ["*.json", "*.safetensors", "*.txt", "*.jinja"]

"""Export folders that transformers, sentence-transformers and PEFT load as they are.

A folder is written beside its place, synced, checked and renamed: it exists whole or not at all.
`save_pretrained` writes a complete model (adapters folded in), `save_adapter` a PEFT adapter.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import save_file

from unirank_jax import int8, lora
from unirank_jax.export_files import (
    write_json,
    write_processors,
    write_sentence_transformers,
    write_tokenizer,
)
from unirank_jax.hub import WeightsError
from unirank_jax.keys import entries
from unirank_jax.manifest import Manifest
from unirank_jax.model import Model
from unirank_jax.weights import write_weights

MAX_SHARD_BYTES = 5 << 30
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


@contextmanager
def whole_folder(out: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends without an error.

    Raises:
        WeightsError: `out` is a file or a folder that holds something.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WeightsError(f"{out} is not empty; choose a new folder or empty it yourself")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                _sync(file)
        os.rename(temporary, out)  # onto an empty folder or nothing
        _sync(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_pretrained(
    out: str | os.PathLike[str],
    model: Model,
    manifest: Manifest,
    tokenizer_folder: str | os.PathLike[str],
    card: str,
    *,
    dtype: Any,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write a complete model folder; adapters are folded into a copy in float32.

    Args:
        out: a new or empty folder.
        manifest: becomes unirank.json (with this `dtype`); decides template and image budget.
        tokenizer_folder: holds tokenizer.json (and, if there, tokenizer_config.json).
        card: the README.md text (see `model_card.render`).
        dtype: of the weights on disk.

    Raises:
        WeightsError: the folder is not empty, the weights are in 8 bits, or a tensor is missing
            from what was written.
    """
    int8.refuse(model, "saved", WeightsError)
    if any(layer.lora_a is not None for layer in lora.dense_layers(model).values()):
        model = nnx.clone(model)
        lora.fold(model)
    tokenizer_folder = Path(tokenizer_folder)
    if tokenizer_folder.is_file():
        tokenizer_folder = tokenizer_folder.parent
    config = model.config
    manifest = replace(manifest, dtype=np.dtype(dtype).name)
    with whole_folder(out) as folder:
        write_weights(folder, model, config, dtype, max_shard_bytes)
        raw = {**config.to_hf(), "dtype": np.dtype(dtype).name}
        write_json(folder / "config.json", raw)
        manifest.write(folder)
        write_tokenizer(folder, tokenizer_folder, manifest)
        write_processors(folder, config, manifest)
        write_sentence_transformers(folder, manifest)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return Path(out)


# ------------------------------------------------------------------------------------- adapters


def adapter_tensors(model: Model) -> tuple[dict[str, np.ndarray], int, float]:
    """LoRA factors under PEFT's names, their rank and alpha.

    Raises:
        WeightsError: the model has no adapters, or they differ in rank or scale.
    """
    layers = {
        path: (layer.lora_a[...], layer.lora_b[...], layer.lora_scale)
        for path, layer in lora.dense_layers(model).items()
        if layer.lora_a is not None and layer.lora_b is not None
    }
    if not layers:
        raise WeightsError("the model has no adapters; train with lora set, or export it whole")
    ranks = {(a.shape[-1], scale) for a, _, scale in layers.values()}
    if len(ranks) > 1:
        raise WeightsError(f"adapters of several (rank, scale): {sorted(ranks)}; fold them instead")
    rank, scale = next(iter(ranks))
    tensors = {}
    covered = set()
    for entry in entries(model.config):
        path, _, leaf = entry.name.rpartition(".")
        if leaf != "kernel" or path not in layers:
            continue
        covered.add(path)
        name = "base_model.model." + entry.key.removesuffix(".weight")
        for letter, stacked in zip("AB", layers[path][:2], strict=True):
            factor = np.asarray(stacked)
            factor = factor if entry.offset is None else factor[entry.offset]
            tensors[f"{name}.lora_{letter}.weight"] = np.ascontiguousarray(factor.T)
    if lost := sorted(set(layers) - covered):
        raise WeightsError(f"adapters without a published name: {', '.join(lost)}")
    return tensors, rank, rank * scale


def save_adapter(
    out: str | os.PathLike[str], model: Model, base: str, manifest: Manifest, card: str
) -> Path:
    """Write the adapters as a PEFT folder (float32); `base` is the base model's path or hub id.

    `peft.PeftModel.from_pretrained(base_model, out)` loads it.
    """
    tensors, rank, alpha = adapter_tensors(model)
    modules = sorted({name.split(".lora_")[0] for name in tensors})
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": [name.removeprefix("base_model.model.") for name in modules],
    }
    with whole_folder(out) as folder:
        write_json(folder / ADAPTER_CONFIG, config)
        tensors = {key: value.astype(np.float32) for key, value in tensors.items()}
        save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
        with safe_open(folder / ADAPTER_FILE, framework="np") as written:
            found = {key: tuple(written.get_slice(key).get_shape()) for key in written.keys()}  # noqa: SIM118
        if found != {key: value.shape for key, value in tensors.items()}:
            raise WeightsError(f"{ADAPTER_FILE} does not hold every adapter; the disk may be full")
        manifest.write(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return Path(out)

"""Weights in the published layout: streamed loading and verified writing of safetensors.

Loading iterates our parameters and reads, for each device, only the bytes of its block; writing
holds one tensor at a time and reopens what it wrote. Both go through the strict table of `keys.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding
from safetensors import safe_open

from unirank_jax.config import ModelConfig
from unirank_jax.hub import WeightsError, not_a_model
from unirank_jax.int8 import is_decoder_linear, quantize, quantized
from unirank_jax.keys import (
    EMBED_KEY,
    HEAD_KEY,
    Entry,
    abstract_params,
    canonical,
    entries,
    flatten,
    their_shape,
    to_ours,
    to_theirs,
    unflatten,
)
from unirank_jax.model import Model
from unirank_jax.sharding import shardings as shardings_of
from unirank_jax.tensor_file import write_tensors

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_LISTED = 12  # problems of one kind that an error spells out


class _Files:
    """Tensors of a folder by canonical key; each read opens only the bytes it needs.

    A file is open while it is read from, no longer: pages of one that stays mapped count as memory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where: dict[str, tuple[Path, str]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        index = folder / INDEX_FILE
        if index.exists():
            listed = json.loads(index.read_text())["weight_map"]
            names = sorted(set(listed.values()))
        elif (folder / SINGLE_FILE).exists():
            listed, names = None, [SINGLE_FILE]
        else:
            raise WeightsError(
                f"{folder}: no {SINGLE_FILE} and no {INDEX_FILE}; only safetensors are read, "
                "convert other formats with transformers' save_pretrained first"
            )
        lost = [name for name in names if Path(name).name != name or not (folder / name).exists()]
        if lost:
            raise WeightsError(f"{folder}: missing shards {', '.join(lost)}; download them again")
        found: dict[str, str] = {}
        twice = []
        for name in names:
            with safe_open(folder / name, framework="np") as handle:
                for key in handle.keys():  # noqa: SIM118 - not a mapping
                    known = canonical(key)
                    if known in self.where:
                        twice.append(known)
                    self.where[known] = (folder / name, key)
                    self._shapes[known] = tuple(handle.get_slice(key).get_shape())
                    found[key] = name
        problems = [f"twice in the files: {_listing(twice)}"] if twice else []
        if listed is not None and (gone := sorted(set(listed) - set(found))):
            problems.append(f"in {INDEX_FILE} but in no shard: {_listing(gone)}")
        if problems:
            raise WeightsError(f"{folder}: " + "; ".join(problems))

    def shape(self, key: str) -> tuple[int, ...]:
        return self._shapes[key]

    def read(self, key: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        path, name = self.where[key]
        with safe_open(path, framework="np") as handle:
            return handle.get_tensor(name) if index is None else handle.get_slice(name)[index]


def _listing(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _check(files: _Files, table: list[Entry], shapes: dict[str, Any], config: ModelConfig) -> None:
    """Every key of the table is there with its shape, and nothing else is."""
    wanted = {entry.key: their_shape(entry, shapes[entry.name].shape, config) for entry in table}
    problems = []
    if missing := [key for key in wanted if key not in files.where]:
        problems.append(f"missing: {_listing(missing)}")
    if wrong := [
        f"{key} is {files.shape(key)}, expected {shape}"
        for key, shape in wanted.items()
        if key in files.where and files.shape(key) != shape
    ]:
        problems.append(f"wrong shape: {_listing(wrong)}")
    extra = sorted(set(files.where) - set(wanted))
    if HEAD_KEY in extra and EMBED_KEY in files.where:  # a tied model may repeat its embedding
        extra.remove(HEAD_KEY)
        same = files.shape(HEAD_KEY) == files.shape(EMBED_KEY) and np.array_equal(
            files.read(HEAD_KEY), files.read(EMBED_KEY)
        )
        if not same:
            problems.append(
                f"{HEAD_KEY} differs from the embedding although config.json ties them; "
                "set tie_word_embeddings to false"
            )
    if extra:
        problems.append(f"unexpected: {_listing(extra)}")
    if problems:
        raise WeightsError(
            f"{files.folder}: the weights do not match config.json: " + "; ".join(problems)
        )


def _reader(
    files: _Files, group: list[Entry], shape: tuple[int, ...], dtype: Any
) -> Callable[[Any], np.ndarray]:
    """Callback of `jax.make_array_from_callback`: the wanted block of one of our parameters."""

    def read_one(entry: Entry, index: tuple[slice, ...]) -> np.ndarray:
        if entry.kind == "patch":  # small, and its axes interleave: take it whole
            return to_ours(files.read(entry.key), entry.kind)[index]
        theirs = index[::-1] if entry.kind == "transpose" else index
        return to_ours(files.read(entry.key, theirs), entry.kind)

    def read(index: tuple[slice, ...]) -> np.ndarray:
        full = tuple(slice(*part.indices(size)) for part, size in zip(index, shape, strict=True))
        if group[0].offset is None:
            return np.ascontiguousarray(read_one(group[0], full), dtype=dtype)
        layers, rest = range(shape[0])[full[0]], full[1:]
        block = np.empty((len(layers), *(s.stop - s.start for s in rest)), dtype)
        for at, layer in enumerate(layers):
            block[at] = read_one(group[layer], rest)
        return block

    return read


def load_params(
    folder: str | os.PathLike[str],
    config: ModelConfig,
    dtype: Any = None,
    shardings: Any = None,
    int8: bool = False,
) -> dict[str, Any]:
    """Read a folder's safetensors into our tree (nested pure dict of jax arrays).

    Each device's block is read from the files by itself, so no second copy of the model exists.
    With `int8` a kernel of the decoder is quantised and let go before the next is read.

    Args:
        folder: holds model.safetensors, or its shards with an index.
        config: `ModelConfig.from_hf` of the folder's config.json.
        dtype: of the parameters; None keeps what the files hold.
        shardings: tree of `jax.sharding.Sharding` like the parameters; None: the first device.
        int8: the decoder's linear layers in 8 bits (see int8.py).

    Raises:
        WeightsError: keys missing, unexpected or of the wrong shape, all listed together.
    """
    files = _Files(Path(folder))
    table, shapes = entries(config), abstract_params(config)
    if uncovered := sorted(set(shapes) ^ {entry.name for entry in table}):
        raise WeightsError(f"the key table does not cover the model: {_listing(uncovered)}")
    _check(files, table, shapes, config)
    places = {} if shardings is None else flatten(shardings)
    single = SingleDeviceSharding(jax.local_devices()[0])
    groups: dict[str, list[Entry]] = {}
    for entry in table:
        groups.setdefault(entry.name, []).append(entry)
    leaves = {}
    rounded = jax.jit(partial(quantized, axis=-2))
    for name, group in groups.items():
        shape = shapes[name].shape
        of_file = files.read(group[0].key, (slice(0, 1),)).dtype if dtype is None else None
        kind = np.dtype(of_file if dtype is None else dtype)
        place = single if shardings is None else places[name]
        read = _reader(files, group, shape, kind)
        leaves[name] = jax.make_array_from_callback(shape, place, read)
        layer, _, leaf = name.rpartition(".")
        if int8 and leaf == "kernel" and is_decoder_linear(layer):
            leaves[name], leaves[f"{layer}.scale"] = rounded(leaves.pop(name))
    return unflatten(leaves)


def load_model(
    folder: str | os.PathLike[str],
    *,
    dtype: Any = None,
    mesh: Mesh | None = None,
    int8: bool = False,
) -> Model:
    """The model of a Hugging Face folder: its config.json and its safetensors (`load_params`).

    With a mesh its parameters lie where the rules want them (sharding.py), else on one device.

    Raises:
        WeightsError: see `load_params`.
        ShardingError: the mesh cannot hold some parameter.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise WeightsError(not_a_model(folder))
    config = ModelConfig.from_hf(json.loads((folder / "config.json").read_text()))
    model = Model.abstract(config)
    places = None if mesh is None else shardings_of(nnx.state(model, nnx.Param), mesh)
    if int8:
        model = nnx.eval_shape(lambda: quantize(Model(config, nnx.Rngs(0))))
    graph, state = nnx.split(model)
    nnx.replace_by_pure_dict(state, load_params(folder, config, dtype, places, int8))
    return nnx.merge(graph, state)


def published_tensors(
    params: Any, config: ModelConfig
) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """(published key, function that fetches the tensor) for every row of the key table.

    Raises:
        WeightsError: the tree lacks a parameter or has one that the table does not know.
    """
    leaves, table = flatten(params), entries(config)
    shapes = abstract_params(config)
    names = {entry.name for entry in table}
    problems = []
    if missing := sorted(names - set(leaves)):
        problems.append(f"missing: {_listing(missing)}")
    if extra := sorted(set(leaves) - names):
        problems.append(f"unknown (merge adapters first): {_listing(extra)}")
    if wrong := [
        f"{name} is {tuple(leaves[name].shape)}, expected {shapes[name].shape}"
        for name in sorted(names & set(leaves))
        if tuple(leaves[name].shape) != shapes[name].shape
    ]:
        problems.append(f"wrong shape: {_listing(wrong)}")
    if problems:
        raise WeightsError("the parameters do not match the configuration: " + "; ".join(problems))

    def fetch(entry: Entry) -> Callable[[], np.ndarray]:
        def get() -> np.ndarray:
            leaf = leaves[entry.name]
            one = np.asarray(leaf if entry.offset is None else leaf[entry.offset])
            return to_theirs(one, entry.kind, config)

        return get

    for entry in table:
        yield entry.key, fetch(entry)


def write_weights(
    folder: Path, params: Any, config: ModelConfig, dtype: Any, max_shard_bytes: int
) -> None:
    """Write the parameters in the published layout, then reopen and check every key and shape.

    One file, or shards of at most `max_shard_bytes` (a larger tensor gets its own) with an index.
    Only one tensor is held in host memory at a time. `folder` must not hold weights already.
    """
    if list(folder.glob("*.safetensors*")):
        raise WeightsError(f"{folder} already holds weights; choose an empty folder")
    kind = np.dtype(dtype)
    table, shapes = entries(config), abstract_params(config)
    theirs = {entry.key: their_shape(entry, shapes[entry.name].shape, config) for entry in table}
    tensors = dict(published_tensors(params, config))
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    used = total = 0
    for key in tensors:
        size = int(np.prod(theirs[key])) * kind.itemsize
        if shards[-1] and used + size > max_shard_bytes:
            shards.append({})
            used = 0
        shards[-1][key] = theirs[key]
        used, total = used + size, total + size
    weight_map: dict[str, str] = {}
    for at, shard in enumerate(shards):
        name = SINGLE_FILE
        if len(shards) > 1:
            name = f"model-{at + 1:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / name, shard, lambda key: tensors[key](), kind)
        weight_map |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    _check(_Files(folder), table, shapes, config)

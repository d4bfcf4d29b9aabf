"""The strict key table: every tensor of a Qwen3-VL checkpoint and its place in our tree.

One row of `TABLE` loads a tensor, exports it, names its adapter for PEFT and pairs its gradient in
the parity tests. Stacked parameters hold a run of layers; `stage_of` finds a layer in its stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from unirank_jax.config import ModelConfig
from unirank_jax.model import Model

HEAD_KEY = "lm_head.weight"
EMBED_KEY = "model.language_model.embed_tokens.weight"

_BLOCK = "model.visual.blocks.{l}."
_LAYER = "model.language_model.layers.{l}."
_DEEP = "model.visual.deepstack_merger_list.{j}."

# (ours, theirs, kind). {stage} with {l}: a layer of a stacked stage; {j}: a DeepStack merger.
# kind: "plain" as it is, "transpose" (out, in) -> (in, out), "patch" the 3-D convolution.
TABLE: tuple[tuple[str, str, str], ...] = (
    ("vision.patch.kernel", "model.visual.patch_embed.proj.weight", "patch"),
    ("vision.patch.bias", "model.visual.patch_embed.proj.bias", "plain"),
    ("vision.table", "model.visual.pos_embed.weight", "plain"),
    ("vision.{stage}.norm1.scale", _BLOCK + "norm1.weight", "plain"),
    ("vision.{stage}.norm1.bias", _BLOCK + "norm1.bias", "plain"),
    ("vision.{stage}.qkv.kernel", _BLOCK + "attn.qkv.weight", "transpose"),
    ("vision.{stage}.qkv.bias", _BLOCK + "attn.qkv.bias", "plain"),
    ("vision.{stage}.out.kernel", _BLOCK + "attn.proj.weight", "transpose"),
    ("vision.{stage}.out.bias", _BLOCK + "attn.proj.bias", "plain"),
    ("vision.{stage}.norm2.scale", _BLOCK + "norm2.weight", "plain"),
    ("vision.{stage}.norm2.bias", _BLOCK + "norm2.bias", "plain"),
    ("vision.{stage}.up.kernel", _BLOCK + "mlp.linear_fc1.weight", "transpose"),
    ("vision.{stage}.up.bias", _BLOCK + "mlp.linear_fc1.bias", "plain"),
    ("vision.{stage}.down.kernel", _BLOCK + "mlp.linear_fc2.weight", "transpose"),
    ("vision.{stage}.down.bias", _BLOCK + "mlp.linear_fc2.bias", "plain"),
    ("vision.merger.norm.scale", "model.visual.merger.norm.weight", "plain"),
    ("vision.merger.norm.bias", "model.visual.merger.norm.bias", "plain"),
    ("vision.merger.up.kernel", "model.visual.merger.linear_fc1.weight", "transpose"),
    ("vision.merger.up.bias", "model.visual.merger.linear_fc1.bias", "plain"),
    ("vision.merger.down.kernel", "model.visual.merger.linear_fc2.weight", "transpose"),
    ("vision.merger.down.bias", "model.visual.merger.linear_fc2.bias", "plain"),
    ("vision.deepstack_{j}.norm.scale", _DEEP + "norm.weight", "plain"),
    ("vision.deepstack_{j}.norm.bias", _DEEP + "norm.bias", "plain"),
    ("vision.deepstack_{j}.up.kernel", _DEEP + "linear_fc1.weight", "transpose"),
    ("vision.deepstack_{j}.up.bias", _DEEP + "linear_fc1.bias", "plain"),
    ("vision.deepstack_{j}.down.kernel", _DEEP + "linear_fc2.weight", "transpose"),
    ("vision.deepstack_{j}.down.bias", _DEEP + "linear_fc2.bias", "plain"),
    ("text.embed.table", EMBED_KEY, "plain"),
    ("text.{stage}.norm1.scale", _LAYER + "input_layernorm.weight", "plain"),
    ("text.{stage}.q.kernel", _LAYER + "self_attn.q_proj.weight", "transpose"),
    ("text.{stage}.k.kernel", _LAYER + "self_attn.k_proj.weight", "transpose"),
    ("text.{stage}.v.kernel", _LAYER + "self_attn.v_proj.weight", "transpose"),
    ("text.{stage}.o.kernel", _LAYER + "self_attn.o_proj.weight", "transpose"),
    ("text.{stage}.q_norm.scale", _LAYER + "self_attn.q_norm.weight", "plain"),
    ("text.{stage}.k_norm.scale", _LAYER + "self_attn.k_norm.weight", "plain"),
    ("text.{stage}.norm2.scale", _LAYER + "post_attention_layernorm.weight", "plain"),
    ("text.{stage}.gate.kernel", _LAYER + "mlp.gate_proj.weight", "transpose"),
    ("text.{stage}.up.kernel", _LAYER + "mlp.up_proj.weight", "transpose"),
    ("text.{stage}.down.kernel", _LAYER + "mlp.down_proj.weight", "transpose"),
    ("text.norm.scale", "model.language_model.norm.weight", "plain"),
    ("head.table", HEAD_KEY, "plain"),  # only when the head is not tied to the embedding
)

# Spellings of older checkpoints, and of a folder saved without its head: first match wins.
PREFIXES: tuple[tuple[str, str], ...] = (
    ("model.visual.", "model.visual."),
    ("model.language_model.", "model.language_model."),
    ("visual.", "model.visual."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.", "model.language_model."),
    ("lm_head.", "lm_head."),
    ("model.", "model.language_model."),
)


@dataclass(frozen=True)
class Entry:
    """One tensor of the published layout and its place in our tree."""

    name: str  # our dotted path
    offset: int | None  # index on the leading layer axis of a stacked parameter
    key: str  # the published name
    kind: str  # plain, transpose or patch


def stage_of(layer: int, depths: tuple[int, ...]) -> tuple[int, int]:
    """Where global layer `layer` lives: (stage, offset inside the stage)."""
    first = 0
    for stage, depth in enumerate(depths):
        if layer < first + depth:
            return stage, layer - first
        first += depth
    raise ValueError(f"layer {layer} is outside stages of {depths} layers")


def entries(config: ModelConfig) -> list[Entry]:
    """The key table spelled out for one model, stacked parameters layer by layer."""
    out = []
    for ours, theirs, kind in TABLE:
        if ours == "head.table" and config.text.tied:
            continue
        if "{stage}" in ours:
            vision = ours.startswith("vision.")
            depths = config.vision.stage_depths if vision else config.text_stage_depths
            for layer in range(sum(depths)):
                stage, offset = stage_of(layer, depths)
                name = ours.format(stage=f"stage_{stage}")
                out.append(Entry(name, offset, theirs.format(l=layer), kind))
        elif "{j}" in ours:
            for j in range(len(config.vision.deepstack_layers)):
                out.append(Entry(ours.format(j=j), None, theirs.format(j=j), kind))
        else:
            out.append(Entry(ours, None, theirs, kind))
    return out


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves of a parameter tree (pure dict or nnx.State) by dotted path, variables unwrapped."""
    if isinstance(tree, nnx.Module):
        tree = nnx.state(tree, nnx.Param)
    if isinstance(tree, nnx.State):
        tree = nnx.to_pure_dict(tree)
    out: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, Mapping):
            for key, child in node.items():
                walk(child, f"{path}.{key}" if path else str(key))
        elif node is not None:
            out[path] = node.get_value() if isinstance(node, nnx.Variable) else node

    walk(tree, "")
    return out


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The nested pure dict of dotted paths (what `nnx.replace_by_pure_dict` takes)."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        *parents, last = path.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def abstract_params(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of our parameters by dotted path, without adapters."""
    return flatten(nnx.state(Model.abstract(config), nnx.Param))


def to_theirs(array: Any, kind: str, config: ModelConfig) -> Any:
    """One of our tensors in the published orientation; works on numpy and jax arrays."""
    if kind == "transpose":
        return array.T
    if kind == "patch":  # (time, channel * y * x, D) -> (D, channel, time, y, x)
        vision = config.vision
        side = vision.patch_size
        array = array.reshape(array.shape[0], vision.channels, side, side, array.shape[-1])
        return array.transpose(4, 1, 0, 2, 3)
    return array


def to_ours(array: Any, kind: str) -> Any:
    """Inverse of `to_theirs`."""
    if kind == "transpose":
        return array.T
    if kind == "patch":  # (D, channel, time, y, x) -> (time, channel * y * x, D)
        array = array.transpose(2, 1, 3, 4, 0)
        return array.reshape(array.shape[0], -1, array.shape[-1])
    return array


def their_shape(entry: Entry, ours: tuple[int, ...], config: ModelConfig) -> tuple[int, ...]:
    one = ours[1:] if entry.offset is not None else ours
    return to_theirs(np.broadcast_to(np.int8(0), one), entry.kind, config).shape


def canonical(key: str) -> str:
    """A checkpoint's key in today's spelling (see `PREFIXES`)."""
    for old, new in PREFIXES:
        if key.startswith(old):
            return new + key[len(old) :]
    return key

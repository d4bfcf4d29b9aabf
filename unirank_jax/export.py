"""Export folders that transformers, sentence-transformers and PEFT load as they are.

A folder is written beside its place, synced, checked and renamed: it exists whole or not at all.
`save_pretrained` writes a complete model (adapters folded in), `save_adapter` a PEFT adapter.
"""

from __future__ import annotations

import json
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
from unirank_jax.config import ModelConfig
from unirank_jax.content import TextPart
from unirank_jax.hub import WeightsError
from unirank_jax.images import ImageSpec
from unirank_jax.keys import entries
from unirank_jax.manifest import Manifest
from unirank_jax.model import Model
from unirank_jax.prompt import Prompt
from unirank_jax.tokenizer import Tokenizer
from unirank_jax.weights import write_weights

MAX_SHARD_BYTES = 5 << 30
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
# Copied along with tokenizer.json when the source folder has them.
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")
_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
_LOGIT_SCORE = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"


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
        _write(folder / "config.json", raw)
        manifest.write(folder)
        _write_tokenizer(folder, tokenizer_folder, manifest)
        _write_processors(folder, config, manifest)
        _write_sentence_transformers(folder, manifest)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return Path(out)


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8")


def _write_tokenizer(folder: Path, source: Path, manifest: Manifest) -> None:
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    for name in _TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    raw: dict[str, Any] = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    if (source / "tokenizer_config.json").exists():
        raw = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    raw.pop("chat_template", None)  # chat_template.jinja is the one
    raw |= {
        # The class that takes tokenizer.json as it is; Qwen2Tokenizer would rebuild its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "Qwen3VLProcessor",
        "padding_side": "left",
        "model_max_length": manifest.max_tokens,
    }
    _write(folder / "tokenizer_config.json", raw)
    tokenizer = Tokenizer.from_file(folder)
    template = chat_template(tokenizer, manifest)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


_TEMPLATE = """\
{%- macro part(item) -%}
{%- if item.type == "image" -%}
{{- IMAGE -}}
{%- elif item.type == "text" -%}
{{- item.text -}}
{%- else -%}
{{- raise_exception("a reranker prompt holds text and images, not " ~ item.type) -}}
{%- endif -%}
{%- endmacro -%}
{%- macro side(role) -%}
{%- for message in messages if message.role == role -%}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
LOOPS
{%- endif -%}
{%- endfor -%}
{%- endmacro -%}
{%- set given = side("system") -%}
ORDER"""

_QUERY_FIRST = """\
{{- BEFORE -}}{{- given or INSTRUCTION -}}{{- QUERY -}}
{{- side("query") -}}{{- DOCUMENT -}}{{- side("document") -}}{{- AFTER -}}"""

# Processors match pictures to their places in the order of the messages.
_DOCUMENT_FIRST = """\
{%- set seen = namespace(asked=false) -%}
{%- for message in messages if message.content is not string -%}
{%- if message.content | selectattr("type", "equalto", "image") | list -%}
{%- if message.role == "query" -%}{%- set seen.asked = true -%}{%- endif -%}
{%- if message.role == "document" and seen.asked -%}
{{- raise_exception("with images on both sides the document's message goes before the query's") -}}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
{{- DOCUMENT -}}{{- side("document") -}}{{- BEFORE -}}{{- given or INSTRUCTION -}}
{{- QUERY -}}{{- side("query") -}}{{- AFTER -}}"""

_IN_ORDER = """\
{%- for item in message.content -%}{{- part(item) -}}{%- endfor -%}"""

_IMAGES_FIRST = """\
{%- for item in message.content if item.type != "text" -%}{{- part(item) -}}{%- endfor -%}
{%- for item in message.content if item.type == "text" -%}{{- part(item) -}}{%- endfor -%}"""


def chat_template(tokenizer: Tokenizer, manifest: Manifest) -> str:
    """The Jinja template that renders our prompt's bytes for sentence-transformers and others.

    Roles: `query`, `document`, and optionally `system` for another instruction. Its fixed text is
    decoded from the ids of `Prompt` itself. Scoring never runs it: it is for other programs.
    """
    spec = ImageSpec(1, 1, 1, 1)
    prompt = Prompt(tokenizer, manifest.prompt_id, spec, 4096, 64, manifest.label_tokens)
    mark = "0a1b"
    static = tokenizer.decode(prompt.static(mark).tokens)
    asked = tokenizer.decode(prompt.query([TextPart(mark)], mark).tokens)
    colon, after = tokenizer.decode(prompt.candidate([TextPart(mark)], "", 0).tokens).split(mark)
    if prompt.document_first:
        document = static + colon
        before, query, end = (after + asked).split(mark)
        after = end
    else:
        before, query, document = (static + asked).split(mark)
        document += colon
    pieces = {
        "IMAGE": "<|vision_start|><|image_pad|><|vision_end|>",
        "BEFORE": before,
        "INSTRUCTION": manifest.instruction,
        "QUERY": query,
        "DOCUMENT": document,
        "AFTER": after,
    }
    in_order = manifest.prompt_id != "qwen3vl-reranker-1"
    text = _TEMPLATE.replace("LOOPS", _IN_ORDER if in_order else _IMAGES_FIRST)
    text = text.replace("ORDER", _DOCUMENT_FIRST if prompt.document_first else _QUERY_FIRST)
    for name, piece in pieces.items():
        text = text.replace("{{- " + name, "{{- " + json.dumps(piece))
        text = text.replace("or " + name, "or " + json.dumps(piece))
    return text


def _write_processors(folder: Path, config: ModelConfig, manifest: Manifest) -> None:
    vision = config.vision
    token = (vision.patch_size * vision.merge_size) ** 2  # pixels of a visual token
    shared = {
        "processor_class": "Qwen3VLProcessor",
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.merge_size,
        "size": {
            "shortest_edge": manifest.min_visual_tokens * token,
            "longest_edge": manifest.max_visual_tokens * token,
        },
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,
    }
    image = {**shared, "image_processor_type": "Qwen2VLImageProcessor"}
    video = {**shared, "video_processor_type": "Qwen3VLVideoProcessor"}
    _write(folder / "preprocessor_config.json", image)
    _write(folder / "video_preprocessor_config.json", video)  # the processor class asks for one


def _write_sentence_transformers(folder: Path, manifest: Manifest) -> None:
    modules = (("", _TRANSFORMER), ("1_LogitScore", _LOGIT_SCORE))
    listed = [
        {"idx": at, "name": str(at), "path": path, "type": kind}
        for at, (path, kind) in enumerate(modules)
    ]
    _write(folder / "modules.json", listed)
    yes, no = manifest.label_ids
    score = {"true_token_id": yes, "false_token_id": no, "module_input_name": "causal_logits"}
    _write(folder / "1_LogitScore" / "config.json", score)
    forward = {"method": "forward", "method_output_name": "logits"}
    transformer = {
        "transformer_task": "any-to-any",
        "modality_config": {
            "text": forward,
            "image": forward,
            "message": {**forward, "format": "structured"},
        },
        "module_output_name": "causal_logits",
    }
    _write(folder / "sentence_bert_config.json", transformer)
    encoder = {
        "model_type": "CrossEncoder",
        "activation_fn": "torch.nn.modules.linear.Identity",  # logits, as Reranker.logits
        "default_prompt_name": "query",
        "prompts": {"query": manifest.instruction},
    }
    _write(folder / "config_sentence_transformers.json", encoder)


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
        _write(folder / ADAPTER_CONFIG, config)
        tensors = {key: value.astype(np.float32) for key, value in tensors.items()}
        save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
        with safe_open(folder / ADAPTER_FILE, framework="np") as written:
            found = {key: tuple(written.get_slice(key).get_shape()) for key in written.keys()}  # noqa: SIM118
        if found != {key: value.shape for key, value in tensors.items()}:
            raise WeightsError(f"{ADAPTER_FILE} does not hold every adapter; the disk may be full")
        manifest.write(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return Path(out)

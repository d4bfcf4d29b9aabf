"""The files beside the weights of an exported folder: tokenizer and chat template, processors, and
the modules of sentence-transformers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from unirank_jax.config import ModelConfig
from unirank_jax.content import TextPart
from unirank_jax.images import ImageSpec
from unirank_jax.manifest import Manifest
from unirank_jax.prompt import Prompt
from unirank_jax.tokenizer import Tokenizer

# Copied along with tokenizer.json when the source folder has them.
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")
_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
_LOGIT_SCORE = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"


def write_json(file: Path, content: Any) -> None:
    """A JSON file; its folder is made."""
    file.parent.mkdir(exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8")


def write_tokenizer(folder: Path, source: Path, manifest: Manifest) -> None:
    """The tokenizer of `source`, with our chat template."""
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
    write_json(folder / "tokenizer_config.json", raw)
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


def write_processors(folder: Path, config: ModelConfig, manifest: Manifest) -> None:
    """What the processor of transformers needs to cut images as we do."""
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
    write_json(folder / "preprocessor_config.json", image)
    write_json(folder / "video_preprocessor_config.json", video)  # the processor class asks for one


def write_sentence_transformers(folder: Path, manifest: Manifest) -> None:
    """What makes a CrossEncoder of the folder."""
    modules = (("", _TRANSFORMER), ("1_LogitScore", _LOGIT_SCORE))
    listed = [
        {"idx": at, "name": str(at), "path": path, "type": kind}
        for at, (path, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    yes, no = manifest.label_ids
    score = {"true_token_id": yes, "false_token_id": no, "module_input_name": "causal_logits"}
    write_json(folder / "1_LogitScore" / "config.json", score)
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
    write_json(folder / "sentence_bert_config.json", transformer)
    encoder = {
        "model_type": "CrossEncoder",
        "activation_fn": "torch.nn.modules.linear.Identity",  # logits, as Reranker.logits
        "default_prompt_name": "query",
        "prompts": {"query": manifest.instruction},
    }
    write_json(folder / "config_sentence_transformers.json", encoder)

"""The README.md of an exported model: what it is, how to load it, what it was trained on. No JAX.

The front matter has the fields that model hubs index; every number in the text comes from the
manifest or the caller, nothing is filled in by default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unirank_jax.manifest import Manifest


@dataclass(frozen=True)
class Card:
    """What a card needs beside the manifest. Empty fields leave their section out."""

    name: str
    licence: str
    summary: str
    parameters: int
    modalities: Sequence[str]  # of queries and candidates, e.g. ("text", "image")
    training: Mapping[str, str]  # setting -> value, as given by the run's configuration
    data: Sequence[str]  # one line per source: name, size, licence
    results: str  # a Markdown table with the baselines beside the model, or empty
    limits: Sequence[str]  # what it should not be used for
    adapter_of: str | None = None  # the base model's path or id when the folder holds an adapter


_USE = """\
```python
import unirank_jax

reranker = unirank_jax.load("{name}")
scores = reranker.score("a query", ["a passage", {{"image": "figure.png"}}])
```

The same logits from sentence-transformers (identity activation):

```python
from sentence_transformers import CrossEncoder

CrossEncoder("{name}").predict([("a query", "a passage")])
```
"""

_USE_ADAPTER = """\
```python
from peft import PeftModel
from transformers import AutoModelForMultimodalLM

base = AutoModelForMultimodalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{name}")
```
"""

_OTHER_PROGRAMS = (
    "Other programs read control strings such as `<|im_end|>` inside a text as control tokens, may "
    "open a text that looks like a path or an address of an image, and resize images with another "
    "filter. unirank_jax does none of these; equal scores are tested on inputs without them."
)


def render(card: Card, manifest: Manifest) -> str:
    """The Markdown text of README.md."""
    usage = _USE.format(name=card.name)
    if card.adapter_of is not None:
        usage = _USE_ADAPTER.format(base=card.adapter_of, name=card.name)
    sections = [
        _front_matter(card, manifest),
        f"# {card.name}\n\n{card.summary}",
        _table("What it is", _facts(card, manifest)),
        f"## Use\n\n{usage}\n{_OTHER_PROGRAMS}",
        _table("Prompt and budget", _settings(manifest)),
        _table("Training", card.training),
        _list("Training data", card.data),
        f"## Evaluation\n\n{card.results}" if card.results else "",
        _list("Limits", card.limits),
    ]
    return "\n\n".join(section.strip() for section in sections if section.strip()) + "\n"


def _front_matter(card: Card, manifest: Manifest) -> str:
    tags = ["sentence-transformers", "cross-encoder", "reranker", "multimodal", "unirank-jax"]
    lines = [
        "---",
        f"license: {json.dumps(card.licence.lower())}",
        "library_name: " + ("peft" if card.adapter_of else "sentence-transformers"),
        "pipeline_tag: text-ranking",
        *(["base_model: " + json.dumps(manifest.base)] if manifest.base else []),
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
    ]
    return "\n".join(lines)


def _facts(card: Card, manifest: Manifest) -> dict[str, str]:
    base = manifest.base or "trained from scratch"
    if manifest.base and manifest.base_revision:
        base += f" at revision {manifest.base_revision}"
    return {
        "architecture": "Qwen3-VL, score = logit of "
        + f"`{manifest.label_tokens[0]}` minus logit of `{manifest.label_tokens[1]}`",
        "parameters": f"{card.parameters:,}",
        "queries and candidates": ", ".join(card.modalities),
        "base": base,
        "weights": manifest.dtype,
        "licence": card.licence,
    }


def _settings(manifest: Manifest) -> dict[str, str]:
    calibration = manifest.calibration
    fitted = calibration.fit_on or "not fitted"
    return {
        "prompt id": f"`{manifest.prompt_id}`",
        "default instruction": manifest.instruction,
        "visual tokens per image": f"{manifest.min_visual_tokens} to {manifest.max_visual_tokens}",
        "tokens per pair": f"at most {manifest.max_tokens}",
        "tokens of a query's text": f"at most {manifest.max_query_tokens}",
        "calibration": f"sigmoid((logit + {calibration.bias:g}) / {calibration.temperature:g}), "
        f"{fitted}",
    }


def _table(title: str, rows: Mapping[str, str]) -> str:
    if not rows:
        return ""
    body = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items())
    return f"## {title}\n\n| | |\n|---|---|\n{body}"


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _list(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""

"""Our own JSON lines, written from any dataset: {split}.jsonl beside image files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unirank_jax.content import ImagePart, Part
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.formats.writing import Losses, examples, json_line, new_folder, save_image

NAME = "JSON lines"


def write_jsonl(dataset: Dataset, out: Path) -> tuple[str, ...]:
    """Write {split}.jsonl; contents, ids, grades, instructions and splits are kept.

    Returns what cannot be said. Raises WriteError for an image that cannot be read.
    """
    losses = Losses()
    with new_folder(out) as folder:
        for split, example in examples(dataset):
            query, where = example.query, f"query {example.query.qid}"
            if max(example.grades) < query.rel_min:
                losses.add("lists without a relevant candidate are left out", where)
                continue
            if example.missing:
                losses.add("relevant documents missing from the list are not kept", where)
            candidates: list[dict[str, Any]] = []
            for item, grade in zip(example.candidates, example.grades, strict=True):
                if item.source != "user" or item.unit_id != item.did:
                    losses.add("unit_id, family, source and licence are not kept", where)
                content = _content(item.parts, folder, f"item {item.did}")
                about = {"split_id": item.split_id, "kind": item.kind}
                candidates.append({"did": item.did, **content, "grade": grade, **about})
            line: dict[str, Any] = {
                "qid": query.qid,
                "query": _content(query.parts, folder, where),
                "candidates": candidates,
                "split_id": query.split_id,
                "rel_min": query.rel_min,
                "domain": query.domain,
                "kind": query.kind,
            }
            if query.instruction:
                line["instruction"] = query.instruction
            with open(folder / f"{split}.jsonl", "a", encoding="utf-8") as file:
                file.write(json_line({key: value for key, value in line.items() if value != ""}))
    return losses.warnings()


def _content(parts: tuple[Part, ...], folder: Path, where: str) -> dict[str, Any]:
    """A text, an image, or parts; a dict with both would say no more than parts."""
    values: list[dict[str, str]] = [
        {"image": save_image(part, folder, where)}
        if isinstance(part, ImagePart)
        else {"text": part.text}
        for part in parts
    ]
    return values[0] if len(values) == 1 else {"parts": values}

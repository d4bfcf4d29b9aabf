"""Stand-ins: texts for images, for the baseline that sees everything as text.

They lie in a side file of a dataset, beside the records and outside the content hash: lines of
`{"did": ..., "text": ...}` in the order of the ids, compressed. No stand-in repeats what a query
asks with, and several images may share one: both belong to the baseline.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unirank_jax.datasets.dataset import META_NAME, Dataset, DatasetError
from unirank_jax.datasets.records import SPLITS, Item

FILE = "stand_ins.jsonl.gz"
META_KEY = "stand_ins"


def of_items(items: Iterable[Item], by_unit: Mapping[str, str]) -> dict[str, str]:
    """did -> text of the items that hold an image; `by_unit` has one text for a whole unit."""
    return {
        item.did: by_unit[item.unit_id]
        for item in items
        if item.modality != "text" and by_unit.get(item.unit_id)
    }


def write(folder: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    """Write the side file (under a temporary name first); returns its entry for meta.json."""
    lines = [
        json.dumps({"did": did, "text": texts[did]}, ensure_ascii=False) for did in sorted(texts)
    ]
    data = "".join(line + "\n" for line in lines).encode()
    _replace(folder / FILE, gzip.compress(data, 9, mtime=0))
    return {"sha256": hashlib.sha256(data).hexdigest(), "items": len(lines)}


def add(dataset: Dataset, by_unit: Mapping[str, str]) -> dict[str, Any]:
    """Write the side file of a stored dataset and enter it in meta.json, which is returned.

    Records and content hash stay. Raises DatasetError where none of its images has a text.
    """
    path = dataset.path / META_NAME
    items = (item for split in SPLITS for item in dataset.items_of(split))
    texts = of_items(items, by_unit)
    if not texts:
        raise DatasetError(f"{dataset.path}: no stand-in fits its images; is it this builder's?")
    meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    meta[META_KEY] = write(dataset.path, texts)
    _replace(path, (json.dumps(meta, indent=1) + "\n").encode())
    return meta


def read(dataset: Dataset) -> dict[str, str]:
    """did -> text, from the folder of a dataset.

    Raises DatasetError where there is no side file, a line is not valid, or (in a built dataset)
    the file is not the one that meta.json names.
    """
    folder = dataset.path if dataset.path.is_dir() else dataset.path.parent
    path = folder / FILE
    remedy = "build them again (`python -m unirank_jax.datasets.build`)"
    try:
        data = gzip.decompress(path.read_bytes())
        lines = [json.loads(line) for line in data.decode("utf-8").splitlines()]
        texts = {str(line["did"]): str(line["text"]) for line in lines}
    except FileNotFoundError:
        raise DatasetError(
            f"{path}: missing, so images have no text that stands for them; {remedy}, or for data "
            'of your own write lines of {"did": ..., "text": ...} and compress them with gzip'
        ) from None
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error!r}); {remedy}") from None
    if (folder / META_NAME).is_file():
        meta = json.loads((folder / META_NAME).read_text(encoding="utf-8"))
        expected = meta.get(META_KEY, {}).get("sha256")
        if hashlib.sha256(data).hexdigest() != expected:
            raise DatasetError(f"{path}: not the stand-ins that {META_NAME} names; {remedy}")
    return texts


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)

"""From a path or a hub id to a local model folder. No JAX here.

Only JSON, safetensors, text and template files are fetched: never code, never pickles.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path


class WeightsError(ValueError):
    """Files and model do not match; the message lists every tensor that is wrong."""


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]


def not_a_model(folder: Path) -> str:
    """Why a folder is no model, naming the way out for a training run's folder."""
    parts = (folder, folder.parent, folder.parent.parent)
    if any((part / "checkpoints").is_dir() or part.name == "checkpoints" for part in parts):
        return (
            f"{folder} is a training folder, not a model; "
            "export it first: python -m train.export --workdir DIR --out FOLDER"
        )
    return f"{folder}: no config.json; give a Hugging Face folder or a hub id such as owner/name"


def resolve(
    path_or_id: str | os.PathLike[str],
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local folder of a model: a path as it is, a hub id through the hub's cache.

    From the hub only JSON, safetensors, text and template files are taken, never code or pickles.

    Raises:
        WeightsError: neither a model folder nor a hub id; a training folder names `train.export`.
    """
    folder = Path(path_or_id)
    if folder.exists():
        if not (folder / "config.json").exists() or (folder / "checkpoints").is_dir():
            raise WeightsError(not_a_model(folder))
        return folder
    if not isinstance(path_or_id, str) or not _HUB_ID.fullmatch(path_or_id):
        raise WeightsError(f"{folder} does not exist, and is no hub id of the form owner/name")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise WeightsError(
            f"{path_or_id} is a hub id, and huggingface_hub is not installed; "
            "install it, or give a local folder"
        ) from None
    return Path(
        snapshot_download(
            path_or_id,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=_HUB_FILES,
        )
    )


def fingerprint(folder: Path) -> str:
    """SHA-256 over a model's weights and manifest, 16 digits."""
    found = hashlib.sha256()
    names = [*sorted(folder.glob("*.safetensors")), folder / "unirank.json"]
    for path in (name for name in names if name.exists()):
        with open(path, "rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]

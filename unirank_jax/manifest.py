"""`unirank.json`: what a folder's weights need to be used as they were trained. No JAX here.

Prompt version, instruction, label words, image budget, calibration and origin travel with every
export and every checkpoint. A folder without the file is a published model (`Manifest.published`).
"""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from unirank_jax.calibration import IDENTITY, Calibration
from unirank_jax.prompt import DEFAULT_INSTRUCTION, PROMPT_IDS
from unirank_jax.tokenizer import Tokenizer

FILE = "unirank.json"
FORMAT = 1
LABEL_TOKENS = ("yes", "no")
# The published scripts: 4 to 1800 visual tokens per image, 10,240 tokens per pair. They bound no
# query; ours leaves a candidate at least half of the prompt.
_MIN_VISUAL, _MAX_VISUAL, _MAX_TOKENS, _MAX_QUERY = 4, 1800, 10240, 4096


class ManifestError(ValueError):
    """A `unirank.json` that cannot be honoured; the message lists every problem."""


@dataclass(frozen=True)
class Manifest:
    """The content of `unirank.json`. Token counts are per image, per pair and per query text."""

    prompt_id: str
    instruction: str
    label_tokens: tuple[str, str]
    label_ids: tuple[int, int]
    min_visual_tokens: int
    max_visual_tokens: int
    max_tokens: int
    max_query_tokens: int
    calibration: Calibration
    base: str | None
    base_revision: str | None
    dtype: str
    train_config_hash: str | None

    def __post_init__(self) -> None:
        checks = (
            (self.prompt_id in PROMPT_IDS, f"prompt_id {self.prompt_id!r} is unknown"),
            (len(self.label_tokens) == 2, "label_tokens must be two words"),
            (len(set(self.label_ids)) == 2, "label_ids must be two different ids"),
            (
                1 <= self.min_visual_tokens <= self.max_visual_tokens,
                "min_visual_tokens must lie between 1 and max_visual_tokens",
            ),
            (self.calibration.temperature > 0, "calibration.temperature must be positive"),
        )
        if problems := [message for good, message in checks if not good]:
            raise ManifestError(
                "; ".join(problems) + f"; this package knows the prompts {', '.join(PROMPT_IDS)}"
            )

    def with_calibration(self, calibration: Calibration) -> Manifest:
        return replace(self, calibration=calibration)

    def to_json(self) -> dict[str, Any]:
        """The JSON object, `format` first."""
        return {"format": FORMAT, **asdict(self)}

    def write(self, folder: str | os.PathLike[str]) -> None:
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"
        (Path(folder) / FILE).write_text(text, encoding="utf-8")

    @staticmethod
    def from_json(raw: dict[str, Any]) -> Manifest:
        """Inverse of `to_json`.

        Raises:
            ManifestError: another format, or fields that are missing or unknown, all listed.
        """
        if raw.get("format") != FORMAT:
            raise ManifestError(
                f"format is {raw.get('format')!r}, this package reads {FORMAT}; "
                "use the version of unirank_jax that wrote the file"
            )
        values = {key: value for key, value in raw.items() if key != "format"}
        calibration = values.get("calibration")
        if not isinstance(calibration, dict):
            calibration = {}
        problems = _field_problems(values, Manifest, "")
        problems += _field_problems(calibration, Calibration, "calibration.")
        if problems:
            raise ManifestError("; ".join(problems))
        values["calibration"] = Calibration(**calibration)
        values["label_tokens"] = tuple(values["label_tokens"])
        values["label_ids"] = tuple(values["label_ids"])
        return Manifest(**values)

    @staticmethod
    def read(folder: str | os.PathLike[str]) -> Manifest:
        """The manifest of a model folder; a folder without the file is a published model.

        Raises:
            ManifestError: as `from_json`, with the file's path.
        """
        file = Path(folder) / FILE
        if not file.exists():
            return Manifest.published(folder)
        try:
            return Manifest.from_json(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:  # not JSON, or ManifestError
            raise ManifestError(f"{file}: {error}") from error

    @staticmethod
    def published(folder: str | os.PathLike[str]) -> Manifest:
        """What the published scripts use; the image budget is the folder's own where it has one."""
        folder = Path(folder)
        config = _json(folder / "config.json")
        least, most = _visual_budget(_json(folder / "preprocessor_config.json"))
        tokenizer = Tokenizer.from_file(folder)
        yes, no = (tokenizer.single(word) for word in LABEL_TOKENS)
        return Manifest(
            prompt_id="qwen3vl-reranker-1",
            instruction=DEFAULT_INSTRUCTION,
            label_tokens=LABEL_TOKENS,
            label_ids=(yes, no),
            min_visual_tokens=least,
            max_visual_tokens=most,
            max_tokens=_MAX_TOKENS,
            max_query_tokens=_MAX_QUERY,
            calibration=IDENTITY,
            base=config.get("_name_or_path") or folder.name,
            base_revision=None,
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            train_config_hash=None,
        )


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _visual_budget(raw: dict[str, Any]) -> tuple[int, int]:
    """Visual tokens of one image from a preprocessor_config.json, in any of its spellings."""
    size = raw.get("size") or {}
    least = raw.get("min_pixels") or size.get("min_pixels") or size.get("shortest_edge")
    most = raw.get("max_pixels") or size.get("max_pixels") or size.get("longest_edge")
    token = (raw.get("patch_size", 16) * raw.get("merge_size", 2)) ** 2  # pixels
    return (
        max(1, least // token) if least else _MIN_VISUAL,
        max(1, most // token) if most else _MAX_VISUAL,
    )


def _field_problems(found: dict[str, Any], kind: Any, where: str) -> list[str]:
    known = [field.name for field in fields(kind)]
    problems = [f"{where}{name} is missing" for name in known if name not in found]
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            problems.append(f"{where}{name} is unknown{hint}")
    return problems

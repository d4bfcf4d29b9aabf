"""What a run reads and what travels with what it writes: its data, its prompt, unirank.json."""

from __future__ import annotations

from pathlib import Path

from train.config import ConfigError, digest
from train.initial import Start
from train.settings import DataSettings, TrainConfig
from unirank_jax.calibration import IDENTITY
from unirank_jax.datasets.dataset import Dataset, open_source, sources
from unirank_jax.datasets.forms import in_form
from unirank_jax.datasets.overlay import overlaid
from unirank_jax.datasets.union import Union
from unirank_jax.images import ImageSpec
from unirank_jax.manifest import LABEL_TOKENS, Manifest
from unirank_jax.prompt import DEFAULT_INSTRUCTION, Prompt
from unirank_jax.tokenizer import Tokenizer


def open_data(settings: DataSettings, spec: ImageSpec) -> Dataset:
    """The dataset of a run: its lists or those of files for training, candidates in their form.

    Raises:
        ConfigError: more files than sources.
        DatasetError: data, lists or stand-ins that cannot be read.
    """
    parts = [open_source(part) for part in sources(settings.source)]
    files = [settings.lists] if Path(settings.lists).exists() else settings.lists.split(",")
    if len(files) > len(parts):
        raise ConfigError(
            f"data.lists: {len(files)} files for {len(parts)} of data.source; give one for each "
            "source, with commas, empty where a source has its own lists"
        )
    for n, file in enumerate(files):
        if file:
            parts[n] = overlaid(parts[n], settings.train_split, file, own=settings.own_candidates)
    return in_form(parts[0] if len(parts) == 1 else Union(parts), settings.form, spec)


def make_prompt(config: TrainConfig, start: Start) -> Prompt:
    """The prompt of a run."""
    data, vision = config.data, start.config.vision
    spec = ImageSpec(
        vision.patch_size, vision.merge_size, data.min_visual_tokens, data.max_visual_tokens
    )
    return Prompt(
        Tokenizer.from_file(start.tokenizer),
        data.prompt_id,
        spec,
        data.max_tokens,
        data.max_query_tokens,
        instruction=data.instruction or DEFAULT_INSTRUCTION,
    )


def manifest(config: TrainConfig, prompt: Prompt, start: Start) -> Manifest:
    """What travels with every checkpoint and export of this run."""
    return Manifest(
        prompt_id=config.data.prompt_id,
        instruction=prompt.instruction,
        label_tokens=LABEL_TOKENS,
        label_ids=prompt.label_ids,
        min_visual_tokens=config.data.min_visual_tokens,
        max_visual_tokens=config.data.max_visual_tokens,
        max_tokens=config.data.max_tokens,
        max_query_tokens=config.data.max_query_tokens,
        calibration=IDENTITY,
        base=start.name,
        base_revision=None,
        dtype="float32",
        train_config_hash=digest(config),
    )

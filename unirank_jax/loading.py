"""`load` a model, and score with the embedded one without loading anything by hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from unirank_jax import hub, sharding
from unirank_jax.images import ImageSpec
from unirank_jax.intake import OnError
from unirank_jax.layers import Compute
from unirank_jax.manifest import Manifest
from unirank_jax.prompt import Prompt
from unirank_jax.ranked import Ranked
from unirank_jax.reranker import Reranker
from unirank_jax.scoring_config import ScoringConfig
from unirank_jax.tokenizer import Tokenizer
from unirank_jax.weights import load_model

DEFAULT_FOLDER = Path(__file__).parent / "assets" / "default"


def load(
    path_or_id: str | os.PathLike[str],
    *,
    dtype: Any = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    scoring: ScoringConfig | None = None,
    mesh: Mesh | None = None,
) -> Reranker:
    """A reranker from a Hugging Face folder or hub id, e.g. "Qwen/Qwen3-VL-Reranker-2B".

    Args:
        dtype: of parameters and activations; default bfloat16 on accelerators, float32 on a CPU.
            Norms, softmax, label head and scores are float32 in any case.
        revision, token, local_files_only: passed to the hub.
        scoring: how scoring runs, and whether in 8 bits.
        mesh: devices to spread the weights over where one is too small, all computing every batch:
            `sharding.mesh(1, 1, 4, jax.devices()[:4])` splits heads and widths over four. None:
            the first device.

    Raises:
        WeightsError: no such model, or tensors that do not fit; a training folder names the export.
        ShardingError: a parameter does not divide over the mesh.
        ConfigError, ManifestError: a configuration that cannot be honoured.
    """
    folder = hub.resolve(path_or_id, revision, token, local_files_only)
    manifest = Manifest.read(folder)
    if dtype is None:
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    scoring = scoring or ScoringConfig()
    model = load_model(folder, dtype=dtype, mesh=mesh, int8=scoring.quantize == "int8")
    vision = model.config.vision
    spec = ImageSpec(
        vision.patch_size,
        vision.merge_size,
        manifest.min_visual_tokens,
        manifest.max_visual_tokens,
    )
    prompt = Prompt(
        Tokenizer.from_file(folder),
        manifest.prompt_id,
        spec,
        manifest.max_tokens,
        manifest.max_query_tokens,
        manifest.label_tokens,
        manifest.instruction,
    )
    if mesh is None:
        mesh = sharding.mesh(1, 1, 1, list(jax.tree.leaves(nnx.state(model))[0].devices()))
    compute = Compute(dtype=np.dtype(dtype).name, mesh=mesh)
    return Reranker(model, prompt, manifest, folder, compute, scoring)


@lru_cache(maxsize=1)
def default() -> Reranker:
    """The embedded reranker, for trying out: it knows small molecules and some software figures."""
    return load(DEFAULT_FOLDER)


def score(
    query: Any,
    candidates: Sequence[Any],
    *,
    model: Reranker | None = None,
    instruction: str | None = None,
) -> np.ndarray:
    """Calibrated relevance of every candidate to the query: float32 (N,), input order.

    Without `model` the embedded default reranker answers; see `load` for others. Raises as
    `Reranker.score`.
    """
    return (model or default()).score(query, candidates, instruction=instruction)


def rank(
    query: Any,
    candidates: Sequence[Any],
    *,
    model: Reranker | None = None,
    instruction: str | None = None,
    on_error: OnError = "raise",
) -> list[Ranked]:
    """Candidates from best to worst; see `Reranker.rank`."""
    chosen = model or default()
    return chosen.rank(query, candidates, instruction=instruction, on_error=on_error)

"""The public face: `load` a model, then `score` or `rank` hybrid candidates for a query.

Content is checked and encoded here, the engine scores it, and every candidate gets its own result:
logit, calibrated score, whether text was cut, and its own error if it has one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx

from unirank_jax import hub
from unirank_jax.engine import Engine
from unirank_jax.export import save_pretrained
from unirank_jax.images import ImageSpec
from unirank_jax.int8 import Int8Error, is_quantized
from unirank_jax.intake import OnError, Outcome, portions
from unirank_jax.layers import Compute
from unirank_jax.manifest import Manifest
from unirank_jax.model import Model
from unirank_jax.model_card import Card, render
from unirank_jax.prompt import Prompt
from unirank_jax.tokenizer import Tokenizer
from unirank_jax.weights import load_model

PORTION = 4  # batches whose candidates are sorted by length together
DEFAULT_FOLDER = Path(__file__).parent / "assets" / "default"


@dataclass(frozen=True)
class ScoringConfig:
    """How scoring runs; only `quantize` changes a score.

    Attributes:
        token_budget: tokens of one batch; None is 2,048 on a CPU (its caches are small) and 16,384
            on accelerators.
        cache_bytes: host memory for the features of pictures that were seen; 0 = none are kept.
        workers: threads that decode, resize and tokenise while the device computes.
        quantize: "int8" loads the decoder's linear layers in 8 bits and multiplies in 8 bits (see
            int8.py): a quarter of their float32 memory, a half of bfloat16, and faster where the
            hardware has it. Such a model only scores: it cannot be saved or trained.
    """

    token_budget: int | None = None
    cache_bytes: int = 256 * 2**20
    workers: int = min(8, os.cpu_count() or 1)
    quantize: Literal["int8"] | None = None

    def __post_init__(self) -> None:
        least = {"token_budget": 1, "cache_bytes": 0, "workers": 1}
        for name, bound in least.items():
            if getattr(self, name) is not None and getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least {bound}")
        if self.quantize not in (None, "int8"):
            raise ValueError(f"quantize is {self.quantize!r}; choose 'int8' or None")


@dataclass(frozen=True)
class Ranked:
    """One candidate in rank order. A failed candidate has NaN numbers and an `error`."""

    index: int
    score: float
    logit: float
    truncated: bool
    error: str | None


class Reranker:
    """A model ready to score. Build it with `load`.

    A query or candidate is a `str` (always text), a PIL image, encoded image bytes,
    `{"text": .., "image": ..}`, or a list of such parts (one interleaved content).
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        manifest: Manifest,
        source: Path,
        compute: Compute,
        scoring: ScoringConfig,
    ) -> None:
        self.prompt, self.manifest, self.source = prompt, manifest, source
        self.scoring = scoring
        if (scoring.quantize == "int8") != is_quantized(model):
            raise Int8Error(
                f"quantize is {scoring.quantize!r}, but the weights are not so; give it to load()"
            )
        budget = scoring.token_budget
        if budget is None:
            budget = 2048 if jax.default_backend() == "cpu" else 16384
        self.engine = Engine(model, prompt.label_ids, compute, budget, scoring.cache_bytes)

    def logits(
        self,
        query: Any,
        candidates: Sequence[Any],
        *,
        instruction: str | None = None,
        on_error: OnError = "raise",
    ) -> np.ndarray:
        """z_yes - z_no per candidate, uncalibrated: float32 (N,), input order.

        Raises:
            ContentError: bad content, naming its place and the remedy. With `on_error="nan"` a bad
                candidate gives NaN instead; a bad query always raises.
        """
        return self._run([query], [candidates], instruction, on_error)[0].logits

    def score(
        self,
        query: Any,
        candidates: Sequence[Any],
        *,
        instruction: str | None = None,
        on_error: OnError = "raise",
    ) -> np.ndarray:
        """Calibrated relevance in [0, 1] per candidate: float32 (N,), input order.

        score = sigmoid((logit + bias) / temperature). Warns with `TruncationWarning` when text was
        cut. Raises as `logits`.
        """
        result = self._run([query], [candidates], instruction, on_error)[0]
        result.warn()
        return self.calibrate(result.logits)

    def score_many(
        self,
        queries: Sequence[Any],
        candidate_lists: Sequence[Sequence[Any]],
        *,
        instruction: str | Sequence[str | None] | None = None,
        on_error: OnError = "raise",
    ) -> list[np.ndarray]:
        """`score` of many queries at once, batched over queries: one float32 (N_i,) each."""
        results = self._run(queries, candidate_lists, instruction, on_error)
        for result in results:
            result.warn()
        return [self.calibrate(result.logits) for result in results]

    def logits_many(
        self,
        queries: Sequence[Any],
        candidate_lists: Sequence[Sequence[Any]],
        *,
        instruction: str | Sequence[str | None] | None = None,
        on_error: OnError = "raise",
    ) -> list[np.ndarray]:
        """`logits` of many queries at once."""
        results = self._run(queries, candidate_lists, instruction, on_error)
        return [result.logits for result in results]

    def rank(
        self,
        query: Any,
        candidates: Sequence[Any],
        *,
        instruction: str | None = None,
        on_error: OnError = "raise",
    ) -> list[Ranked]:
        """Candidates from best to worst by logit, ties by index, failed ones last."""
        result = self._run([query], [candidates], instruction, on_error)[0]
        scores = self.calibrate(result.logits)
        keys = np.where(np.isnan(result.logits), -np.inf, result.logits)
        failed = [error is not None for error in result.errors]
        order = sorted(range(len(keys)), key=lambda i: (failed[i], -keys[i], i))
        return [
            Ranked(
                i,
                float(scores[i]),
                float(result.logits[i]),
                result.truncated[i],
                result.errors[i],
            )
            for i in order
        ]

    def calibrate(self, logits: np.ndarray) -> np.ndarray:
        """sigmoid((logit + bias) / temperature), float32."""
        return self.manifest.calibration.scores(logits).astype(np.float32)

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: Any = None) -> Path:
        """Write a Hugging Face folder (see `unirank_jax.export`); `dtype` defaults to that of the
        loaded weights.

        Raises:
            WeightsError: the folder is not empty, or the weights are in 8 bits.
        """
        model = self.engine.model
        chosen = model.head_table.dtype if dtype is None else dtype
        readme = self.source / "README.md"
        card = readme.read_text("utf-8") if readme.exists() else self._card(Path(folder).name)
        return save_pretrained(folder, model, self.manifest, self.source, card, dtype=chosen)

    def _card(self, name: str) -> str:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.engine.model)))
        card = Card(
            name=name,
            licence="apache-2.0",
            summary=f"A copy of `{self.manifest.base}`, written by unirank_jax.",
            parameters=parameters,
            modalities=("text", "image"),
            training={},
            data=(),
            results="",
            limits=(),
        )
        return render(card, self.manifest)

    def _run(
        self,
        queries: Sequence[Any],
        candidate_lists: Sequence[Sequence[Any]],
        instruction: str | Sequence[str | None] | None,
        on_error: OnError,
    ) -> list[Outcome]:
        if on_error not in ("raise", "nan"):
            raise ValueError(f"on_error is {on_error!r}; choose 'raise' or 'nan'")
        if len(queries) != len(candidate_lists):
            raise ValueError(
                f"{len(queries)} queries and {len(candidate_lists)} candidate lists; "
                "give one list per query"
            )
        many = len(queries) != 1
        spoken = (
            [instruction] * len(queries)
            if instruction is None or isinstance(instruction, str)
            else list(instruction)
        )
        outcomes = [
            Outcome.empty(candidates, f"candidates[{at}]" if many else "candidates")
            for at, candidates in enumerate(candidate_lists)
        ]
        leads = [f"queries[{at}]" for at in range(len(queries))] if many else ["query"]
        asked = list(zip(leads, queries, spoken, candidate_lists, strict=True))
        works = portions(
            self.prompt,
            asked,
            outcomes,
            on_error,
            self.scoring.workers,
            PORTION * self.engine.token_budget,
        )
        sizes = [len(outcome.errors) for outcome in outcomes]
        logits = self.engine.logits(works, sum(sizes))
        for outcome, end in zip(outcomes, np.cumsum(sizes), strict=True):
            outcome.logits = logits[end - len(outcome.errors) : end]
        return outcomes


def load(
    path_or_id: str | os.PathLike[str],
    *,
    dtype: Any = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    scoring: ScoringConfig | None = None,
) -> Reranker:
    """A reranker from a Hugging Face folder or hub id, e.g. "Qwen/Qwen3-VL-Reranker-2B".

    Args:
        dtype: of parameters and activations; default bfloat16 on accelerators, float32 on a CPU.
            Norms, softmax, label head and scores are float32 in any case.
        revision, token, local_files_only: passed to the hub.
        scoring: how scoring runs, and whether in 8 bits.

    Raises:
        WeightsError: no such model, or tensors that do not fit; a training folder names the export.
        ConfigError, ManifestError: a configuration that cannot be honoured.
    """
    folder = hub.resolve(path_or_id, revision, token, local_files_only)
    manifest = Manifest.read(folder)
    if dtype is None:
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    scoring = scoring or ScoringConfig()
    model = load_model(folder, dtype=dtype, int8=scoring.quantize == "int8")
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
    compute = Compute(dtype=np.dtype(dtype).name)
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

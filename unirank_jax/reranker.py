"""The public face: a `Reranker` scores or ranks hybrid candidates for a query; see `load`.

Content is checked and encoded here, the engine scores it, and every candidate gets its own result:
logit, calibrated score, whether text was cut, and its own error if it has one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import jax
import numpy as np
from flax import nnx

from unirank_jax import hub, made_up
from unirank_jax.engine import Engine
from unirank_jax.export import save_pretrained
from unirank_jax.feature_cache import FeatureCache
from unirank_jax.indexing import build, shape_of
from unirank_jax.int8 import Int8Error, is_quantized
from unirank_jax.intake import OnError, Outcome, portions
from unirank_jax.layers import Compute
from unirank_jax.manifest import Manifest
from unirank_jax.model import Model
from unirank_jax.model_card import Card, render
from unirank_jax.programs import keep_programs
from unirank_jax.prompt import DOCUMENT_FIRST, Prompt
from unirank_jax.ranked import Ranked, ranked
from unirank_jax.scoring_config import ScoringConfig
from unirank_jax.store import Store, StoreError

PORTION = 4  # batches whose candidates are dealt out together ...
FILLED = 0.92  # ... and how full they are: with no room to spare there would be a fifth


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
        if scoring.compile_cache is not None:
            keep_programs(Path(scoring.compile_cache))
        folder = None
        if scoring.cache_folder is not None:
            folder = Path(scoring.cache_folder) / f"{self._fingerprint}-{compute.dtype}"
        features = FeatureCache(scoring.cache_bytes, folder)
        first = prompt.document_first
        self.engine = Engine(model, prompt.label_ids, compute, budget, features, first)
        self._process = f"process-{uuid4().hex}"  # names the stores that stay in memory

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
        """Candidates from best to worst by logit, ties by index, failed ones last.

        With `ScoringConfig.cascade` in two passes; `Ranked.full` tells which candidates were seen
        as they are, and those stand before the others. Raises as `logits`.
        """
        cascade = self.scoring.cascade
        if cascade is None:
            outcome = self._run([query], [candidates], instruction, on_error)[0]
            return ranked(outcome, self.manifest.calibration)
        small = self.prompt.with_visual_tokens(cascade.visual_tokens)
        first = self._run([query], [candidates], instruction, on_error, small)[0]
        best = [i for i in first.best() if first.errors[i] is None][: cascade.top]
        second = self._run([query], [[candidates[i] for i in best]], instruction, on_error)[0]
        logits = dict(zip(best, second.logits.tolist(), strict=True))
        for place, index in enumerate(best):
            first.errors[index] = second.errors[place]
            first.truncated[index] |= second.truncated[place]
        return ranked(first, self.manifest.calibration, logits)

    def calibrate(self, logits: np.ndarray) -> np.ndarray:
        """sigmoid((logit + bias) / temperature), float32."""
        return self.manifest.calibration.scores(logits).astype(np.float32)

    def warmup(
        self,
        queries: Sequence[Any] = (),
        candidate_lists: Sequence[Sequence[Any]] = (),
        *,
        rounds: int = 4,
    ) -> int:
        """Compile the programs that lists like these need, so that the first query does not wait.

        Without lists, 32 candidates of made-up texts and pictures stand for them. Scores them until
        nothing is compiled any more, at most `rounds` times: pictures that were seen once run in
        other programs than new ones.

        Returns:
            How many programs were compiled, or read from `ScoringConfig.compile_cache`.
        """
        if not queries:
            queries, candidate_lists = [made_up.QUERY], [made_up.candidates()]
        before = self.engine.programs
        for _ in range(rounds):
            count = self.engine.programs
            self.logits_many(queries, candidate_lists, on_error="nan")
            if self.engine.programs == count:
                break
        return self.engine.programs - before

    def index(
        self,
        items: Sequence[Any],
        *,
        folder: str | os.PathLike[str] | None = None,
        budget_bytes: int | None = None,
        int8: bool = False,
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> Store:
        """Keys and values of a corpus, so that a query costs its own tokens alone.

        The items of the store are candidates like any content: `score(query, store)`,
        `rank(query, [store[3], "a text"])`. Needs a model with the document first.

        Args:
            folder: where the store is kept on disk; calling again goes on where it stopped. Without
                one it is in memory.
            budget_bytes: items that do not fit any more are computed anew each time.
            int8: keep a quarter of the bytes (of float32), rounded to 255 steps.
            on_error: with "nan" an item that cannot be encoded has its own error.
            progress: show a bar.

        Raises:
            ContentError: a bad item, by its place.
            StoreError: the folder holds another store, or the model reads the query first.
        """
        if not self.prompt.document_first:
            raise StoreError(
                f"with the prompt {self.prompt.prompt_id} the query comes first, and what the "
                "model makes of a candidate depends on it; train a model with "
                f"data.prompt_id={DOCUMENT_FIRST}"
            )
        _check_on_error(on_error)
        return build(
            self.engine,
            self.prompt,
            items,
            self._process if folder is None else self._fingerprint,
            folder=None if folder is None else Path(folder),
            budget_bytes=budget_bytes,
            int8=int8,
            workers=self.scoring.workers,
            on_error=on_error,
            progress=progress,
        )

    def open_store(self, folder: str | os.PathLike[str]) -> Store:
        """The store that `index` wrote to a folder; entries are read when they are used.

        Raises:
            StoreError: no store, a damaged one, or that of another model.
        """
        store = Store.open(folder, jax.numpy.dtype(self.engine.compute.dtype))
        same = store.model == self._fingerprint
        if not same or store.shape != shape_of(self.engine, store.shape.int8):
            raise StoreError(f"{folder}: the store of another model; index the items with this one")
        return store

    @cached_property
    def _fingerprint(self) -> str:
        return hub.fingerprint(self.source)

    def _accepts(self, model: str) -> bool:
        return model == self._process or model == self._fingerprint

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
        prompt: Prompt | None = None,
    ) -> list[Outcome]:
        _check_on_error(on_error)
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
        batch = FILLED * self.engine.token_budget
        works = portions(
            prompt or self.prompt,
            asked,
            outcomes,
            on_error,
            self.scoring.workers,
            int(PORTION * batch),
            self._accepts,
            # A CPU computes longer than it waits; dealing out more saves it padding.
            None if jax.default_backend() == "cpu" else int(batch),
        )
        sizes = [len(outcome.errors) for outcome in outcomes]
        logits = self.engine.logits(works, sum(sizes))
        for outcome, end in zip(outcomes, np.cumsum(sizes), strict=True):
            outcome.logits = logits[end - len(outcome.errors) : end]
        return outcomes


def _check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "nan"):
        raise ValueError(f"on_error is {on_error!r}; choose 'raise' or 'nan'")

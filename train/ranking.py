"""The objective of stage 1 over lists, and its evaluation on a split while a run goes on.

The same scores serve both: the label logits of every candidate, arranged by list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from train import adversary, losses
from train.data import Encoder, Micro, evaluation_batches, plan_settings
from train.judging import cut, judged
from train.overlap import OVERLAP, PICTURES, Overlap, picture_rows
from train.plan import Chosen, EvaluationPlan, PlanSettings
from train.settings import TrainConfig
from train.sizes import Index, cached_index
from train.step import Layout, Params, TrainState
from unirank_jax import sharding
from unirank_jax.config import ModelConfig
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.layers import Compute
from unirank_jax.metrics import Judged, measure
from unirank_jax.model import label_logits, score, states, vocabulary_logits
from unirank_jax.prompt import Prompt

METRICS = ("hit@1", "mrr@10", "ndcg@10")
ADVERSARY = "adversary"


@dataclass(frozen=True)
class RankingObjective:
    """The weighted losses of stage 1 over lists."""

    layout: Layout
    label_ids: tuple[int, int]
    config: TrainConfig
    mesh: Mesh | None = None  # None: all of JAX's devices
    overlap: Overlap | None = None  # for the loss of that name

    @property
    def compute(self) -> Compute:
        model = self.config.model
        return Compute(model.compute_dtype, model.remat, model.unroll, mesh=self.mesh)

    def __call__(self, params: Params, micro: Micro) -> tuple[dict[str, Any], dict[str, Any]]:
        model = self.layout.model(adversary.network(params))
        extra: dict[str, Any] = {}
        dense: dict[str, losses.Pair] = {}
        if self.overlap is None and PICTURES not in self.config.loss:
            hidden = states(model, micro.batch, self.compute)  # (S, B, D)
        else:
            every = states(model, micro.batch, self.compute, "all")  # (S, B, T, D)
            logits = label_logits(model, every, self.label_ids)
            last = jnp.maximum(micro.batch.rows.lengths - 1, 0)[..., None, None]
            hidden = jnp.take_along_axis(every, last, axis=2)[:, :, 0]
            if self.overlap is not None:
                dense[OVERLAP], extra["overlap_right"] = self.overlap.terms(logits, micro.batch)
            if PICTURES in self.config.loss:
                dense[PICTURES], extra["first_picture"] = self._pictures(logits, micro)
        scores = losses.Scores(label_logits(model, hidden, self.label_ids))
        if "vocab_ce" in self.config.loss:
            log_shares = jax.nn.log_softmax(vocabulary_logits(model, hidden))
            scores = scores._replace(
                yes=log_shares[..., self.label_ids[0]], no=log_shares[..., self.label_ids[1]]
            )
        lists = self._arrange(scores, micro)
        pairs = lists.mask.sum().astype(jnp.float32)
        extra |= {**losses.diagnostics(lists), "pairs": (pairs, jnp.float32(1))}
        terms = self._terms(lists) | dense
        if ADVERSARY in self.config.loss:
            terms[ADVERSARY], extra["adversary_right"] = adversary.terms(params, hidden, micro)
        return terms, extra

    def counts(self, micro: Micro) -> dict[str, jax.Array]:
        nothing = jnp.zeros(micro.batch.rows.lengths.shape, jnp.float32)
        lists = self._arrange(losses.Scores(nothing, nothing, nothing), micro)
        counts = {name: count for name, (_, count) in self._terms(lists).items()}
        if ADVERSARY in self.config.loss:
            counts[ADVERSARY] = lists.mask.sum().astype(jnp.float32)
        if self.overlap is not None:
            counts[OVERLAP] = self.overlap.count(micro.batch)
        if PICTURES in self.config.loss:
            nowhere = jnp.zeros(micro.batch.rows.tokens.shape, jnp.float32)
            counts[PICTURES] = self._pictures(nowhere, micro)[0][1]
        return counts

    def scores(self, params: Params, micro: Micro) -> jax.Array:
        """Logits of every slot, (S, G, C), for evaluation."""
        model = self.layout.model(adversary.network(params))
        rows = score(model, micro.batch, self.label_ids, self.compute)
        return self._arrange(losses.Scores(rows), micro).logits

    def _pictures(self, logits: jax.Array, micro: Micro) -> tuple[losses.Pair, losses.Pair]:
        """Listwise cross-entropy and Hit@1 among the candidates that show a picture, by what the
        tokens of their pictures say: logits (S, B, T)."""
        mean, shown = picture_rows(logits, micro.batch)
        lists = self._arrange(losses.Scores(mean, shown.astype(jnp.float32)), micro)
        assert lists.yes is not None
        mask = lists.mask & (lists.yes > 0)
        lists = lists._replace(
            mask=mask,
            relevant=lists.relevant & mask,
            target=jnp.where(mask, lists.target, 0.0),
            yes=None,
        )
        return losses.softmax(lists, 0.0), losses.diagnostics(lists)["hit@1"]

    def _arrange(self, scores: losses.Scores, micro: Micro) -> losses.Lists:
        known = micro.signals
        preferences, teacher = (None, None) if known is None else (known.preferences, known.reward)
        kind, top = self.config.target, self.config.max_grade
        return losses.arrange(scores, micro.targets, kind, top, preferences, teacher)

    def _terms(self, lists: losses.Lists) -> dict[str, losses.Pair]:
        names = tuple(name for name in self.config.loss if name in losses.TERMS)
        return losses.terms(lists, names, self.config.label_smoothing)


def make_evaluation(
    config: TrainConfig,
    objective: RankingObjective,
    dataset: Dataset,
    prompt: Prompt,
    model: ModelConfig,
    mesh: Mesh,
    workdir: Path,
    frozen: Params,
) -> Callable[[TrainState], dict[str, float]] | None:
    """state -> Hit@1, MRR@10, nDCG@10 (means over query kinds, and `hit@1/KIND`)."""
    wanted = config.evaluation
    if wanted.every_steps == 0 or wanted.split not in dataset.splits:
        if wanted.every_steps:
            print(f"no evaluation: the dataset has no lists in split {wanted.split!r}")
        return None
    training = plan_settings(config, mesh, prompt)
    count = max(1, training.lists * training.list_size // wanted.list_size)
    settings = replace(
        training, micro_batches=1, chunks=1, lists=count, list_size=wanted.list_size, buckets=2
    )
    index = cached_index(dataset, wanted.split, prompt, workdir / "cache")
    plan = EvaluationPlan(index, settings, wanted.lists)
    encoder = Encoder(dataset, index, prompt, model, settings)
    chosen_lists = [one for batch in plan.batches for shard in batch[0] for one in shard]
    lists_judged = {one.number: _judged(dataset, wanted.split, index, one) for one in chosen_lists}

    score_batch = _scoring(objective, mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        found: list[np.ndarray] = []
        lists: list[Judged] = []
        data = config.data
        batches = evaluation_batches(plan, encoder, mesh, data.workers, data.prefetch)
        for micro, shards in batches:
            scores = np.asarray(score_batch(state.trainable, frozen, micro))
            for s, some in enumerate(shards):
                for g, one in enumerate(some):
                    found.append(scores[s, g, : len(one.slots)])
                    lists.append(lists_judged[one.number])
        return by_kind(found, lists)

    return evaluate


def logits_of(
    objective: RankingObjective,
    params: Params,
    encoder: Encoder,
    training: PlanSettings,
    mesh: Mesh,
) -> np.ndarray:
    """Logits of all candidates of all lists that have a relevant one: (N,) float32 parallel to
    `Index.items`, NaN for the rest."""
    index = encoder.index
    longest = int(np.diff(index.starts).max())
    count = max(1, training.lists * training.list_size // longest)
    settings = replace(
        training, micro_batches=1, chunks=1, lists=count, list_size=longest, buckets=4
    )
    plan = EvaluationPlan(index, settings, len(index))
    whole = Encoder(encoder.dataset, index, encoder.prompt, encoder.config, settings)
    score_batch = _scoring(objective, mesh)
    found = np.full(len(index.items), np.nan, np.float32)
    batches = evaluation_batches(plan, whole, mesh, workers=2, prefetch=4)
    for micro, shards in tqdm(batches, total=len(plan), desc="logits of stage 1", unit="batch"):
        scores = np.asarray(score_batch(params, {}, micro))
        for s, some in enumerate(shards):
            for g, one in enumerate(some):
                found[one.slots] = scores[s, g, : len(one.slots)]
    return np.where(index.grades >= 0, found, np.nan)


def _scoring(objective: RankingObjective, mesh: Mesh) -> Callable[..., jax.Array]:
    """Jitted: trained and frozen parameters and a batch with M = 1 -> logits (S, G, C)."""

    @jax.jit
    def score_batch(params: Params, frozen: Params, micro: Micro) -> jax.Array:
        one = jax.tree.map(lambda x: x[0], micro)
        scores = objective.scores({**frozen, **params}, one)
        return jax.lax.with_sharding_constraint(scores, sharding.replicated(mesh))

    return score_batch


def _judged(dataset: Dataset, split: str, index: Index, chosen: Chosen) -> Judged:
    """The judgements of a list as `train.evaluate` reads them, cut to the slots of the plan."""
    places = chosen.slots - index.starts[chosen.number]
    return cut(judged(dataset.example(split, chosen.number)), places.tolist())


def by_kind(scores: list[np.ndarray], lists: list[Judged]) -> dict[str, float]:
    """Means over query kinds of each metric, Hit@1 of each kind, and the number of queries."""
    table = measure(scores, lists, METRICS)
    kinds = np.array([one.kind for one in lists])
    of_kind = {
        name: {kind: float(values[kinds == kind].mean()) for kind in sorted(set(kinds.tolist()))}
        for name, values in table.items()
    }
    result = {name: float(np.mean(list(values.values()))) for name, values in of_kind.items()}
    result |= {f"hit@1/{kind}": value for kind, value in of_kind["hit@1"].items()}
    return result | {"queries": float(len(lists))}

"""The dual encoder of the pretraining as a scorer: the cosine of two embeddings, no cross-reading.

It embeds queries and candidates apart, just as `train.contrast` trains them to be compared; a
cross-encoder that starts from the same weights has to beat it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from train.baselines import DualEncoder
from unirank_jax.batch import Batch, Bucket
from unirank_jax.datasets.records import Item, Query
from unirank_jax.layers import Compute
from unirank_jax.model import Model, embeddings, encode_images, prefix_cache
from unirank_jax.packing import needs, pack
from unirank_jax.prompt import Encoded, Prompt
from unirank_jax.reranker import Reranker
from unirank_jax.text import Prefix

ROWS = 32  # contents per batch
STEP = 32  # token and patch sizes are multiples of this


def dual_encoder(reranker: Reranker) -> DualEncoder:
    """The scorer of a pretrained model; its folder is loaded as a reranker."""
    embedder = Embedder(reranker)
    return DualEncoder(embedder.queries, embedder.items)


class Embedder:
    """Embeds queries and items apart, with the prompts of a model."""

    def __init__(self, reranker: Reranker) -> None:
        self.prompt: Prompt = reranker.prompt
        if self.prompt.document_first:
            raise ValueError(
                f"{reranker.source}: a dual encoder needs a prompt with the query first, not "
                f"{self.prompt.prompt_id}; give a folder that train.pretrain made"
            )
        self.config = reranker.engine.config
        graph, self.state = nnx.split(reranker.engine.model)
        self.embed = jax.jit(partial(_embed, graph, reranker.engine.compute))

    def queries(self, queries: Sequence[Query]) -> np.ndarray:
        """(n, E) float32."""
        rows = []
        for query in queries:
            static = self.prompt.static(query.instruction)
            own = self.prompt.query(query.parts, query.instruction, f"query {query.qid}")
            rows.append((static, own, len(own.tokens)))
        return self._all(rows)

    def items(self, items: Sequence[Item]) -> np.ndarray:
        """(n, E) float32."""
        nothing = Encoded(np.zeros(0, np.int32), (), False, "")
        rows = []
        for item in items:
            row = self.prompt.candidate(item.parts, f"candidate {item.did}", 0)
            rows.append((nothing, row, len(row.tokens) - self.prompt.suffix_length))
        return self._all(rows)

    def _all(self, rows: list[tuple[Encoded, Encoded, int]]) -> np.ndarray:
        """Similar lengths together; the prefix of a row is its static prompt, or empty."""
        order = sorted(range(len(rows)), key=lambda i: (bool(rows[i][1].images), rows[i][2], i))
        found: dict[int, np.ndarray] = {}
        for start in tqdm(range(0, len(order), ROWS), desc="embedding", unit="batch", delay=5):
            chosen = order[start : start + ROWS]
            prefixes = {rows[i][0].tokens.tobytes(): rows[i][0] for i in chosen}
            index = {key: at for at, key in enumerate(prefixes)}
            candidates = [rows[i][1] for i in chosen]
            need = needs(list(prefixes.values()), candidates)
            bucket = Bucket(
                prefixes=max(2, need.prefixes),
                prefix_tokens=_up(need.prefix_tokens),
                rows=ROWS,
                tokens=_up(need.tokens),
                images=ROWS if need.images else 0,
                patches=_up(need.patches),
            )
            at = [index[rows[i][0].tokens.tobytes()] for i in chosen]
            batch = pack(self.config, list(prefixes.values()), candidates, at, bucket)
            lengths = np.zeros((ROWS,), np.int32)
            lengths[: len(chosen)] = [rows[i][2] for i in chosen]
            vectors = np.asarray(self.embed(self.state, batch, lengths))
            found |= dict(zip(chosen, vectors, strict=False))
        return np.stack([found[i] for i in range(len(rows))])


def _embed(graph: Any, compute: Compute, state: Any, batch: Batch, lengths: Any) -> jax.Array:
    model: Model = nnx.merge(graph, state)
    shard = jax.tree.map(lambda x: x[0], batch)
    features = encode_images(model, shard.images, compute)
    prefixes = []
    if shard.prefix.tokens.shape[-1]:
        static = prefix_cache(model, shard.prefix, None, compute)
        prefixes.append(Prefix(static, shard.prefix_index))
    cache = prefix_cache(model, shard.rows, features, compute, prefixes)
    return embeddings(cache, jnp.arange(shard.rows.tokens.shape[-1]) < lengths[:, None])


def _up(size: int) -> int:
    return -(-size // STEP) * STEP

"""Other ways to score the same pairs with the same weights: transformers, sentence-transformers.

transformers gets the token ids and patches that our prompt makes, so preparing them costs both
sides the same; pairs are sorted by length and padded on the left, as its users do.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import torchvision_ops
from benchmarks.workloads import Workload
from unirank_jax.content import parse
from unirank_jax.prompt import Encoded
from unirank_jax.reranker import Reranker

torchvision_ops.declare()  # before transformers looks for it
from transformers import Qwen3VLForConditionalGeneration  # noqa: E402


class Transformers:
    """Batched scoring with `Qwen3VLForConditionalGeneration` (sdpa attention)."""

    def __init__(
        self,
        folder: Path,
        ours: Reranker,
        batch: int,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        self.prompt, self.batch, self.device = ours.prompt, batch, device
        self.workers = ours.scoring.workers
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa"
        ).eval()
        self.model.to(device)

    def __call__(self, workload: Workload) -> np.ndarray:
        """Logits of all pairs in order, float32."""
        asked = []
        for query, candidates in zip(workload.queries, workload.lists, strict=True):
            prefix = self.prompt.prefix(parse(query, "query"))
            asked += [(prefix, candidate) for candidate in candidates]

        def encoded(pair: tuple[Encoded, Any]) -> tuple[Encoded, Encoded]:
            prefix, parts = pair[0], parse(pair[1], "candidate")
            return prefix, self.prompt.candidate(parts, "candidate", len(prefix.tokens))

        with ThreadPoolExecutor(self.workers) as pool:  # as ours
            pairs = list(pool.map(encoded, asked))
        lengths = [len(prefix.tokens) + len(row.tokens) for prefix, row in pairs]
        order = np.argsort(lengths, kind="stable")[::-1]
        logits = np.zeros(len(pairs), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), self.batch):
                some = order[start : start + self.batch]
                logits[some] = self._forward([pairs[i] for i in some])
        return logits

    def _forward(self, pairs: Sequence[tuple[Encoded, Encoded]]) -> np.ndarray:
        tokens = [np.concatenate([prefix.tokens, row.tokens]) for prefix, row in pairs]
        width = max(map(len, tokens))
        ids = np.zeros((len(tokens), width), np.int64)
        mask = np.zeros_like(ids)
        for at, row_tokens in enumerate(tokens):
            ids[at, width - len(row_tokens) :] = row_tokens
            mask[at, width - len(row_tokens) :] = 1
        images = [image for pair in pairs for side in pair for image in side.images]
        inputs: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids).to(self.device),
            "attention_mask": torch.from_numpy(mask).to(self.device),
            "mm_token_type_ids": torch.from_numpy((ids == self.prompt.image_token_id) * 1),
        }
        inputs["mm_token_type_ids"] = inputs["mm_token_type_ids"].to(self.device)
        if images:
            vision = self.model.config.vision_config
            pixels = torch.from_numpy(np.concatenate([image.pixels for image in images]))
            pixels = pixels.to(self.device)  # as bytes: the floats are made there
            frames = pixels.float().reshape(len(pixels), vision.in_channels, 1, -1) / 127.5 - 1.0
            frames = frames.expand(-1, -1, vision.temporal_patch_size, -1)
            inputs["pixel_values"] = frames.reshape(len(pixels), -1)
            inputs["image_grid_thw"] = torch.tensor([(1, *image.grid) for image in images]).to(
                self.device
            )
        last = self.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]
        yes, no = self.prompt.label_ids
        return (last[:, yes].float() - last[:, no].float()).cpu().numpy()


class SentenceTransformers:
    """`CrossEncoder.predict` (identity activation) with its own prompt template and processor."""

    def __init__(self, folder: Path, batch: int) -> None:
        from sentence_transformers import CrossEncoder

        self.model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        self.batch = batch

    def __call__(self, workload: Workload) -> np.ndarray:
        """Logits of all pairs in order, float32."""
        pairs = [
            (query, candidate)
            for query, candidates in zip(workload.queries, workload.lists, strict=True)
            for candidate in candidates
        ]
        found = self.model.predict(pairs, batch_size=self.batch, show_progress_bar=False)
        return np.asarray(found, np.float32)

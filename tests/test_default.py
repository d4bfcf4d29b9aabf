"""The embedded default reranker answers right after install, and answers sensibly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import unirank_jax
from train.evaluation import content, evaluate_scores, examples_of, reranker_scorer
from unirank_jax.datasets.dataset import sample
from unirank_jax.datasets.records import split_of
from unirank_jax.loading import default

ASSETS = Path(unirank_jax.__file__).parent / "assets"
MOST_BYTES = 12 << 20


@pytest.mark.parametrize("name", ["base", "default"])
def test_assets_are_small_and_say_where_they_come_from(name: str) -> None:
    folder = ASSETS / name
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= MOST_BYTES
    manifest = json.loads((folder / "unirank.json").read_text("utf-8"))
    assert manifest["prompt_id"] == "unirank-native-1" and manifest["dtype"] == "bfloat16"
    assert "content hash" in (folder / "README.md").read_text("utf-8")


def test_it_ranks_held_out_lists_far_above_chance() -> None:
    dataset = sample("sci")
    examples = examples_of(dataset, "test", 120)
    assert all(split_of(example.query.split_id) == "test" for example in examples)
    found = evaluate_scores(examples, reranker_scorer(default())(examples))
    print({name: round(value, 3) for name, value in found.items() if name.endswith("hit@1")})
    assert found["micro/hit@1"] > 0.4  # chance is 0.06
    assert found["positive/image/hit@1"] > 0.35  # lists whose only answer is an image: 0.05


def test_score_works_without_a_model() -> None:
    dataset = sample("sci")
    example = dataset.example("test", 0)
    scores = unirank_jax.score(
        content(example.query.parts), [content(item.parts) for item in example.candidates]
    )
    assert scores.shape == (20,) and np.isfinite(scores).all()
    assert ((scores > 0) & (scores < 1)).all() and scores.std() > 0

"""Evaluation during a run gives the numbers of `train.evaluate`, missing candidates included."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from train.config import load
from train.evaluation import evaluate_scores, examples_of
from train.initial import open_start
from train.inputs import make_prompt
from train.ranking import METRICS, make_evaluation
from unirank_jax import sharding
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.overlay import Overlay
from unirank_jax.datasets.records import RankList


class Waves:
    """Stands in for the objective: a score that depends on the list and the place in the batch."""

    def scores(self, params, micro):
        places = jnp.arange(micro.targets.grade.shape[-1])
        return jnp.sin(2.0 * micro.targets.list_id[..., None] + 3.0 * places)


@pytest.fixture(scope="module")
def missed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    """Four lists: whole, a relevant candidate missing, all missing, and one unjudged."""
    root = tmp_path_factory.mktemp("ranking")
    data = Dataset.open(tiny_run.dataset_folder(root / "data"))
    lists = []
    for ranked, grades, missing in zip(
        data.lists("valid"),
        ((0, 0, 0, 0, 1), (0, 1, 0, 0, 2), (0, 0, 0, 0, 0), (-1, 0, 0, 0, 1)),
        ((), (1,), (2, 1), (1, 1, 1)),
        strict=True,
    ):
        lists.append(RankList(ranked.qid, ranked.dids, grades, ("",) * 5, missing))
    return Overlay(data, {"valid": lists}), tiny_run.model_folder(root / "model")


def test_a_run_and_the_command_agree(missed: tuple[Dataset, Path], tmp_path: Path) -> None:
    data, folder = missed
    settings = tiny_run.settings(data.path, folder, batch__lists=8)
    config = load(str(tiny_run.ROOT / "configs" / "sci.py"), settings)
    start = open_start(config.model, 0)
    mesh = sharding.mesh(8, 1, 1)
    prompt = make_prompt(config, start)
    state = SimpleNamespace(trainable={})
    evaluate = make_evaluation(
        config, Waves(), data, prompt, start.config, mesh, tmp_path, frozen={}
    )
    found = evaluate(state)

    examples = examples_of(data, "valid")
    scores = []
    for number, example in enumerate(examples):
        relevant = np.array(example.grades) >= 1  # they come first in the plan
        values = np.empty(5, np.float32)
        values[np.argsort(~relevant, kind="stable")] = np.sin(2.0 * number + 3.0 * np.arange(5))
        scores.append(values)
    expected = evaluate_scores(examples, scores)
    assert found["queries"] == expected["queries"] == 4
    for metric in METRICS:
        assert found[metric] == pytest.approx(expected[f"macro/{metric}"], abs=1e-6), metric


def test_candidates_that_the_plan_cuts_off_count_as_missing(
    missed: tuple[Dataset, Path], tmp_path: Path
) -> None:
    data, folder = missed
    whole = [RankList(r.qid, r.dids, (0, 1, 1, 2, 1), ("",) * 5) for r in data.lists("valid")]
    settings = tiny_run.settings(data.path, folder, batch__lists=8, evaluation__list_size=2)
    config = load(str(tiny_run.ROOT / "configs" / "sci.py"), settings)
    start = open_start(config.model, 0)
    evaluate = make_evaluation(
        config,
        Waves(),
        Overlay(data, {"valid": whole}),
        make_prompt(config, start),
        start.config,
        sharding.mesh(8, 1, 1),
        tmp_path,
        frozen={},
    )
    found = evaluate(SimpleNamespace(trainable={}))
    assert found["hit@1"] == 1.0, "the relevant ones are kept"
    assert found["ndcg@10"] < 0.8, "but the best of them was cut off"

"""The training benchmark compares two forms of one update: same gradients, and it can tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_run

from benchmarks import training

SIZES = ("--candidates", "3", "--candidate-tokens", "6", "--image-tokens", "4", "--rounds", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.model_folder(tmp_path_factory.mktemp("benchmark") / "model")


def test_it_runs_and_both_forms_have_the_same_gradient(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "training.json"
    training.main(["--model", str(folder), "--groups", "2", *SIZES, "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["largest_difference"] <= training.TOLERANCE, found["where_it_is"]
    assert 0 < found["needed_flop"]
    shared, repeated = (found["forms"][form] for form in (training.SHARED, training.REPEATED))
    before, own = found["tokens_of_prefix"], found["tokens_of_candidate"]
    assert shared["computed_tokens"] == 2 * (before + 3 * own)
    assert repeated["computed_tokens"] == 2 * 3 * (before + own)
    assert found["losses"][training.SHARED] == pytest.approx(
        found["losses"][training.REPEATED], rel=1e-6
    )


def test_another_query_gives_another_gradient(folder: Path) -> None:
    """The comparison is no empty one: a query that differs between the forms stands out, and
    gradients are unclipped, since clipping would hide a factor between the forms."""
    arguments = training._parser().parse_args(["--model", str(folder), "--groups", "2", *SIZES])
    config = training.settings(folder, arguments)
    trial, beta1 = training.Trial(config), config.optimizer.beta1
    groups = training.make_groups(trial.prompt, arguments)
    (first, some), (second, others) = groups
    swapped = [(second, some), (first, others)]
    gradients = []
    for lists in (groups, swapped):
        batch = trial.place(training.micro_batch(trial.model, lists, shared=True))
        state, metrics = trial.update(trial.fresh(), batch)
        gradients.append(trial.gradient(state))
        length = np.sqrt(sum(np.square(value).sum() for value in gradients[-1].values()))
        assert length == pytest.approx((1 - beta1) * float(metrics["grad_norm"]), rel=1e-4)
    differences = training.relative_differences(*gradients)
    assert differences["text.stage_2.q.kernel"] > 100 * training.TOLERANCE
    assert all(np.abs(value).max() > 0 for value in gradients[0].values())


def test_candidates_have_the_wanted_length(folder: Path) -> None:
    arguments = training._parser().parse_args(["--model", str(folder), *SIZES])
    prompt = training.Trial(training.settings(folder, arguments)).prompt
    groups = training.make_groups(prompt, arguments)
    empty = len(groups[0][1][0].tokens) - 6
    assert {len(row.tokens) for _, rows in groups for row in rows} == {empty + 6}
    assert groups[0][0].tokens.tolist().count(prompt.image_token_id) == 4

"""The gradient of every parameter equals torch's in fp32, with and without the shared prefix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from parity_models import (
    LAYOUTS,
    Twin,
    exact_arithmetic,
    gradient_errors,
    make_twin,
    mixed_pairs,
    our_gradients,
    pack_pairs,
    tiny_config,
    torch_gradients,
)

from unirank_jax.layers import Compute

TOLERANCE = 1e-4  # of the largest entry of the tensor's gradient

CONFIGS = {
    "tied": tiny_config(),
    "untied, DeepStack into every layer": tiny_config(tied=False, text_depth=2),
}


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    with exact_arithmetic():
        yield


@pytest.fixture(scope="module", params=CONFIGS)
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return make_twin(CONFIGS[request.param], tmp_path_factory.mktemp("model"))


def loss_weights(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=count).astype(np.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_equal_torch(twin: Twin, layout: str) -> None:
    pairs = mixed_pairs(twin.config)
    weights = loss_weights(len(pairs))
    expected = torch_gradients(twin.theirs, pairs, weights)
    batch = pack_pairs(twin.config, pairs, **LAYOUTS[layout])
    errors = gradient_errors(our_gradients(twin.ours, batch, weights), expected)
    wrong = {key: error for key, error in errors.items() if not error < TOLERANCE}
    assert not wrong, wrong
    # Nothing is trivially right: the only zero gradients are those of a last DeepStack input,
    # which reaches image tokens after the last layer and therefore no label.
    silent = {key for key, value in expected.items() if not np.abs(value).max()}
    last = len(twin.config.vision.deepstack_layers) - 1
    reached = last + 1 < twin.config.text.depth
    assert all(not reached and f"deepstack_merger_list.{last}." in key for key in silent), silent


def test_rematerialised_gradients_are_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    twin = make_twin(CONFIGS["tied"], tmp_path_factory.mktemp("remat"), seed=5)
    pairs = mixed_pairs(twin.config)
    weights = loss_weights(len(pairs))
    expected = torch_gradients(twin.theirs, pairs, weights)
    batch = pack_pairs(twin.config, pairs, shared=True)
    found = our_gradients(twin.ours, batch, weights, Compute(remat="full"))
    assert max(gradient_errors(found, expected).values()) < TOLERANCE

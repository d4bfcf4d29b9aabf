"""Label logits equal transformers' in fp32, whatever the layout of the batch.

Odd image sizes, several images, image first, text only; tied and untied; DeepStack at unequal
layers, as many as decoder layers, and none; with and without the shared prefix.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
import pytest
from flax import nnx
from parity_models import (
    LABEL_IDS,
    LAYOUTS,
    Twin,
    exact_arithmetic,
    expected_logits,
    logit_error,
    make_twin,
    mixed_pairs,
    our_logits,
    pack_pairs,
    tiny_config,
    torch_logits,
)

from unirank_jax.layers import Compute
from unirank_jax.model import Model, label_states, score, vocabulary_logits

TOLERANCE = 1e-5  # of the logits' standard deviation

CONFIGS = {
    "tied": tiny_config(),
    "untied, DeepStack into every layer": tiny_config(tied=False, text_depth=2),
    "one DeepStack layer": tiny_config(text_depth=4, deepstack_layers=(1,)),
    "no DeepStack": tiny_config(deepstack_layers=(), text_depth=2, vision_depth=2),
}


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    with exact_arithmetic():
        yield


@pytest.fixture(scope="module", params=CONFIGS)
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return make_twin(CONFIGS[request.param], tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_equal_transformers(twin: Twin, layout: str) -> None:
    pairs = mixed_pairs(twin.config)
    expected = expected_logits(twin, pairs)
    found = our_logits(twin.ours, pack_pairs(twin.config, pairs, **LAYOUTS[layout]), len(pairs))
    assert logit_error(found, expected) < TOLERANCE


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return make_twin(CONFIGS["tied"], tmp_path_factory.mktemp("tied"), seed=3)


def test_text_only_batch_has_no_tower(tied: Twin) -> None:
    """A bucket without image slots runs no vision code and gives the same logits."""
    pairs = [pair for pair in mixed_pairs(tied.config) if not (pair[0] + pair[1]).images]
    batch = pack_pairs(tied.config, pairs, shared=True)
    assert len(pairs) == 2 and batch.images.patches.shape[1] == 0
    spread = expected_logits(tied, mixed_pairs(tied.config)).std()
    expected = np.array([float(logit.detach()) for logit in torch_logits(tied.theirs, pairs)])
    found = our_logits(tied.ours, batch, len(pairs))
    assert np.abs(found - expected).max() < TOLERANCE * spread


def test_order_and_padding_do_not_change_a_logit(tied: Twin) -> None:
    pairs = mixed_pairs(tied.config)
    together = our_logits(tied.ours, pack_pairs(tied.config, pairs, shared=True), len(pairs))
    turned = our_logits(tied.ours, pack_pairs(tied.config, pairs[::-1], shared=True), len(pairs))
    alone = our_logits(tied.ours, pack_pairs(tied.config, pairs[3:4], shared=True), 1)
    scale = together.std()
    assert np.abs(turned[::-1] - together).max() < TOLERANCE * scale
    assert np.abs(alone - together[3]).max() < TOLERANCE * scale


@pytest.mark.parametrize(
    "compute", [Compute(remat="dots"), Compute(remat="full"), Compute(unroll=True)], ids=str
)
def test_how_it_runs_does_not_change_the_logits(tied: Twin, compute: Compute) -> None:
    pairs = mixed_pairs(tied.config)
    batch = pack_pairs(tied.config, pairs, shared=True)
    graph, state = nnx.split(tied.ours)

    def run(state: nnx.State) -> jax.Array:
        return score(nnx.merge(graph, state), batch, LABEL_IDS, compute)

    found = np.asarray(jax.jit(run)(state))[0, : len(pairs)]
    assert logit_error(found, expected_logits(tied, pairs)) < TOLERANCE


def test_label_head_is_a_difference_of_vocabulary_rows(tied: Twin) -> None:
    pairs = mixed_pairs(tied.config)[:1]
    batch = pack_pairs(tied.config, pairs, shared=False)
    shard = jax.tree.map(lambda array: array[0], batch)
    model: Model = tied.ours
    full = vocabulary_logits(model, label_states(model, shard, Compute()))[0]
    found = our_logits(model, batch, 1)[0]
    assert abs(float(full[LABEL_IDS[0]] - full[LABEL_IDS[1]]) - found) < 1e-4

"""The policy over orders against enumeration: probabilities, expectations, divergences."""

from __future__ import annotations

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.policy import (
    at_ranks,
    before,
    bernoulli_divergence,
    discounts,
    entropy,
    expected_ranks,
    first_place_divergence,
    first_relevant_rewards,
    log_shares,
    order_divergence,
    placement_log_probabilities,
    preference_rewards,
    rank_rewards,
    sample_orders,
)
from unirank_jax.metrics import Judged, measure

TAU = 1.7
LOGITS = jnp.array([[1.2, -0.4, 3.0, 0.1, -2.2]])
REFERENCE = jnp.array([[0.2, 0.9, 1.0, -1.0, -0.2]])
ALL = jnp.ones((1, 5), bool)
ORDERS = jnp.array([list(permutations(range(5)))])  # (1, 120, 5)


def probabilities(logits: jax.Array, mask: jax.Array = ALL) -> jax.Array:
    """Of all orders: (1, 120)."""
    return jnp.exp(placement_log_probabilities(logits, mask, ORDERS, TAU).sum(-1))


def test_probabilities_of_all_orders_sum_to_one() -> None:
    assert probabilities(LOGITS).sum() == pytest.approx(1.0, abs=1e-6)


def test_samples_occur_as_often_as_they_should() -> None:
    """Within 5 standard deviations each of 120 orders in 200,000 draws."""
    draws = 200_000
    orders = np.asarray(sample_orders(jax.random.key(0), LOGITS, ALL, draws, TAU))[0]
    code = (orders * 5 ** np.arange(5)).sum(-1)
    wanted = (np.asarray(ORDERS)[0] * 5 ** np.arange(5)).sum(-1)
    found = np.array([(code == one).sum() for one in wanted])
    expected = np.asarray(probabilities(LOGITS))[0].astype(np.float64)
    assert found.sum() == draws
    deviation = np.sqrt(draws * expected * (1 - expected))
    assert (np.abs(found - draws * expected) < 5 * deviation + 1).all()


def test_pairs_ranks_and_first_places_have_closed_forms() -> None:
    weights = np.asarray(probabilities(LOGITS))[0]
    rank = np.argsort(np.asarray(ORDERS)[0], axis=-1)
    for i in range(5):
        first = weights[rank[:, i] == 0].sum()
        assert jnp.exp(log_shares(LOGITS, ALL, TAU))[0, i] == pytest.approx(first, abs=1e-6)
        mean = (weights * (rank[:, i] + 1)).sum()
        assert expected_ranks(LOGITS, ALL, TAU)[0, i] == pytest.approx(mean, abs=1e-5)
        for j in range(5):
            if i != j:
                share = weights[rank[:, i] < rank[:, j]].sum()
                assert before(LOGITS, TAU)[0, i, j] == pytest.approx(share, abs=1e-6)
    shares = np.exp(np.asarray(log_shares(LOGITS, ALL, TAU)))[0]
    assert entropy(LOGITS, ALL, TAU)[0] == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-6)


def test_padding_changes_nothing() -> None:
    padded = jnp.concatenate([LOGITS, jnp.full((1, 3), 50.0)], axis=-1)
    mask = jnp.concatenate([ALL, jnp.zeros((1, 3), bool)], axis=-1)
    tail = jnp.broadcast_to(jnp.arange(5, 8), (1, 120, 3))
    orders = jnp.concatenate([ORDERS, tail], axis=-1)
    found = placement_log_probabilities(padded, mask, orders, TAU)
    np.testing.assert_allclose(
        found[..., :5], placement_log_probabilities(LOGITS, ALL, ORDERS, TAU), atol=1e-6
    )
    assert not found[..., 5:].any()
    drawn = sample_orders(jax.random.key(1), padded, mask, 64, TAU)
    assert (jnp.sort(drawn[..., :5], axis=-1) == jnp.arange(5)).all(), "padding comes last"
    for function in (entropy, expected_ranks):
        np.testing.assert_allclose(
            function(padded, mask, TAU)[..., :5], function(LOGITS, ALL, TAU), atol=1e-6
        )
    slope = jax.grad(lambda z: placement_log_probabilities(z, mask, orders, TAU)[..., :3].sum())(
        padded
    )
    assert not slope[..., 5:].any() and abs(float(slope.sum())) < 1e-3
    other = jnp.concatenate([REFERENCE, jnp.full((1, 3), -9.0)], axis=-1)
    np.testing.assert_allclose(
        order_divergence(padded, other, mask, orders, TAU),
        order_divergence(LOGITS, REFERENCE, ALL, ORDERS, TAU),
        atol=1e-6,
    )


def test_the_gradient_of_an_order_sums_to_zero() -> None:
    """The policy does not change when all logits move together."""
    for at in (0, 17, 119):
        one = ORDERS[:, at : at + 1]
        slope = jax.grad(lambda z, one=one: placement_log_probabilities(z, ALL, one, TAU).sum())(
            LOGITS
        )
        assert abs(float(slope.sum())) < 1e-6 and float(jnp.abs(slope).max()) > 0.01


def test_divergences_against_enumeration() -> None:
    own, other = probabilities(LOGITS), probabilities(REFERENCE)
    whole = float((own * jnp.log(own / other)).sum())
    each = order_divergence(LOGITS, REFERENCE, ALL, ORDERS, TAU)
    assert float((own * each).sum()) == pytest.approx(whole, abs=1e-5)
    first = float(first_place_divergence(LOGITS, REFERENCE, ALL, TAU)[0])
    assert 0 < first < whole
    assert abs(float(first_place_divergence(LOGITS, LOGITS + 3.0, ALL, TAU)[0])) < 1e-6


@pytest.mark.parametrize("a", [-40.0, -3.0, 0.0, 2.5, 40.0])
@pytest.mark.parametrize("b", [-40.0, -1.0, 0.5, 40.0])
def test_bernoulli_divergence(a: float, b: float) -> None:
    found = float(bernoulli_divergence(jnp.float32(a), jnp.float32(b)))
    assert np.isfinite(found)
    p, q = (1 / (1 + np.exp(-np.longdouble(x))) for x in (a, b))
    p_not, q_not = (1 / (1 + np.exp(np.longdouble(x))) for x in (a, b))
    expected = float(p * np.log(p / q) + p_not * np.log(p_not / q_not))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    slope = jax.grad(lambda s: bernoulli_divergence(jnp.float32(a), s))(jnp.float32(b))
    assert slope == pytest.approx(float(q - p), abs=1e-6), "sigmoid(s) - sigmoid(reference)"


def test_rewards_are_the_metrics_of_the_order() -> None:
    grades = np.array([0, 2, 1, 0, 2])
    judged = [Judged("q", tuple(grades.tolist()))]
    gains = jnp.array([2.0**grades - 1])
    relevant = jnp.array([grades > 0])
    orders = ORDERS[:, ::13]
    ndcg = rank_rewards(orders, gains, ALL, discounts(5, 10)).sum(-1)[0]
    reciprocal = first_relevant_rewards(orders, relevant, 1.0)[0]
    hit = at_ranks(relevant, orders)[0, :, 0]
    for at, order in enumerate(np.asarray(orders)[0]):
        scores = np.zeros(5, np.float32)
        scores[order] = 5.0 - np.arange(5)
        table = measure([scores], judged, ("ndcg@10", "mrr@10", "hit@1"))
        assert ndcg[at] == pytest.approx(float(table["ndcg@10"][0]), abs=1e-6)
        assert reciprocal[at] == pytest.approx(float(table["mrr@10"][0]), abs=1e-6)
        assert float(hit[at]) == float(table["hit@1"][0])
    assert float(rank_rewards(orders, gains, ALL, discounts(5, 2))[..., 2:].max()) == 0.0
    assert not first_relevant_rewards(orders, jnp.zeros((1, 5), bool), 1.0).any()


def test_preference_rewards_count_what_is_satisfied() -> None:
    preferences = jnp.zeros((1, 5, 5)).at[0, 1, 0].set(3.0).at[0, 2, 4].set(1.0)
    rank = np.argsort(np.asarray(ORDERS)[0], axis=-1)
    expected = (3.0 * (rank[:, 1] < rank[:, 0]) + (rank[:, 2] < rank[:, 4])) / 4.0
    np.testing.assert_allclose(preference_rewards(ORDERS, preferences)[0], expected, atol=1e-6)
    assert not preference_rewards(ORDERS, jnp.zeros((1, 5, 5))).any()

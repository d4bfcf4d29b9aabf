"""The loss of stage 2 against enumeration of all orders, and what it does to logits."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.sci_align import POLICY
from train import alignment, policy
from train.alignment import AnchorSettings, Lists, PolicySettings, advantages, loss, rewards

SETTINGS = replace(POLICY, temperature=1.5, utility="gain", scale="none", dpo_scale=0.5)
FREE = AnchorSettings(0.0, "forward", 0.0, 0.0, 0.0)
GRADES = jnp.array([[0, 2, 1, 0]])
LOGITS = jnp.array([[1.0, -0.5, 0.7, 0.2]])
ORDERS = jnp.array([list(permutations(range(4)))])


def lists(grades: jax.Array = GRADES, padding: int = 0) -> Lists:
    mask = jnp.arange(grades.shape[1] + padding) < grades.shape[1]
    grades = jnp.pad(grades, ((0, 0), (0, padding)))
    mask = jnp.broadcast_to(mask, grades.shape)
    better = (grades[..., :, None] > grades[..., None, :]) & mask[..., None, :]
    better &= mask[..., :, None]
    return Lists(
        mask=mask,
        target=(grades > 0).astype(jnp.float32),
        gain=2.0**grades - 1,
        relevant=grades > 0,
        reference=0.3 * grades - 0.2,
        reward=jax.nn.sigmoid(grades - 1.0),
        preferences=better.astype(jnp.float32),
    )


def expected_reward(logits: jax.Array, given: Lists, settings: PolicySettings) -> jax.Array:
    """Over all orders of four candidates, exactly."""
    chance = policy.placement_log_probabilities(
        logits, given.mask, ORDERS, settings.temperature
    ).sum(-1)
    each, whole = rewards(ORDERS, given, settings)
    return (jnp.exp(chance) * (each.sum(-1) + whole)).sum()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"credit": "list"},
        {"baseline": False},
        {"preference": 0.0, "hit": 0.5, "utility": "reward"},
        {"reciprocal": 1.0, "dcg": 0.0, "utility": "relevant"},
    ],
    ids=str,
)
def test_the_sampled_gradient_is_that_of_the_expected_reward(changes: dict) -> None:
    """The mean over 6,000 batches of 8 orders, within 5 standard deviations."""
    settings = replace(SETTINGS, samples=8, **changes)
    given = lists()
    slope = jax.jit(
        jax.vmap(lambda key: jax.grad(lambda s: loss(s, given, key, settings, FREE)[0])(LOGITS)[0])
    )
    found = np.asarray(slope(jax.random.split(jax.random.key(0), 6000)), np.float64)
    expected = -np.asarray(jax.grad(expected_reward)(LOGITS, given, settings))[0]
    assert np.abs(expected).max() > 0.02
    deviation = found.std(0) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - expected) < 5 * deviation).all()


def test_credit_from_a_place_on_is_less_noisy() -> None:
    given = lists(jnp.array([[0, 2, 1, 0, 1, 0, 0, 2]]))
    logits = jnp.linspace(-1.0, 1.0, 8)[None]
    noise = {}
    for credit in ("to_go", "list"):
        settings = replace(SETTINGS, credit=credit, preference=0.0)
        slope = jax.jit(
            jax.vmap(
                lambda key, settings=settings: jax.grad(
                    lambda s: loss(s, given, key, settings, FREE)[0]
                )(logits)
            )
        )
        found = slope(jax.random.split(jax.random.key(1), 1500))
        noise[credit] = float(found.var(0).sum())
    assert noise["to_go"] < 0.95 * noise["list"]


def test_the_policy_gradient_sums_to_zero_and_spares_padding() -> None:
    given = lists(padding=3)
    logits = jnp.pad(LOGITS, ((0, 0), (0, 3)), constant_values=7.0)
    slope = jax.grad(lambda s: loss(s, given, jax.random.key(0), SETTINGS, FREE)[0])(logits)
    assert float(jnp.abs(slope[:, :4]).max()) > 1e-3
    assert abs(float(slope.sum())) < 1e-6 and not slope[:, 4:].any()
    kept = AnchorSettings(0.3, "forward", 0.2, 0.4, 0.1)
    slope = jax.grad(lambda s: loss(s, given, jax.random.key(0), SETTINGS, kept)[0])(logits)
    assert not slope[:, 4:].any() and abs(float(slope.sum())) > 1e-3


def test_queries_without_a_signal_are_left_out() -> None:
    grades = jnp.concatenate([GRADES, jnp.zeros((1, 4), jnp.int32)])
    both, alone = lists(grades), lists()
    settings = replace(SETTINGS, preference=0.0)
    logits = jnp.concatenate([LOGITS, LOGITS])
    value, parts = loss(logits, both, jax.random.key(3), settings, FREE)
    assert [float(x) for x in parts["dead"]] == [1.0, 2.0]
    assert float(parts["objective"][1]) == 1.0
    slope = jax.grad(lambda s: loss(s, both, jax.random.key(3), settings, FREE)[0])(logits)
    assert slope[0].any() and not slope[1].any()
    assert float(value) != 0.0 and alone.mask.all()


def test_scales_of_advantages() -> None:
    orders = policy.sample_orders(jax.random.key(0), LOGITS, lists().mask, 16, 1.5)
    each, whole = rewards(orders, lists(), SETTINGS)
    plain, _ = advantages(each, whole, SETTINGS)
    spread = float((each.sum(-1) + whole).std())
    for scale in ("query", "batch"):
        scaled, _ = advantages(each, whole, replace(SETTINGS, scale=scale))
        np.testing.assert_allclose(scaled, plain / (spread + 1e-4), rtol=1e-4)
    ranked, _ = advantages(each, whole, replace(SETTINGS, scale="ranks"))
    again, _ = advantages(3.0 * each, 3.0 * whole, replace(SETTINGS, scale="ranks"))
    np.testing.assert_allclose(ranked, again)
    np.testing.assert_allclose(ranked.sum(1), 0.0, atol=1e-5)
    order = np.argsort(np.asarray(plain[0, :, 0]))
    assert (np.diff(np.asarray(ranked[0, order, 0])) >= -1e-6).all()


def test_clipping_stops_what_has_moved_too_far() -> None:
    """With logits far from those that orders were drawn from, gains no longer count."""
    key, given = jax.random.key(0), lists()
    far = LOGITS + jnp.array([[-3.0, 3.0, 0.0, 0.0]])

    def slope(clip: tuple[float, float]) -> jax.Array:
        settings = replace(SETTINGS, clip=clip)
        return jax.grad(lambda s: loss(s, given, key, settings, FREE, old=LOGITS)[0])(far)

    assert float(jnp.abs(slope((0.2, 0.2)) - slope((1e9, 1e9))).max()) > 1e-3
    one = jax.grad(lambda s: loss(s, given, key, SETTINGS, FREE)[0])(LOGITS)
    same = jax.grad(lambda s: loss(s, given, key, SETTINGS, FREE, old=LOGITS)[0])(LOGITS)
    np.testing.assert_allclose(one, same, atol=1e-6)
    _, parts = loss(far, given, key, SETTINGS, FREE, old=LOGITS)
    assert parts["clipped"][0] > 0


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        ("first", {"utility": "relevant", "dcg": 0.0, "hit": 1.0, "preference": 0.0}),
        ("pairs", {"dcg": 0.0, "preference": 1.0}),
    ],
)
def test_exact_objectives_are_expectations(algorithm: str, changes: dict) -> None:
    settings = replace(SETTINGS, algorithm=algorithm, **changes)
    found = loss(LOGITS, lists(), jax.random.key(0), settings, FREE)[0]
    assert float(found) == pytest.approx(-float(expected_reward(LOGITS, lists(), settings)), 1e-5)


def test_dpo_at_the_reference_and_beyond() -> None:
    given, settings = lists(), replace(SETTINGS, algorithm="dpo")
    at = loss(given.reference, given, jax.random.key(0), settings, FREE)[0]
    assert float(at) == pytest.approx(np.log(2.0), rel=1e-6)
    gap = np.asarray(LOGITS - given.reference)[0]
    weight = np.asarray(given.preferences)[0]
    pairs = [
        weight[i, j] * np.log1p(np.exp(-0.5 * (gap[i] - gap[j])))
        for i in range(4)
        for j in range(4)
    ]
    found = loss(LOGITS, given, jax.random.key(0), settings, FREE)[0]
    assert float(found) == pytest.approx(sum(pairs) / weight.sum(), rel=1e-5)


def test_bernoulli_rewards_right_answers() -> None:
    settings = replace(SETTINGS, algorithm="bernoulli")
    slope = jax.grad(lambda s: loss(s, lists(), jax.random.key(0), settings, FREE)[0])(LOGITS)
    share = np.asarray(jax.nn.sigmoid(LOGITS))
    balance = np.array([[-2.0, 3.0, 1.0, -2.0]])
    np.testing.assert_allclose(slope, -2 * balance * share * (1 - share), rtol=1e-5)


def test_the_target_is_the_regularised_optimum() -> None:
    """Its minimum is s0 + temperature * utility / scale, up to a constant."""
    given, settings = lists(), replace(SETTINGS, algorithm="target")
    utility = alignment.utility_of(given, settings)
    best = given.reference + settings.temperature * utility / settings.dpo_scale + 4.0
    slope = jax.grad(lambda s: loss(s, given, jax.random.key(0), settings, FREE)[0])(best)
    assert float(jnp.abs(slope).max()) < 1e-6


def test_descent_puts_the_relevant_candidate_first_and_anchors_hold() -> None:
    given = lists(jnp.array([[0, 0, 1, 0]]))
    settings = replace(SETTINGS, hit=1.0, utility="relevant", scale="batch")

    def train(anchor: AnchorSettings) -> jax.Array:
        def step(logits: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            slope = jax.grad(lambda s: loss(s, given, key, settings, anchor)[0])(logits)
            return logits - 0.3 * slope, None

        start = jnp.array([[1.0, 0.5, -1.0, 0.0]])
        return jax.lax.scan(step, start, jax.random.split(jax.random.key(0), 300))[0]

    free = train(FREE)
    assert int(free.argmax()) == 2
    assert float(jnp.exp(policy.log_shares(free, given.mask, 1.5))[0, 2]) > 0.9
    held = train(AnchorSettings(50.0, "forward", 0.0, 0.0, 0.0))
    assert float(jnp.abs(held - given.reference).max()) < 0.2


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_anchors_are_least_at_the_reference(direction: str) -> None:
    given = lists()
    anchor = AnchorSettings(1.0, direction, 1.0, 0.0, 0.0)
    settings = replace(SETTINGS, algorithm="pairs", preference=0.0)

    def value(logits: jax.Array) -> jax.Array:
        parts = loss(logits, given, jax.random.key(0), settings, anchor)[1]
        return sum(parts[name][0] / parts[name][1] for name in ("bernoulli", "first"))

    assert float(value(given.reference)) == pytest.approx(0.0, abs=1e-6)
    assert float(jnp.abs(jax.grad(value)(given.reference)).max()) < 1e-6
    assert float(value(LOGITS)) > 0.01
    saturated = given.reference + 12.0
    parts = {
        name: jax.grad(
            lambda s, name=name: loss(s, given, jax.random.key(0), settings, anchor)[1][name][0]
        )(saturated)
        for name in ("bernoulli",)
    }
    pull = float(jnp.abs(parts["bernoulli"]).max())
    assert (pull > 0.3) if direction == "forward" else (pull < 0.02)


def test_what_is_watched() -> None:
    """Two queries: the first now begins with a relevant candidate, the second no longer does."""
    given = lists(jnp.array([[0, 2, 1, 0], [0, 2, 1, 0]]))
    given = given._replace(reference=jnp.array([[2.0, 1.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]]))
    logits = jnp.array([[1.0, 2.0, 0.0, -1.0], [2.0, 1.0, 0.5, 0.0]])
    _, parts = loss(logits, given, jax.random.key(0), SETTINGS, FREE)
    found = {name: float(total) / float(count) for name, (total, count) in parts.items()}
    assert found["flips_good"] == found["flips_bad"] == 0.5
    assert found["magnitude"] == pytest.approx(7.5 / 8) and found["magnitude_before"] == 0.75
    assert found["score_relevant"] == pytest.approx(3.5 / 4)
    assert found["score_other"] == pytest.approx(2.0 / 4)
    assert 0 < found["gold"] <= 1 and found["slope"] > 0 and -1 <= found["agreement"] <= 1
    exact = replace(SETTINGS, algorithm="first", utility="relevant")
    _, parts = loss(10 * logits[:1], given, jax.random.key(0), exact, FREE)
    assert "gold" not in parts, "nothing is sampled"


def test_agreement_is_that_of_slopes() -> None:
    """Where a candidate is to say yes or no as its label has it, both losses pull the same way."""
    given = lists()
    given = given._replace(preferences=given.preferences.at[:, 1, 2].set(0.0))
    same = replace(SETTINGS, algorithm="bernoulli")
    _, parts = loss(LOGITS * 0, given, jax.random.key(0), same, FREE)
    assert float(parts["agreement"][0]) == pytest.approx(1.0)
    turned = given._replace(preferences=given.preferences.swapaxes(-1, -2))
    _, parts = loss(LOGITS * 0, turned, jax.random.key(0), same, FREE)
    assert float(parts["agreement"][0]) == pytest.approx(-1.0)

"""The losses against hand formulas and finite differences, and their blindness to padding.

Every expected value is computed here with plain Python floats from the published formulas.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import losses, settings
from train.overlap import OVERLAP, PICTURES
from train.ranking import ADVERSARY
from unirank_jax.batch import Targets

LOGITS = [[1.5, -0.4, 0.2, 3.0], [0.3, -2.0, 0.9, 0.0]]
GRADES = [[2.0, 1.0, 0.0, -1.0], [0.0, 1.0, 1.0, 0.0]]  # the last of list 0 is unjudged
PREFERENCES = [(0, 0, 2, 3.0), (0, 1, 2, 1.0), (1, 2, 0, 0.5)]  # list, better, worse, weight

TEACHER = [[0.5, 1.0, -0.5, 9.0], [0.0, 0.0, 0.0, 0.0]]  # says nothing of the second list


def targets(grades: list[list[float]], padding: int = 0, rel_min: float = 1.0) -> Targets:
    """Lists in reverse row order, with `padding` masked slots per list and as many empty lists."""
    count, size = len(grades), len(grades[0])
    lists, slots = count + padding, size + padding
    grade = np.full((1, lists, slots), -1.0, np.float32)
    grade[0, :count, :size] = grades
    row = np.zeros((1, lists, slots), np.int32)
    row[0, :count, :size] = np.arange(count * size)[::-1].reshape(count, size)
    return Targets(
        label_row=row,
        mask=grade >= 0,
        grade=grade,
        rel_min=np.full((1, lists), rel_min, np.float32),
        list_id=np.zeros((1, lists), np.int32),
    )


def scores(values: list[list[float]], extra_rows: int = 0) -> losses.Scores:
    rows = np.asarray(values, np.float32).reshape(-1)[::-1]
    rows = np.concatenate([rows, np.full(extra_rows, 777.0, np.float32)])[None]
    yes = -np.abs(rows) - 0.3
    return losses.Scores(jnp.asarray(rows), jnp.asarray(yes), jnp.asarray(yes - rows))


def preferences(padding: int = 0) -> jax.Array:
    found = np.zeros((1, 2 + padding, 4 + padding, 4 + padding), np.float32)
    for at, better, worse, weight in PREFERENCES:
        found[0, at, better, worse] = weight
    return jnp.asarray(found)


def teacher(padding: int = 0) -> jax.Array:
    found = np.zeros((1, 2 + padding, 4 + padding), np.float32)
    found[0, :2, :4] = TEACHER
    return jnp.asarray(found)


def value(name: str, kind: str = "binary", smoothing: float = 0.0, padding: int = 0) -> float:
    rows, wanted = scores(LOGITS, 3 * padding), targets(GRADES, padding)
    lists = losses.arrange(rows, wanted, kind, 2.0, preferences(padding), teacher(padding))
    total, count = losses.TERMS[name](lists, smoothing)
    return float(total) / float(count)


def judged(kind: str) -> list[list[tuple[float, float, float]]]:
    """(logit, target, grade) of the judged candidates, list by list."""
    return [
        [
            (s, (float(g >= 1) if kind == "binary" else g / 2), g)
            for s, g in zip(logits, grades, strict=True)
            if g >= 0
        ]
        for logits, grades in zip(LOGITS, GRADES, strict=True)
    ]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def by_hand(name: str, kind: str, smoothing: float) -> float:
    lists = judged(kind)

    def smooth(t: float) -> float:
        return t * (1 - smoothing) + smoothing / 2

    if name == "bce":
        values = [softplus(s) - smooth(t) * s for items in lists for s, t, _ in items]
        return sum(values) / 7
    if name == "vocab_ce":
        values = [
            -smooth(t) * (-abs(s) - 0.3) - (1 - smooth(t)) * (-abs(s) - 0.3 - s)
            for items in lists
            for s, t, _ in items
        ]
        return sum(values) / 7
    if name in ("preference", "centre"):
        pairs = [(LOGITS[at][i], LOGITS[at][j], w) for at, i, j, w in PREFERENCES]
        if name == "centre":
            return sum((a + b) ** 2 for a, b, _ in pairs) / 3
        return sum(w * softplus(b - a) for a, b, w in pairs) / 4.5
    if name == "ranknet":
        pairs = [
            softplus(-(a - b)) for items in lists for a, _, g in items for b, _, h in items if g > h
        ]
        return sum(pairs) / len(pairs)
    if name == "teacher":
        taught, said = ([math.exp(s) for s in row[0][:3]] for row in (TEACHER, LOGITS))
        shares = [(t / sum(taught), s / sum(said)) for t, s in zip(taught, said, strict=True)]
        return sum(t * math.log(t / s) for t, s in shares)
    total = 0.0
    for items in lists:
        mass = [1 / (1 + math.exp(-s)) if name == "rcr" else math.exp(s) for s, _, _ in items]
        weight = sum(t for _, t, _ in items)
        total -= sum(
            t / weight * math.log(m / sum(mass)) for (_, t, _), m in zip(items, mass, strict=True)
        )
    return total / 2


@pytest.mark.parametrize("kind", ["binary", "graded"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", losses.TERMS)
def test_terms_match_the_formulas(name: str, kind: str, smoothing: float) -> None:
    assert value(name, kind, smoothing) == pytest.approx(by_hand(name, kind, smoothing), rel=1e-5)


def test_every_configurable_loss_exists() -> None:
    assert {*losses.TERMS, ADVERSARY, OVERLAP, PICTURES} == set(settings.LOSSES)


@pytest.mark.parametrize("name", losses.TERMS)
def test_padding_changes_nothing(name: str) -> None:
    assert value(name, padding=3) == pytest.approx(value(name), rel=1e-6)


@pytest.mark.parametrize("name", losses.TERMS)
def test_gradient_matches_finite_differences(name: str) -> None:
    wanted = targets(GRADES, padding=2)

    def loss(logits: jax.Array) -> jax.Array:
        log_yes = -jnp.square(logits)  # any smooth function of the row
        given = losses.Scores(logits, log_yes, log_yes - logits)
        total, count = losses.TERMS[name](
            losses.arrange(given, wanted, "graded", 2.0, preferences(2), teacher(2)), 0.02
        )
        return total / count

    with jax.enable_x64():
        rows = jnp.asarray(np.asarray(scores(LOGITS, 4).logits, np.float64))
        rows = rows.at[0, 8:].set(0.5)
        gradient = np.asarray(jax.grad(loss)(rows))
        assert np.isfinite(gradient).all()
        assert (gradient[0, 8:] == 0).all()
        assert gradient[0, 4] == 0  # the unjudged candidate: row 4 of the reversed order
        # The losses are float32 by contract, so the step is wide and the tolerance moderate.
        for row in range(8):
            step = jnp.zeros_like(rows).at[0, row].set(2e-2)
            slope = (float(loss(rows + step)) - float(loss(rows - step))) / 4e-2
            assert gradient[0, row] == pytest.approx(slope, abs=2e-4)


def test_a_list_without_relevant_candidates_has_no_listwise_loss_and_a_finite_gradient() -> None:
    wanted = targets([[0.0, 0.0, 0.0, -1.0]])

    logits = jnp.asarray([[400.0, -400.0, 0.0, 1.0]])

    def loss(logits: jax.Array) -> jax.Array:
        lists = losses.arrange(losses.Scores(logits), wanted, "binary", 1.0)
        return losses.rcr(lists, 0.0)[0] + losses.softmax(lists, 0.0)[0]

    lists = losses.arrange(losses.Scores(logits), wanted, "binary", 1.0)
    assert [float(losses.rcr(lists, 0.0)[1]), float(losses.softmax(lists, 0.0)[1])] == [0.0, 0.0]
    assert float(loss(logits)) == 0.0
    assert (np.asarray(jax.grad(loss)(logits)) == 0).all()


def test_extreme_scores_stay_finite() -> None:
    lists = losses.arrange(
        scores([[300.0, -300.0, 0.0, 5.0]]), targets([[0.0, 1.0, 0.0, 1.0]]), "binary", 1.0
    )
    for name in ("bce", "rcr", "softmax", "ranknet"):
        assert math.isfinite(float(losses.TERMS[name](lists, 0.0)[0])), name


def test_relevance_follows_the_minimum_grade_of_the_query() -> None:
    lists = losses.arrange(scores(LOGITS), targets(GRADES, rel_min=2.0), "binary", 2.0)
    assert np.asarray(lists.relevant).tolist() == [[[True] + [False] * 3, [False] * 4]]


def test_diagnostics() -> None:
    lists = losses.arrange(scores(LOGITS), targets(GRADES), "binary", 1.0)
    found = {name: (float(a), float(b)) for name, (a, b) in losses.diagnostics(lists).items()}
    assert found["hit@1"] == (2.0, 2.0)
    assert found["score_relevant"] == pytest.approx((1.5 - 0.4 - 2.0 + 0.9, 4.0))
    assert found["score_other"] == pytest.approx((0.2 + 0.3 + 0.0, 3.0))


@pytest.mark.parametrize("name", ["preference", "centre"])
def test_preferences_are_asked_for(name: str) -> None:
    lists = losses.arrange(scores(LOGITS), targets(GRADES), "binary", 1.0)
    with pytest.raises(ValueError, match=r"set data.preferences to a file"):
        losses.TERMS[name](lists, 0.0)


def test_a_teacher_is_asked_for_and_one_that_is_reached_costs_nothing() -> None:
    wanted = targets(GRADES)
    lists = losses.arrange(scores(LOGITS), wanted, "binary", 1.0)
    with pytest.raises(ValueError, match=r"set data.teacher to what train.teach wrote"):
        losses.TERMS["teacher"](lists, 0.0)
    reached = [[t + 3.0 for t in TEACHER[0]], LOGITS[1]]
    lists = losses.arrange(scores(reached), wanted, "binary", 1.0, None, teacher())
    total, count = losses.TERMS["teacher"](lists, 0.0)
    assert float(total) == pytest.approx(0.0, abs=1e-6) and float(count) == 1.0

"""Features that stay on the device: the same numbers as from the host, within their budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_reranker

from unirank_jax import engine, load
from unirank_jax.resident import Resident, resident
from unirank_jax.scoring_config import ScoringConfig
from unirank_jax.vision import Features

LIKE = Features(np.zeros((0, 4), np.float32), np.zeros((2, 0, 4), np.float32))
ROW = 4 * 4 * 3
SMALL = 20_000  # bytes: a few pictures of the tiny model


def picture(rng: np.random.Generator, tokens: int) -> Features:
    return Features(
        rng.normal(size=(tokens, 4)).astype(np.float32),
        rng.normal(size=(2, tokens, 4)).astype(np.float32),
    )


def test_pictures_come_back_whatever_was_thrown_out_between():
    """500 random requests of a table of 40 rows, some put from a device, some found on the host."""
    rng = np.random.default_rng(0)
    pictures = {bytes([n]): picture(rng, int(rng.integers(1, 13))) for n in range(30)}
    kept = Resident(40 * ROW, LIKE, jax.devices()[0])
    asked: list[bytes] = []

    def find(digest: bytes) -> Features:
        asked.append(digest)
        return pictures[digest]

    for _ in range(500):
        names = [bytes([n]) for n in rng.choice(30, int(rng.integers(1, 6)), replace=False)]
        wanted = [(name, len(pictures[name].merged)) for name in names]
        total = sum(count for _, count in wanted)
        if rng.random() < 0.3:
            ends = np.cumsum([count for _, count in wanted])
            whole = Features(
                *(np.concatenate(x, -2) for x in zip(*(pictures[n] for n in names), strict=True))
            )
            places = {n: (int(e) - c, c) for (n, c), e in zip(wanted, ends, strict=True)}
            kept.put(jax.tree.map(jax.numpy.asarray, whole), places)
        found = kept.take(wanted, find, 64)
        if total > 40:
            assert found is None
            continue
        assert found is not None
        for got, parts in zip(found, zip(*(pictures[n] for n in names), strict=True), strict=True):
            np.testing.assert_array_equal(
                np.asarray(got)[..., :total, :], np.concatenate(parts, -2)
            )
        rows = np.concatenate([*kept._rows.values(), np.array(kept._free, np.int32)])
        assert sorted(rows) == list(range(40)), "no row is lost or given twice"
    before = len(asked)
    assert kept.take(wanted[:1], find, 64) is not None and len(asked) == before, "it is at hand"


def test_a_picture_that_is_larger_than_the_table_is_left_out():
    rng = np.random.default_rng(0)
    kept = Resident(5 * ROW, LIKE, jax.devices()[0])
    kept.put(picture(rng, 6), {b"large": (0, 6)})
    assert not kept._rows and kept.take([(b"large", 6)], lambda _: picture(rng, 6), 8) is None


def test_a_cpu_keeps_none_of_its_own():
    assert resident(2**20, LIKE, None) is None


@pytest.mark.parametrize("budget", [2**20, SMALL])
def test_scores_are_the_same_from_the_device(
    budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Twice the same lists: pictures come from the device, and from the host where it is full."""
    folder = tiny_reranker.save(tmp_path / "model", "unirank-native-1")
    pictures = [tiny_reranker.picture(48, 36, seed) for seed in range(6)]
    lists: list[Any] = [[*pictures[:4], "a text"], [*pictures[2:], "another"]]

    def logits() -> list[np.ndarray]:
        reranker = load(folder, scoring=ScoringConfig(token_budget=64))
        return [np.concatenate(reranker.logits_many(["one", "two"], lists)) for _ in range(3)]

    wanted = logits()
    made = []

    def force(_: int, like: Features, mesh: Any) -> Resident:
        made.append(Resident(budget, like, jax.devices()[0]))
        return made[-1]

    monkeypatch.setattr(engine, "resident", force)
    for a, b in zip(logits(), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    if budget == SMALL:
        assert len(made[0]._rows) < 6, "the table was too small for all"
    else:
        assert len(made[0]._rows) == 6

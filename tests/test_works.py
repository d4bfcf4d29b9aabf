"""Batches of works: nothing lost, the budget held, parts of one list alike in size."""

from __future__ import annotations

import numpy as np
import pytest

from unirank_jax.prompt import Encoded
from unirank_jax.works import Work, computed, groups, split


def encoded(length: int, first: int = 0) -> Encoded:
    return Encoded(np.arange(first, first + length, dtype=np.int32), (), False, "")


def work(lengths: list[int], start: int, static: Encoded, query: int = 10) -> Work:
    places = tuple(range(start, start + len(lengths)))
    return Work(static, encoded(query), tuple(map(encoded, lengths)), places)


def test_every_candidate_is_in_one_batch_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    statics = [encoded(20), encoded(20, first=7)]
    works, start = [], 0
    for number in range(40):
        lengths = rng.integers(5, 90, rng.integers(1, 60)).tolist()
        works.append(work(lengths, start, statics[number % 2]))
        start += len(lengths)
    seen: list[int] = []
    for group in groups(works, 500):
        assert len({one.static.tokens.tobytes() for one in group}) == 1
        tokens = sum(len(c.tokens) for one in group for c in one.rows)
        assert tokens + 10 * len({id(one.prefix) for one in group}) <= 510
        for one in group:
            for candidate, place in zip(one.rows, one.places, strict=True):
                owner = next(w for w in works if place in w.places)
                assert candidate is owner.rows[place - owner.places[0]]
        seen += [place for one in group for place in one.places]
    assert sorted(seen) == list(range(start)), "each once"


@pytest.mark.parametrize("count", [30, 31, 100, 333])
def test_parts_of_a_long_list_are_alike(count: int) -> None:
    parts = list(split(work([40] * count, 0, encoded(5)), 1000))
    sizes = [40 * len(part.rows) for part in parts]
    assert max(sizes) <= 1000 and min(sizes) >= 0.6 * max(sizes), sizes
    assert all(part.prefix is parts[0].prefix for part in parts)


def test_parts_of_a_mixed_list_look_the_same() -> None:
    rng = np.random.default_rng(1)
    lengths = np.where(rng.random(200) < 0.1, 150, rng.integers(10, 50, 200)).tolist()
    parts = list(split(work(lengths, 0, encoded(5)), 1000))
    assert all(sum(map(len, part.rows)) + 5 <= 1000 for part in parts)
    long = [sum(len(row) == 150 for row in part.rows) for part in parts]
    assert max(long) - min(long) <= 1 and max(long) > 1
    assert len(parts) <= 1.2 * sum(lengths) / 1000 + 1, "and they are full"


def test_a_candidate_longer_than_the_budget_stands_alone() -> None:
    parts = list(split(work([30, 900, 40], 0, encoded(5)), 100))
    assert [part.places for part in parts] == [(0, 2), (1,)], "and does not stretch the others"


def test_what_a_store_holds_takes_less_of_a_batch() -> None:
    stored = [0] * 100  # has a length, and is nothing that is computed
    assert computed(encoded(100)) == 100 and computed(stored) == 20  # type: ignore[arg-type]

"""The cache of visual features: right entries, a budget that holds, the oldest go first."""

from __future__ import annotations

import logging
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from unirank_jax.feature_cache import FeatureCache, table
from unirank_jax.vision import Features


def features(rows: int, seed: int) -> Features:
    rng = np.random.default_rng(seed)
    shapes = ((rows, 6), (2, rows, 6))
    return Features(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


def add(cache: FeatureCache, name: bytes, rows: int, seed: int) -> Features:
    found = features(rows, seed)
    cache.settle([cache.promise(found, {name: (0, rows)})])
    return found


SIZE = 4 * 6 * 3 * 4  # of four rows


def test_a_promise_is_known_before_it_is_there() -> None:
    cache = FeatureCache(10**6)
    both = features(7, 0)
    promise = cache.promise(both, {b"a": (0, 3), b"b": (3, 4)})
    assert (cache.tokens(b"a"), cache.tokens(b"b"), cache.tokens(b"c")) == (3, 4, 0)
    found = cache.get(b"b")
    np.testing.assert_array_equal(found.merged, both.merged[3:])
    np.testing.assert_array_equal(found.deepstack, both.deepstack[:, 3:])
    cache.settle([promise])
    assert cache.statistics.bytes == SIZE // 4 * 7
    np.testing.assert_array_equal(cache.get(b"a").merged, both.merged[:3])
    with pytest.raises(KeyError):
        cache.get(b"c")


def test_the_least_recently_used_go_first() -> None:
    cache = FeatureCache(3 * SIZE)
    kept = {name: add(cache, name, 4, i) for i, name in enumerate((b"a", b"b", b"c"))}
    cache.get(b"a")
    add(cache, b"d", 4, 9)
    assert cache.tokens(b"b") == 0 and cache.statistics.evictions == 1
    assert cache.statistics.bytes == 3 * SIZE
    np.testing.assert_array_equal(cache.get(b"a").merged, kept[b"a"].merged)


def test_a_picture_computed_twice_counts_once() -> None:
    cache = FeatureCache(10 * SIZE)
    add(cache, b"a", 4, 0)
    second = add(cache, b"a", 4, 1)
    assert cache.statistics.bytes == SIZE
    np.testing.assert_array_equal(cache.get(b"a").merged, second.merged)


def test_what_is_larger_than_the_budget_is_not_kept() -> None:
    cache = FeatureCache(SIZE)
    add(cache, b"large", 5, 0)
    assert cache.tokens(b"large") == 0 and cache.statistics.bytes == 0
    off = FeatureCache(0)
    add(off, b"a", 1, 0)
    assert off.tokens(b"a") == 0
    with pytest.raises(ValueError, match="cache_bytes is -1"):
        FeatureCache(-1)


def test_a_kept_entry_does_not_hold_the_batch_it_came_from() -> None:
    cache = FeatureCache(10**6)
    cache.settle([cache.promise(features(100, 0), {b"a": (10, 4)})])
    assert cache.get(b"a").merged.base is None


def test_what_is_forgotten_takes_no_bytes() -> None:
    cache = FeatureCache(10**6)
    add(cache, b"a", 4, seed=0)
    cache.promise(features(4, 1), {b"b": (0, 4)})
    cache.forget()
    assert cache.tokens(b"a") == cache.tokens(b"b") == cache.statistics.bytes == 0
    add(cache, b"a", 4, seed=0)
    assert cache.tokens(b"a") == 4


def test_tables_pad_with_zeros() -> None:
    one, two = features(3, 0), features(2, 1)
    found = table([one, two], one, 8)
    np.testing.assert_array_equal(found.merged[:3], one.merged)
    np.testing.assert_array_equal(found.deepstack[:, 3:5], two.deepstack)
    assert not found.merged[5:].any() and found.deepstack.shape == (2, 8, 6)
    assert table([], one, 0).merged.shape == (0, 6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_keeps_what_memory_drops(tmp_path: Path, dtype: str) -> None:
    cache = FeatureCache(0, tmp_path)
    found = Features(*(array.astype(jnp.dtype(dtype)) for array in features(4, 0)))
    cache.settle([cache.promise(found, {b"a": (0, 3), b"b": (3, 1)})])
    assert cache.statistics.bytes == 0 and len(list(tmp_path.rglob("*.npz"))) == 2
    again = FeatureCache(SIZE, tmp_path)
    assert (again.tokens(b"a"), again.tokens(b"c")) == (3, 0)
    read = again.get(b"a")
    assert read.merged.dtype == dtype == read.deepstack.dtype
    np.testing.assert_array_equal(read.merged, found.merged[:3])
    np.testing.assert_array_equal(read.deepstack, found.deepstack[:, :3])
    again.tokens(b"b")
    again.settle([])
    assert again.statistics.bytes <= SIZE, "what was read counts, too"


def test_a_damaged_file_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = FeatureCache(0, tmp_path)
    add(cache, b"a", 4, 0)
    (path,) = tmp_path.rglob("*.npz")
    for data in (path.read_bytes()[:-30], b"", b"other"):
        path.write_bytes(data)
        with caplog.at_level(logging.WARNING):
            assert cache.tokens(b"a") == 0
        assert "cannot be read" in caplog.text
        caplog.clear()
    kept = add(cache, b"a", 4, 1)
    np.testing.assert_array_equal(FeatureCache(0, tmp_path)._read(b"a").merged, kept.merged)

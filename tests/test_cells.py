"""Rows and the flat run of their tokens: one layout forth and back, gradients included."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unirank_jax.attention_request import PrefixKV
from unirank_jax.batch import Blocks
from unirank_jax.cells import Cells

LENGTHS = [3, 0, 5, 1]
SORTED = [5, 3, 1, 0]
WIDTH, TOKENS = 5, 9


def layout(spare: int | None) -> Cells:
    """The layout padded (None), or compact with `spare` unused places at the end."""
    places = [r * WIDTH + t for r, n in enumerate(LENGTHS) for t in range(n)]
    take = [] if spare is None else [*places, *[0] * spare]
    return Cells(jnp.array(LENGTHS), WIDTH, jnp.array(take, jnp.int32))


def in_blocks(spare: int) -> tuple[Cells, Cells, list[int]]:
    """Rows of 5, 3, 1 and 0 tokens as one block, the same in blocks, and the rows of each."""
    places = [r * WIDTH + t for r, n in enumerate(SORTED) for t in range(n)]
    one = Cells(jnp.array(SORTED), WIDTH, jnp.array([*places, *[0] * spare], jnp.int32))
    return one, replace(one, blocks=Blocks(((1, 5), (2, 3)))), [1, 2]


@pytest.mark.parametrize("spare", [0, 4])
def test_blocks_hold_the_tokens_of_their_rows(spare: int) -> None:
    one, blocks, counts = in_blocks(spare)
    flat = jnp.asarray(np.random.default_rng(0).normal(size=(TOKENS + spare, 2)), jnp.float32)
    (whole,), parts = one.split(flat), blocks.split(flat)
    assert [part.shape for part in parts] == [(1, 5, 2), (2, 3, 2)]
    rows = np.concatenate(
        [np.pad(part, [(0, 0), (0, 5 - part.shape[1]), (0, 0)]) for part in parts]
    )
    for r, n in enumerate(SORTED[:3]):
        np.testing.assert_array_equal(rows[r, :n], whole[r, :n])
    np.testing.assert_array_equal(blocks.join(parts)[:TOKENS], flat[:TOKENS])
    numbers = blocks.part(jnp.arange(4))
    assert [part.tolist() for part in numbers] == [[0], [1, 2]]
    assert blocks.parted(numbers).tolist() == [0, 1, 2, 0], "the empty row is in no block"
    assert one.parted(one.part(jnp.arange(4))).tolist() == [0, 1, 2, 3]


def test_each_block_reads_the_prefixes_of_its_rows() -> None:
    one, blocks, _ = in_blocks(0)
    keys = jnp.arange(4.0).reshape(4, 1, 1, 1)
    lengths = jnp.arange(4)

    def read(cells: Cells, prefix: PrefixKV) -> list[float]:
        parts = cells.part_prefix(prefix)
        own = [p.k if p.prefix_of is None else p.k[p.prefix_of] for p in parts]
        sizes = [p.lengths if p.prefix_of is None else p.lengths[p.prefix_of] for p in parts]
        assert all(
            k.ravel().tolist() == n.ravel().tolist() for k, n in zip(own, sizes, strict=True)
        )
        return [float(x) for part in own for x in part.ravel()]

    shared = PrefixKV(keys, keys, lengths, jnp.array([3, 0, 3, 1]))
    assert read(one, shared) == [3, 0, 3, 1] and read(blocks, shared) == [3, 0, 3]
    each = PrefixKV(keys, keys, lengths, None)
    assert read(one, each) == [0, 1, 2, 3] and read(blocks, each) == [0, 1, 2]
    only = PrefixKV(keys[2:3], keys[2:3], lengths[2:3], None)
    assert read(blocks, only) == [2, 2], "once for each block"


def test_gradients_in_blocks_are_those_of_one_block() -> None:
    one, blocks, _ = in_blocks(4)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(TOKENS + 4, 2)), jnp.float32)
    weight = jnp.where(jnp.arange(TOKENS + 4) < TOKENS, 1.0 + jnp.arange(TOKENS + 4), 0.0)

    def value(x: jax.Array, cells: Cells) -> jax.Array:
        parts = [jnp.sin(part) for part in cells.split(x)]
        return (cells.join(parts) * weight[:, None]).sum()

    expected = np.cos(x) * weight[:, None]
    np.testing.assert_allclose(jax.grad(value)(x, one), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jax.grad(value)(x, blocks), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spare", [None, 0, 4])
def test_forth_and_back(spare: int | None) -> None:
    cells = layout(spare)
    x = np.random.default_rng(0).normal(size=(4, WIDTH, 2)).astype(np.float32)
    flat = cells.flat(jnp.asarray(x))
    assert flat.shape == ((20 if spare is None else TOKENS + spare), 2)
    back = np.asarray(cells.rows(flat))
    for r, n in enumerate(LENGTHS):
        np.testing.assert_array_equal(back[r, :n], x[r, :n])
        if n:
            np.testing.assert_array_equal(np.asarray(cells.last(flat))[r], x[r, n - 1])
    numbers = cells.flat(jnp.arange(20).reshape(4, WIDTH))
    np.testing.assert_array_equal(cells.rows(numbers)[2], np.arange(10, 15))


@pytest.mark.parametrize("spare", [0, 4])
def test_gradients_are_those_of_the_padded_layout(spare: int) -> None:
    """For a function that reads tokens only, as masked attention does."""
    used = np.arange(WIDTH) < np.array(LENGTHS)[:, None]
    weights = np.random.default_rng(1).normal(size=(4, WIDTH, 2)) * used[..., None]
    x = jnp.asarray(np.random.default_rng(2).normal(size=(4, WIDTH, 2)), jnp.float32)

    def value(x: jax.Array, cells: Cells) -> jax.Array:
        flat = jnp.sin(cells.flat(x)) * 2
        last = cells.last(flat) * (cells.lengths > 0)[:, None]  # empty rows mean nothing
        return (cells.flat(cells.rows(flat) * weights) ** 2).sum() + last.sum()

    padded, compact = jax.grad(value)(x, layout(None)), jax.grad(value)(x, layout(spare))
    np.testing.assert_allclose(compact, padded, rtol=1e-6, atol=1e-6)
    assert np.abs(padded[used]).min() > 0 and not np.asarray(compact)[~used].any()

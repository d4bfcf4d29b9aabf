"""Rows and the flat run of their tokens: one layout forth and back, gradients included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unirank_jax.cells import Cells

LENGTHS = [3, 0, 5, 1]
WIDTH, TOKENS = 5, 9


def layout(spare: int | None) -> Cells:
    """The layout padded (None), or compact with `spare` unused places at the end."""
    places = [r * WIDTH + t for r, n in enumerate(LENGTHS) for t in range(n)]
    take = [] if spare is None else [*places, *[0] * spare]
    return Cells(jnp.array(LENGTHS), WIDTH, jnp.array(take, jnp.int32))


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

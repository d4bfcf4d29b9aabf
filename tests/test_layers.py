"""Building blocks that exist in more than one form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unirank_jax.layers import rotate, turn, turn_by_product


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_rotation_by_product_is_the_rotation_in_parts(dtype: jnp.dtype) -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (3, 7, 4, 16)).astype(dtype)
    angles = 9 * jax.random.normal(keys[1], (3, 7, 8))
    np.testing.assert_array_equal(turn_by_product(x, angles), turn(x, angles))


def test_the_gradient_of_a_rotation_turns_back() -> None:
    keys = jax.random.split(jax.random.key(1), 3)
    x, weights = (jax.random.normal(key, (5, 4, 16)) for key in keys[:2])
    angles = 9 * jax.random.normal(keys[2], (5, 8))
    slopes = [
        jax.grad(lambda x, f=function: (weights * f(x, angles) ** 3).sum())(x)  # type: ignore[misc]
        for function in (rotate, turn)
    ]
    np.testing.assert_allclose(*slopes, rtol=1e-5, atol=1e-5)

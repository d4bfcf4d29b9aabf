"""Two ways to lay out tokens: padded rows (R, T, ...) for attention, one flat run for all the rest.

Attention needs rows; norms, projections and MLPs do not care which row a token is in, so they run
over the tokens that exist and no product is spent on padding. Works for patches of images too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from unirank_jax.batch import Array


@dataclass(frozen=True)
class Cells:
    """The layout of R sequences in rows of T cells.

    Attributes:
        lengths: (R,) int32, cells in use from the left.
        width: T.
        take: (N,) int32, the places r * T + t of all tokens, row by row, then any place as
            padding; with N = 0 the flat run is all R * T cells, padding included.
    """

    lengths: Array
    width: int
    take: Array

    @property
    def _compact(self) -> bool:
        return self.take.shape[0] > 0

    def flat(self, x: Array) -> Array:
        """(R, T, ...) -> (N, ...)."""
        whole = x.reshape(-1, *x.shape[2:])
        if not self._compact:
            return whole
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return whole[self.take]
        return _permute(whole, self.take, self._places.reshape(-1), self._used.reshape(-1))

    def rows(self, x: Array) -> Array:
        """(N, ...) -> (R, T, ...); what stands in unused cells means nothing."""
        if not self._compact:
            return x.reshape(-1, self.width, *x.shape[1:])
        real = jnp.arange(x.shape[0]) < self.lengths.sum()
        found = _permute(x, self._places.reshape(-1), self.take, real)
        return found.reshape(*self._places.shape, *x.shape[1:])

    def last(self, x: Array) -> Array:
        """The last token of every row: (N, ...) -> (R, ...)."""
        places = self._starts + jnp.maximum(self.lengths - 1, 0)
        return x[jnp.minimum(places, x.shape[0] - 1)]

    @property
    def _places(self) -> jax.Array:
        """(R, T) where each cell's token is in the flat run; any place for unused cells."""
        places = self._starts[:, None] + jnp.arange(self.width)
        return jnp.minimum(places, self.take.shape[0] - 1)

    @property
    def _used(self) -> jax.Array:
        """(R, T) bool: cells with a token."""
        return jnp.arange(self.width) < self.lengths[:, None]

    @property
    def _starts(self) -> jax.Array:
        """(R,) where each row begins in the flat run."""
        if self._compact:
            return jnp.cumsum(self.lengths) - self.lengths
        return jnp.arange(self.lengths.shape[0]) * self.width


@jax.custom_vjp
def _permute(x: Array, index: Array, inverse: Array, real: Array) -> Array:
    """x[index] for a layout that moves each token once, so that its gradient is a gather, too.

    `inverse` and `real`: for every element of x, where it went, and whether it went anywhere. No
    gradient flows through elements that are padding on either side.
    """
    return x[index]


def _forward(x: Array, index: Array, inverse: Array, real: Array) -> tuple[Array, Any]:
    return x[index], (inverse, real)


def _backward(kept: Any, slope: Array) -> tuple[Any, None, None, None]:
    inverse, real = kept
    shape = (-1, *[1] * (slope.ndim - 1))
    return jnp.where(real.reshape(shape), slope[inverse], 0), None, None, None


_permute.defvjp(_forward, _backward)

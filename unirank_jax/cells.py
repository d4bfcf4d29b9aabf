"""Two ways to lay out tokens: padded rows (R, T, ...) for attention, one flat run for all the rest.

Attention needs rows; norms, projections and MLPs do not care which row a token is in, so they run
over the tokens that exist and no product is spent on padding. Works for patches of images too.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        return whole[self.take] if self._compact else whole

    def rows(self, x: Array) -> Array:
        """(N, ...) -> (R, T, ...); what stands in unused cells means nothing."""
        if not self._compact:
            return x.reshape(-1, self.width, *x.shape[1:])
        places = self._starts[:, None] + jnp.arange(self.width)
        return x[jnp.minimum(places, x.shape[0] - 1)]

    def last(self, x: Array) -> Array:
        """The last token of every row: (N, ...) -> (R, ...)."""
        places = self._starts + jnp.maximum(self.lengths - 1, 0)
        return x[jnp.minimum(places, x.shape[0] - 1)]

    @property
    def _starts(self) -> jax.Array:
        """(R,) where each row begins in the flat run."""
        if self._compact:
            return jnp.cumsum(self.lengths) - self.lengths
        return jnp.arange(self.lengths.shape[0]) * self.width

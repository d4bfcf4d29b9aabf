"""Two ways to lay out tokens: padded rows (R, T, ...) for attention, one flat run for all the rest.

Attention needs rows; norms, projections and MLPs do not care which row a token is in, so they run
over the tokens that exist and no product is spent on padding. Works for patches of images too.
Rows of unlike lengths come in blocks, each as wide as its longest row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unirank_jax.attention_request import PrefixKV
from unirank_jax.batch import Array, Blocks

jax.tree_util.register_static(Blocks)


@dataclass(frozen=True)
class Cells:
    """The layout of R sequences in rows of T cells.

    Attributes:
        lengths: (R,) int32, cells in use from the left.
        width: T.
        take: (N,) int32, the places r * T + t of all tokens, row by row, then any place as
            padding; with N = 0 the flat run is all R * T cells, padding included.
        blocks: of the rows, for `split`; None: all rows are one.
    """

    lengths: Array
    width: int
    take: Array
    blocks: Blocks | None = None

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

    def split(self, x: Array) -> list[Array]:
        """(N, ...) -> the blocks (R_b, T_b, ...); what stands in unused cells means nothing."""
        if self._whole:
            return [self.rows(x)]
        real = jnp.arange(x.shape[0]) < self.lengths.sum()
        cells = _permute(x, self._token_of_cell, self._cell_of_token, real)
        parts = jnp.split(cells, self._ends[:-1])
        return [
            part.reshape(*size, *x.shape[1:]) for part, size in zip(parts, self._sizes, strict=True)
        ]

    def join(self, blocks: list[Array]) -> Array:
        """The blocks (R_b, T_b, ...) -> (N, ...)."""
        if self._whole:
            return self.flat(blocks[0])
        row, token, _ = self._cells
        whole = jnp.concatenate([block.reshape(-1, *block.shape[2:]) for block in blocks])
        real = token < self.lengths[row]
        return _permute(whole, self._cell_of_token, self._token_of_cell, real)

    def part(self, x: Array) -> list[Array]:
        """(R, ...) -> the rows of each block."""
        if self._whole:
            return [x]
        return jnp.split(x, np.cumsum([rows for rows, _ in self._sizes]))[: len(self._sizes)]

    def part_prefix(self, prefix: PrefixKV) -> list[PrefixKV]:
        """What the rows of each block continue: the same prefixes, or those of its own rows."""
        if self._whole:
            return [prefix]
        if prefix.prefix_of is not None:
            return [prefix._replace(prefix_of=own) for own in self.part(prefix.prefix_of)]
        if prefix.k.shape[0] == 1:
            return [prefix] * len(self._sizes)
        own = (self.part(x) for x in (prefix.k, prefix.v, prefix.lengths))
        return [PrefixKV(k, v, lengths, None) for k, v, lengths in zip(*own, strict=True)]

    def parted(self, blocks: list[Array]) -> Array:
        """The rows of each block -> (R, ...); zeros for rows that are in none."""
        whole = blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks)
        missing = self.lengths.shape[0] - whole.shape[0]
        return jnp.pad(whole, [(0, missing), *[(0, 0)] * (whole.ndim - 1)]) if missing else whole

    @property
    def _whole(self) -> bool:
        """All rows are one block of the full width."""
        return self.blocks is None or self._sizes == ((self.lengths.shape[0], self.width),)

    @property
    def _sizes(self) -> tuple[tuple[int, int], ...]:
        assert self.blocks is not None
        return self.blocks.sizes

    @property
    def _ends(self) -> np.ndarray:
        """Where each block's cells end in the run of all blocks' cells."""
        return np.cumsum([rows * width for rows, width in self._sizes])

    @property
    def _cells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row and token of every cell of the blocks, and the first cell of every row."""
        row, token, first = [], [], np.zeros(self.lengths.shape[0], np.int32)
        start = cell = 0
        for rows, width in self._sizes:
            row.append(np.repeat(np.arange(start, start + rows), width))
            token.append(np.tile(np.arange(width), rows))
            first[start : start + rows] = cell + np.arange(rows) * width
            start, cell = start + rows, cell + rows * width
        return np.concatenate(row), np.concatenate(token), first

    @property
    def _token_of_cell(self) -> jax.Array:
        """Which token of the flat run stands in each cell of the blocks; any for unused cells."""
        row, token, _ = self._cells
        return jnp.minimum(self._starts[row] + token, self.take.shape[0] - 1)

    @property
    def _cell_of_token(self) -> jax.Array:
        """(N,) in which cell of the blocks each token stands; any cell for padding."""
        _, _, first = self._cells
        return jnp.asarray(first)[self.take // self.width] + self.take % self.width

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

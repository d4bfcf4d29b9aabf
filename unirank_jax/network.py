"""The two compiled functions that score: keys and values of prefixes, and logits of their rows."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from unirank_jax.batch import Blocks, Images, Rows
from unirank_jax.layers import Compute
from unirank_jax.model import (
    Model,
    candidate_states,
    encode_images,
    label_logits,
    prefix_cache,
)
from unirank_jax.text import Cache, Prefix
from unirank_jax.vision import Features, joined


class Network:
    """A model's parameters, and what runs with them; a program per size of the arguments.

    label_ids: the tokens of yes and no. each: row b continues prefix b, else the one that
    `prefix_of` names.
    """

    def __init__(
        self, model: Model, label_ids: tuple[int, int], compute: Compute, each: bool
    ) -> None:
        self.label_ids, self.compute, self.each = label_ids, compute, each
        self._graph, self._state = nnx.split(model)
        self._prefixes = jax.jit(self._trace_prefixes)
        self._logits = jax.jit(self._trace_logits)
        self.programs = 0  # compiled so far

    @property
    def model(self) -> Model:
        """The network with its parameters."""
        return nnx.merge(self._graph, self._state)

    def prefixes(self, *arguments: Any) -> tuple[Cache, Features | None]:
        """Keys and values of prefixes, and features of new images; see `_trace_prefixes`."""
        return self._prefixes(self._state, *arguments)

    def logits(self, *arguments: Any) -> tuple[jax.Array, Features | None]:
        """z_yes - z_no of rows, (B,), and features of new images; see `_trace_logits`."""
        return self._logits(self._state, *arguments)

    # The Python bodies run once per program.

    def _trace_prefixes(
        self,
        state: Any,
        outer: Cache | None,
        rows: Rows,
        take: Any,
        images: Images,
        given: Features,
    ) -> tuple[Cache, Features | None]:
        """outer: what comes before all of them; take: see packing; given: known features."""
        self.programs += 1
        model = nnx.merge(self._graph, state)
        computed = encode_images(model, images, self.compute)
        before = [] if outer is None else [Prefix(outer, None)]
        features = joined(computed, given)
        return prefix_cache(model, rows, features, self.compute, before, take), computed

    def _trace_logits(
        self,
        state: Any,
        outer: Cache,
        prefixes: Cache,
        prefix_of: Any,
        rows: Rows,
        take: Any,
        blocks: Blocks,
        images: Images,
        given: Features,
    ) -> tuple[jax.Array, Features | None]:
        """Of rows after their static prompt `outer` and their prefix."""
        self.programs += 1
        model = nnx.merge(self._graph, state)
        computed = encode_images(model, images, self.compute)
        features = joined(computed, given)
        direct = self.each or prefixes.lengths.shape[0] == 1
        before = [Prefix(outer, None), Prefix(prefixes, None if direct else prefix_of)]
        states = candidate_states(model, rows, take, blocks, features, before, self.compute)
        return label_logits(model, states, self.label_ids), computed

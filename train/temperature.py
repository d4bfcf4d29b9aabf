"""The policy's temperature: the smallest at which stage 1 still leaves something to choose."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train import alignment, policy
from train.alignment import Lists, PolicySettings
from train.plan import Chosen
from train.signals import SignalTable
from train.sizes import Index

CHOICES = (0.5, 1.0, 2.0, 4.0, 8.0)
QUERIES = 500  # looked at, evenly spaced
ENTROPY, DEAD = 0.25, 0.30  # least median entropy over log C, most queries without a signal


class Choice(NamedTuple):
    """A temperature, and what it gives."""

    temperature: float
    entropy: float  # of who comes first, over log C, in the median
    dead: float  # share of queries whose sampled rewards do not differ

    def __str__(self) -> str:
        return (
            f"{self.temperature:g} (entropy {self.entropy:.2f} of the largest in the median, "
            f"{100 * self.dead:.0f} % of queries without a signal)"
        )


def choose_temperature(
    index: Index, signals: SignalTable, list_size: int, settings: PolicySettings
) -> Choice:
    """The first of `CHOICES` with enough entropy and few enough dead queries; else the last.

    A gap of 8 logits at temperature 1 is never reversed in 32 samples: such a query teaches
    nothing.
    """
    lists = some_lists(index, signals, list_size)
    found = None
    for temperature in CHOICES:
        tried = replace(settings, temperature=temperature, algorithm="policy")
        orders = policy.sample_orders(
            jax.random.key(0), lists.reference, lists.mask, settings.samples, temperature
        )
        _, live = alignment.advantages(*alignment.rewards(orders, lists, tried), tried)
        size = np.maximum(np.asarray(lists.mask.sum(-1)), 2)
        entropy = policy.entropy(lists.reference, lists.mask, temperature)
        found = Choice(
            temperature,
            float(np.median(np.asarray(entropy) / np.log(size))),
            float(1.0 - np.asarray(live).mean()),
        )
        if found.entropy >= ENTROPY and found.dead <= DEAD:
            return found
    assert found is not None
    return found


def some_lists(index: Index, signals: SignalTable, list_size: int) -> Lists:
    """Up to `QUERIES` lists of stage 1, each with its relevant candidates and then the others."""
    count = min(QUERIES, len(index))
    chosen = []
    for n in range(count):
        number = n * len(index) // count
        slots = np.arange(index.starts[number], index.starts[number + 1])
        slots = slots[index.grades[slots] >= 0]
        first = np.argsort(index.grades[slots] < index.rel_min[number], kind="stable")
        chosen.append(Chosen(number, slots[first][:list_size]))
    known = signals.fill(chosen, count, list_size)
    grades = np.full((count, list_size), -1, np.int32)
    for row, one in zip(grades, chosen, strict=True):
        row[: len(one.slots)] = index.grades[one.slots]
    least = np.array([index.rel_min[one.number] for one in chosen])[:, None]
    mask = grades >= 0
    return Lists(
        mask=jnp.asarray(mask),
        target=jnp.asarray(grades >= least, jnp.float32),
        gain=jnp.asarray(np.where(mask, 2.0**grades - 1.0, 0.0), jnp.float32),
        relevant=jnp.asarray(mask & (grades >= least)),
        reference=known.reference[0],
        reward=known.reward[0],
        preferences=known.preferences[0],
    )

"""What is known of the lists of a run beside their grades: preferences, rewards, stage-1 logits.

Side files are keyed by (qid, did); here they become arrays parallel to an `Index` (train/sizes.py),
from which the loader fills each batch. No JAX here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.plan import Chosen
from train.sizes import Index
from unirank_jax.content import MODALITIES
from unirank_jax.datasets.formats.problems import Problems
from unirank_jax.datasets.overlay import records

Scores = Mapping[str, Mapping[str, float]]  # qid -> did -> score


class Signals(NamedTuple):
    """Side information of a batch; padding and what is not known are 0. Leading axes as Targets."""

    preferences: Any  # (S, G, C, C) float32: weight of "i is better than j" at [i, j]
    reference: Any  # (S, G, C) float32: logits of stage 1
    reward: Any  # (S, G, C) float32: utility of a reward model; in stage 1 logits of a teacher
    modality: Any  # (S, G, C) int32: place in MODALITIES

    def part(self, first: int, end: int) -> Signals:
        """Of candidates `first` to `end`; preferences over all the others of their list."""
        return Signals(*(x[:, :, first:end] for x in self))


@dataclass(frozen=True)
class SignalTable:
    """Side information of a split.

    Attributes:
        pairs: list number -> (n, 3): slots of better and worse (positions in Index.items), weight.
        reference, reward: (N,) float32, parallel to Index.items; 0 where there is none.
        modality: (N,) int32, places in MODALITIES.
    """

    pairs: Mapping[int, np.ndarray]
    reference: np.ndarray
    reward: np.ndarray
    modality: np.ndarray

    def fill(self, lists: Sequence[Chosen], count: int, size: int) -> Signals:
        """Of one shard with room for `count` lists of `size`."""
        preferences = np.zeros((1, count, size, size), np.float32)
        reference, reward = (np.zeros((1, count, size), np.float32) for _ in range(2))
        modality = np.zeros((1, count, size), np.int32)
        for g, chosen in enumerate(lists):
            slots = chosen.slots
            modality[0, g, : len(slots)] = self.modality[slots]
            reference[0, g, : len(slots)] = self.reference[slots]
            reward[0, g, : len(slots)] = self.reward[slots]
            place = {int(slot): at for at, slot in enumerate(slots)}
            for better, worse, weight in self.pairs.get(chosen.number, ()):
                if int(better) in place and int(worse) in place:
                    preferences[0, g, place[int(better)], place[int(worse)]] += weight
        return Signals(preferences, reference, reward, modality)


def table(
    index: Index,
    preferences: Mapping[str, Iterable[tuple[str, str, float]]] | None = None,
    reference: np.ndarray | None = None,
    reward: Scores | None = None,
) -> SignalTable:
    """Side files as arrays.

    preferences: qid -> (better did, worse did, weight). reference: (N,), parallel to `index.items`.
    """
    pairs: dict[int, np.ndarray] = {}
    utility = np.zeros(len(index.items), np.float32)
    for number in range(len(index)):
        qid = str(index.queries[number])
        slots = np.arange(index.starts[number], index.starts[number + 1])
        slot_of = {str(index.item_ids[index.items[slot]]): int(slot) for slot in slots}
        found = [
            (slot_of[better], slot_of[worse], weight)
            for better, worse, weight in (preferences or {}).get(qid, ())
            if better in slot_of and worse in slot_of
        ]
        if found:
            pairs[number] = np.array(found, np.float64)
        for did, value in (reward or {}).get(qid, {}).items():
            if did in slot_of:
                utility[slot_of[did]] = value
    if reference is None:
        reference = np.zeros(len(index.items), np.float32)
    places = np.array([MODALITIES.index(str(one)) for one in index.item_modality], np.int32)
    return SignalTable(pairs, reference.astype(np.float32), utility, places[index.items])


def read_preferences(path: Path) -> dict[str, list[tuple[str, str, float]]]:
    """qid -> (better, worse, weight) of a file that `train.mine` wrote.

    Raises:
        FormatError: "file:line: field: problem; remedy" of every line that cannot be used.
    """
    problems = Problems()
    found: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
    for number, record in records(path, problems):
        try:
            weight = float(record["weight"])
            better, worse = str(record["better"]), str(record["worse"])
            if not weight > 0 or better == worse:
                raise ValueError
            found[str(record["qid"])].append((better, worse, weight))
        except (KeyError, TypeError, ValueError):
            told = "not a qid with two different dids (better, worse) and a weight above 0"
            problems.add(f"{path.name}:{number}", "line", told, "write it again with train.mine")
    problems.raise_any()
    return dict(found)


def turned(
    preferences: Mapping[str, Sequence[tuple[str, str, float]]], share: float, seed: int
) -> dict[str, list[tuple[str, str, float]]]:
    """Preferences of which about `share` are turned round: which ones, their ids and `seed` say."""
    found = {}
    for qid, some in preferences.items():
        chosen = [
            np.random.default_rng([seed, *f"{qid} {better} {worse}".encode()]).random() < share
            for better, worse, _ in some
        ]
        found[qid] = [
            (worse, better, weight) if wrong else (better, worse, weight)
            for (better, worse, weight), wrong in zip(some, chosen, strict=True)
        ]
    return found


def read_scores(path: Path, column: str) -> dict[str, dict[str, float]]:
    """qid -> did -> value of a file with {"qid", "dids", column} per line.

    Raises:
        FormatError: as `read_preferences`.
    """
    problems = Problems()
    found: dict[str, dict[str, float]] = {}
    for number, record in records(path, problems):
        try:
            values = [float(value) for value in record[column]]
            if not np.isfinite(values).all():
                raise ValueError
            found[str(record["qid"])] = dict(zip(map(str, record["dids"]), values, strict=True))
        except (KeyError, TypeError, ValueError):
            told = f"not a qid with dids and as many finite {column}"
            problems.add(f"{path.name}:{number}", "line", told, "score the lists again")
    problems.raise_any()
    return found

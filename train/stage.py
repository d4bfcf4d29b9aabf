"""What differs between the stages of training: the side information of lists, and the update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optax
from jax.sharding import Mesh

from train.config import ConfigError
from train.ranking import RankingObjective
from train.report import Rule
from train.settings import TrainConfig
from train.signals import (
    Scores,
    SignalTable,
    read_preferences,
    read_scores,
    table,
    turned,
)
from train.sizes import Index
from train.step import Params, Step, TrainState, learning_rate, make_step


class Stage(Protocol):
    """One stage of training."""

    @property
    def rule(self) -> Rule | None:
        """What ends a run that goes wrong."""

    def signals(
        self, index: Index, workdir: Path, data: str, first_logits: Callable[[], np.ndarray]
    ) -> SignalTable | None:
        """Side information of the training lists.

        data: fingerprint of the lists. first_logits: computes the logits of the network that the
        run starts from, (N,) parallel to `index.items`, NaN for unjudged candidates.
        """

    def step(
        self,
        objective: RankingObjective,
        optimizer: optax.GradientTransformation,
        places: TrainState,
        frozen: Params,
        mesh: Mesh,
    ) -> Step:
        """The compiled update."""


@dataclass(frozen=True)
class SupervisedStage:
    """Stage 1, and the reward model: a weighted sum of losses of labels or preferences.

    Raises:
        ConfigError: lists in chunks, which its losses cannot be computed from.
    """

    config: TrainConfig

    def __post_init__(self) -> None:
        if self.config.batch.chunks != 1:
            raise ConfigError("batch.chunks: this loss needs whole lists; set it to 1")

    @property
    def rule(self) -> Rule | None:
        return None

    def signals(
        self, index: Index, workdir: Path, data: str, first_logits: Callable[[], np.ndarray]
    ) -> SignalTable | None:
        config = self.config
        if not (config.data.preferences or config.data.teacher or "adversary" in config.loss):
            return None
        preferences = preferences_of(config, index) if config.data.preferences else None
        return table(index, preferences, reward=teacher_of(config, index))

    def step(
        self,
        objective: RankingObjective,
        optimizer: optax.GradientTransformation,
        places: TrainState,
        frozen: Params,
        mesh: Mesh,
    ) -> Step:
        config = self.config
        rate = learning_rate(config.optimizer, config.schedule)
        return make_step(objective, config.loss, optimizer, rate, places, frozen, mesh)


def teacher_of(config: TrainConfig, index: Index) -> Scores:
    """The teacher's logits of the configured files; without one, none.

    Raises:
        ConfigError: a file has none of the training lists.
        FormatError: lines that cannot be used.
    """
    found: dict[str, Mapping[str, float]] = {}
    asked = set(index.queries.tolist())
    for path in filter(None, config.data.teacher.split(",")):
        some = read_scores(Path(path), "logits")
        if not some.keys() & asked:
            raise ConfigError(
                f"data.teacher: {path} says nothing of the training lists; write it for those of "
                "data.lists with train.teach"
            )
        found |= some
    return found


def preferences_of(config: TrainConfig, index: Index) -> dict[str, Any]:
    """The preferences of the configured file.

    Raises:
        ConfigError: it has none of the training lists.
        FormatError: lines that cannot be used.
    """
    found = read_preferences(Path(config.data.preferences))
    if not found.keys() & set(index.queries.tolist()):
        raise ConfigError(
            f"data.preferences: {config.data.preferences} says nothing of the training lists; "
            "give the file that was mined with data.lists"
        )
    return turned(found, config.data.preference_noise, config.seed)

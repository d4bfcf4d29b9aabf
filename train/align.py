"""`python -m train.align`: stage 2, a query-level policy tuned on preferences and rewards.

The orders of each query's candidates are sampled from the policy that the logits define, rewarded,
and reinforced (train/alignment.py). One network is in the step: the logits of stage 1 that anchor
it and the rewards of `train.reward` are data. Running the same command again resumes, bit for bit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from train import processes
from train.align_step import make_policy_step
from train.alignment import AnchorSettings, PolicySettings
from train.compile_only import plan, render
from train.config import ConfigError, load, name_of, parse, require_size, to_dict
from train.diagnostics import write_page
from train.loop import StoppedError
from train.ranking import RankingObjective
from train.report import Rule
from train.settings import TrainConfig
from train.sft import EXPECTED, train
from train.signals import Scores, SignalTable, read_scores, table
from train.sizes import SHARED, Index
from train.stage import preferences_of
from train.step import Params, Step, TrainState, learning_rate
from train.stopping import verdict
from train.temperature import choose_temperature
from train.utility import utilities
from unirank_jax.hub import fingerprint


@dataclass(frozen=True)
class AlignConfig(TrainConfig):
    """Everything that `train.align` needs. `loss` is not used: the objective is `policy`."""

    policy: PolicySettings
    anchor: AnchorSettings
    rewards: str  # a file of `train.reward`; "" where no part of the objective needs one
    stop: bool  # end a run that goes wrong (train/stopping.py)


class AlignmentStage:
    """Stage 2; with policy.temperature = 0 it chooses one from the logits of stage 1."""

    def __init__(self, config: AlignConfig) -> None:
        self.config, self.policy = config, config.policy

    @property
    def rule(self) -> Rule | None:
        """See `Stage`."""
        return verdict if self.config.stop else None

    def signals(
        self, index: Index, workdir: Path, data: str, first_logits: Callable[[], np.ndarray]
    ) -> SignalTable:
        """See `Stage`."""
        config = self.config
        reference = reference_logits(reference_path(config, workdir, data), first_logits)
        preferences = preferences_of(config, index) if config.data.preferences else None
        rewards: Scores = {}
        if config.rewards:
            rewards = utilities(read_scores(Path(config.rewards), "rewards"))
            if not rewards.keys() & set(index.queries.tolist()):
                raise ConfigError(
                    f"rewards: {config.rewards} says nothing of the training lists; score those "
                    "of data.lists with train.reward"
                )
        found = table(index, preferences, np.nan_to_num(reference), rewards)
        if self.policy.temperature == 0:
            chosen = choose_temperature(index, found, config.data.list_size, self.policy)
            self.policy = replace(self.policy, temperature=chosen.temperature)
            print(f"policy.temperature: {chosen}")
        return found

    def step(
        self,
        objective: RankingObjective,
        optimizer: optax.GradientTransformation,
        places: TrainState,
        frozen: Params,
        mesh: Mesh,
    ) -> Step:
        """See `Stage`."""
        config = self.config
        rate = learning_rate(config.optimizer, config.schedule)
        return make_policy_step(
            objective,
            self.policy,
            config.anchor,
            config.seed,
            optimizer,
            rate,
            places,
            frozen,
            mesh,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run or resume. Exit code 0 when finished, 1 on an error, 143 when stopped by SIGTERM."""
    arguments = parse("align", __doc__ or "", "configs/sci_align.py", argv, compiles=True)
    workdir = Path(arguments.workdir)
    try:
        config: AlignConfig = load(arguments.config, arguments.set)
        if arguments.compile_only:
            policy = replace(config.policy, temperature=config.policy.temperature or 1.0)
            step = AlignmentStage(replace(config, policy=policy)).step
            print(render(config, plan(config, arguments.compile_only, step, signals=True)))
            return 0
        processes.join()
        accelerators = 0 if jax.default_backend() == "cpu" else jax.device_count()
        require_size(arguments.config, accelerators)
        check(config)
        try:
            outcome = train(config, workdir, AlignmentStage(config))
        finally:
            write_page(workdir)  # also of a run that a rule has ended
    except (*EXPECTED, StoppedError) as error:
        return processes.failed("train.align", error, workdir)
    if not outcome.finished:
        print(f"stopped at step {outcome.step}; run the same command again to go on")
        return 143
    return 0


def check(config: AlignConfig) -> None:
    """Settings that contradict each other.

    Raises:
        ConfigError: all of them.
    """
    policy = config.policy
    sampled = policy.algorithm == "policy"
    paired = policy.algorithm in ("bernoulli", "dpo", "pairs") or (sampled and policy.preference)
    rewarded = policy.utility == "reward" and (
        policy.algorithm in ("first", "target") or (sampled and policy.dcg)
    )
    checks = (
        (policy.samples > 1, "policy.samples must be at least 2: the others are the baseline"),
        (policy.temperature >= 0, "policy.temperature must be positive, or 0 to have it chosen"),
        (policy.placements > 0, "policy.placements must be at least 1"),
        (policy.cutoff > 0, "policy.cutoff must be at least 1"),
        (min(policy.clip) > 0, "policy.clip must be positive"),
        (
            not paired or bool(config.data.preferences),
            f"policy.algorithm={policy.algorithm} needs data.preferences (or policy.preference=0)",
        ),
        (
            not rewarded or bool(config.rewards),
            "policy.utility=reward needs rewards, a file of train.reward; or choose gain",
        ),
    )
    problems = [message for good, message in checks if not good]
    if problems:
        raise ConfigError("\n".join(problems))


def reference_logits(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The logits of stage 1 for all candidates, kept in a file."""
    if processes.same(path.exists()):
        return np.load(path, allow_pickle=False)
    logits = compute()  # by all processes together
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp.npy")
        np.save(temporary, logits, allow_pickle=False)
        temporary.replace(path)
    return logits


def reference_path(config: AlignConfig, workdir: Path, data: str) -> Path:
    """Where they are kept: in the run's folder, or in the one that runs share (train/sizes.py).

    There the name is made of everything that they depend on; a stage 1 that is no exported folder
    stays with the run.
    """
    stage1 = Path(config.model.init)
    if not os.environ.get(SHARED) or not (stage1 / "unirank.json").exists():
        return workdir / "cache" / f"reference-{data[:16]}.npy"
    depends = (config.model, config.data, config.batch, config.lora, config.mesh)
    told = [data, fingerprint(stage1), list(config.freeze), *map(to_dict, depends)]
    return Path(os.environ[SHARED]) / f"reference-{name_of(told)}.npy"


if __name__ == "__main__":
    sys.exit(main())

"""`python -m train.reward`: a reward model of preferences, and what it says of the training lists.

A reranker is tuned on pairs "i is better than j" (Bradley-Terry), from stage 1, several times with
`members` > 1. Its accuracy on preferences of the validation split is told by type (which modality
is preferred to which); a model that is bad at a type is refused, because a policy would learn its
mistakes. Then all training lists are scored, for `train.align`. Running the same command again
goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train import processes
from train.config import ConfigError, load, parse, require_size
from train.contenders import exported
from train.evaluation import content
from train.inputs import open_data
from train.pool_scores import read
from train.settings import TrainConfig
from train.sft import EXPECTED, train
from train.signals import read_preferences
from unirank_jax.datasets.dataset import Dataset, open_source
from unirank_jax.datasets.formats.writing import json_line, write_lines
from unirank_jax.datasets.forms import in_form
from unirank_jax.datasets.overlay import overlaid
from unirank_jax.loading import load as load_reranker
from unirank_jax.reranker import Reranker

ACCURACY = "accuracy.json"
REWARDS = "rewards.jsonl.gz"
CHUNK = 256  # queries scored at a time
LEAST = 0.6  # accuracy of every type, or the model is refused
BEHIND = 0.10  # how far accuracy across modalities may lie behind that within one


@dataclass(frozen=True)
class RewardConfig(TrainConfig):
    """Everything that `train.reward` needs."""

    members: int  # models, with seeds one after the other
    caution: float  # the reward is the members' mean less so many of their standard deviations
    valid_lists: str  # mined lists and preferences of the validation split
    valid_preferences: str
    accept: bool  # go on with a model that the rule refuses
    scored_lists: str = ""  # lists that the models score instead of those they were tuned on


class RewardError(ValueError):
    """A reward model that does not tell good from bad."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run or go on. Exit code 0 when the rewards are written, 1 on an error, 143 on SIGTERM."""
    arguments = parse("reward", __doc__ or "", "configs/sci_reward.py", argv)
    workdir = Path(arguments.workdir)
    try:
        processes.join()
        accelerators = 0 if jax.default_backend() == "cpu" else jax.device_count()
        require_size(arguments.config, accelerators)
        return run(load(arguments.config, arguments.set), workdir)
    except (*EXPECTED, RewardError) as error:
        return processes.failed("train.reward", error, workdir)


def run(config: RewardConfig, workdir: Path) -> int:
    """Train the members, measure them, score the lists.

    Raises:
        RewardError: the members' mean is bad at a type of preference.
    """
    check(config)
    folders = []
    for member in range(config.members):
        folder = workdir / f"member-{member}"
        outcome = train(replace(config, seed=config.seed + member), folder)
        if not outcome.finished:
            print(f"stopped in member {member}; run the same command again to go on")
            return 143
        folders.append(folder)
    rewards = [_scored(folder, config, "train", folder / REWARDS) for folder in folders]
    if config.valid_preferences:
        valid = [
            _scored(folder, config, "valid", folder / f"valid-{REWARDS}") for folder in folders
        ]
        found = accuracy(
            read_preferences(Path(config.valid_preferences)),
            _kinds(Path(config.valid_preferences)),
            combined(valid, config.caution),
        )
        write_lines(workdir / ACCURACY, [json.dumps(found, indent=1), "\n"])
        for kind, (share, count) in found.items():
            print(f"{kind}: {100 * share:.1f} % of {count} preferences")
        problems = refusals(found)
        if problems and not config.accept:
            raise RewardError("; ".join(problems) + " (accept=true goes on all the same)")
    mean = combined(rewards, config.caution)
    write_lines(
        workdir / REWARDS,
        (
            json_line({"qid": qid, "dids": list(some), "rewards": _plain(some.values())})
            for qid, some in mean.items()
        ),
    )
    print(f"{workdir / REWARDS}: rewards of {len(mean)} lists, of {config.members} models")
    return 0


def check(config: RewardConfig) -> None:
    """Settings that contradict each other.

    Raises:
        ConfigError: all of them.
    """
    checks = (
        (config.members > 0, "members must be at least 1"),
        (bool(config.data.preferences), "data.preferences: give a file of train.mine"),
        (config.loss.get("preference", 0) > 0, "loss.preference must be positive"),
        (
            bool(config.valid_lists) == bool(config.valid_preferences),
            "valid_lists and valid_preferences belong together: give both files of train.mine with "
            "split=valid, or none",
        ),
    )
    problems = [message for good, message in checks if not good]
    if problems:
        raise ConfigError("\n".join(problems))


Rewards = dict[str, dict[str, float]]  # qid -> did -> reward


def combined(members: Sequence[Rewards], caution: float) -> Rewards:
    """Mean of the members less `caution` standard deviations (conservative where they disagree)."""
    found: Rewards = {}
    for qid, first in members[0].items():
        values = np.array([list(one[qid].values()) for one in members])  # (members, C)
        found[qid] = dict(
            zip(first, (values.mean(0) - caution * values.std(0)).tolist(), strict=True)
        )
    return found


def accuracy(
    preferences: Mapping[str, Sequence[tuple[str, str, float]]],
    kinds: Mapping[tuple[str, str, str], str],
    rewards: Rewards,
) -> dict[str, tuple[float, int]]:
    """Share of preferences that rewards agree with (a tie is half), and their number, by type.

    Types are "text > image" and the like; "all", "within" (one modality) and "across" besides.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for qid, some in preferences.items():
        for better, worse, _ in some:
            own = rewards.get(qid, {})
            if better not in own or worse not in own:
                continue
            right = 0.5 + 0.5 * float(np.sign(own[better] - own[worse]))
            kind = kinds[qid, better, worse]
            first, _, second = kind.partition(" > ")
            for name in ("all", "within" if first == second else "across", kind):
                found[name].append(right)
    return {name: (float(np.mean(some)), len(some)) for name, some in sorted(found.items())}


def refusals(found: Mapping[str, tuple[float, int]]) -> list[str]:
    """Why a reward model must not be used; empty where nothing speaks against it."""
    problems = [
        f"{kind}: {100 * share:.1f} % right, less than {100 * LEAST:.0f} %"
        for kind, (share, _) in found.items()
        if " > " in kind and share < LEAST
    ]
    if "within" in found and "across" in found:
        behind = found["within"][0] - found["across"][0]
        if behind > BEHIND:
            problems.append(
                f"across modalities {100 * behind:.1f} points less right than within, more than "
                f"{100 * BEHIND:.0f}"
            )
    return problems


def _scored(folder: Path, config: RewardConfig, split: str, path: Path) -> Rewards:
    """Logits of a member for all lists of a split, kept in a file."""
    if not path.exists():
        with exported(str(folder), "last") as model:
            reranker = load_reranker(model)
            write_lines(path, map(json_line, _records(config, split, reranker)))
    return {one["qid"]: dict(zip(one["dids"], one["rewards"], strict=True)) for one in read(path)}


def _records(config: RewardConfig, split: str, reranker: Reranker) -> Iterator[dict[str, Any]]:
    if split == "train":
        lists = config.scored_lists or config.data.lists
        dataset: Dataset = open_data(replace(config.data, lists=lists), reranker.prompt.spec)
        split = config.data.train_split
    else:
        own = overlaid(open_source(config.data.source), split, config.valid_lists)
        dataset = in_form(own, config.data.form, reranker.prompt.spec)
    count = len(dataset.lists(split))
    for start in range(0, count, CHUNK):
        examples = [dataset.example(split, n) for n in range(start, min(start + CHUNK, count))]
        logits = reranker.logits_many(
            [content(one.query.parts) for one in examples],
            [[content(item.parts) for item in one.candidates] for one in examples],
            instruction=[one.query.instruction for one in examples],
        )
        for one, values in zip(examples, logits, strict=True):
            dids = [item.did for item in one.candidates]
            yield {"qid": one.query.qid, "dids": dids, "rewards": _plain(values)}


def _kinds(path: Path) -> dict[tuple[str, str, str], str]:
    return {(one["qid"], one["better"], one["worse"]): one["kind"] for one in read(path)}


def _plain(values: Any) -> list[float]:
    """9 digits carry a float32 without loss."""
    return [float(f"{value:.9g}") for value in values]


if __name__ == "__main__":
    sys.exit(main())

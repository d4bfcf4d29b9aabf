"""`python -m train.study`: what each way to go on from stage 1 gains, with its controls.

One command mines, trains a reward model, sweeps the learning rate of every arm on the validation
split with one seed, trains the chosen ones with more seeds, scores every model once on the test
split, and writes the table (table.md, table.json). Every arm has as many steps of as many lists,
and the same sweep. It runs other commands of this package one after the other; killed at any point,
the same command goes on, also in a copy of its folder without the checkpoints of what is done: a
model is scored on the test split as soon as it is trained and nothing of it is left to choose.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from train.config import ConfigError, keep, load, parse, to_dict
from train.sizes import SHARED
from train.study_lists import FILES, list_file, mining, write_list_files
from train.study_numbers import REWARD, STAGE1, StudyError, collect, macro
from train.study_table import write_table
from train.tasks import Task, alone, run_all

ABOUT = "study.json"
BEST = "hit@1"  # chooses learning rates: macro over the kinds of the validation split
TOP100 = "top100"
SWEPT = "swept"
LISTS = ("lists20", TOP100)


@dataclass(frozen=True)
class Arm:
    """One way to go on from stage 1."""

    command: Literal["sft", "align"]  # both with the configuration `StudyConfig.train`
    changes: tuple[str, ...]  # --set
    claim: bool  # carries a claim: trained with all seeds, else with the first two


@dataclass(frozen=True)
class StudyConfig:
    """Everything that `train.study` needs."""

    name: str
    source: str  # dataset folder
    stage1: str  # exported stage 1
    dual_encoder: str  # pretrained folder that retrieves
    others: dict[str, str]  # more rows: name -> [exported folder or run][:form]
    mine: str  # configurations that the steps start from
    reward: str
    train: str
    mined_lists: int  # training queries that are mined
    valid_lists: int
    mined_per_form: int  # texts, and items with an image, of each query's pool
    steps: int
    rates: tuple[float, ...]  # learning rates of the sweep
    seeds: int
    members: int  # reward models
    test_lists: int  # at most so many lists of 20; 0 = all
    top100_lists: int  # and of 100, five times the work each
    resamples: int
    arms: dict[str, Arm]
    judged_on: str = "test"  # the split that the table is about
    first_seed: int = 0  # the sweep has it; the others follow
    mined: str = ""  # folder of another study whose mining is used; "" = its own
    mine_changes: tuple[str, ...] = ()  # --set of the mining
    reward_changes: tuple[str, ...] = ()  # and of the reward models
    own: bool = False  # the dataset's own candidates join the mined lists in every arm
    labelled: int = 0  # so many of the mined lists, evenly spaced, are all that train.sft and the
    # reward models see, as if nobody had judged the others; 0 = all


def main(argv: Sequence[str] | None = None) -> int:
    """Run or go on. Exit code 0 when the table is written, 1 on an error."""
    arguments = parse("study", __doc__ or "", "configs/sci_study.py", argv, jobs=True)
    try:
        run(load(arguments.config, arguments.set), Path(arguments.workdir), arguments.jobs)
    except (ConfigError, StudyError) as error:
        print(f"train.study: {error}", file=sys.stderr)
        return 1
    return 0


def run(config: StudyConfig, workdir: Path, jobs: int = 1) -> None:
    """Everything that is not done yet, in order; as many commands at once as there are jobs.

    Raises:
        ConfigError: the folder holds a study of another configuration.
        StudyError: a command failed, or the folder is in use.
    """
    check(config)
    workdir.mkdir(parents=True, exist_ok=True)
    keep(workdir / ABOUT, to_dict(config), "a study of another configuration")
    folders = {"JAX_COMPILATION_CACHE_DIR": "programs", SHARED: "shared"}  # one for all commands
    places = {name: str((workdir / folder).absolute()) for name, folder in folders.items()}
    environment = places | os.environ  # the user's own choice first
    with alone(workdir) as lock:
        _go_on(
            config,
            workdir,
            partial(run_all, environment=environment, lock=lock, jobs=jobs, logs=workdir / "logs"),
        )


def _go_on(
    config: StudyConfig, workdir: Path, run_them: Callable[[Sequence[Sequence[Task]]], None]
) -> None:
    *mining_tasks, rewarding_task = preparation(config, workdir)
    found = [
        retrieval(config, workdir, split) for split in dict.fromkeys(("valid", config.judged_on))
    ]
    run_them([[task] for task in (*mining_tasks, *found)])
    write_list_files(config, workdir)
    run_them([[rewarding_task]])
    # the fusion of stage 1 and the reward model is tuned on valid
    rewarding = {
        f"reward model {n}": str(workdir / "reward" / f"member-{n}") for n in range(config.members)
    }
    tuned = {STAGE1: config.stage1, REWARD: rewarding[REWARD]}
    tasks = scoring(config, "valid", LISTS[0], tuned, workdir)
    tasks += tested(config, workdir, {STAGE1: config.stage1, **rewarding, **config.others})
    run_them([[task] for task in tasks])
    run_them([chain for arm in config.arms for chain in sweep(config, arm, workdir)])
    chosen = {arm: chosen_rate(config, arm, workdir) for arm in config.arms}
    for arm, (rate, values) in chosen.items():
        told = ", ".join(f"{one:g}: {100 * value:.1f}" for one, value in values.items())
        print(f"{arm}: learning rate {rate:g} of {{{told}}} ({BEST} in percent, see chosen_rate)")
    chains = []
    for arm, (rate, _) in chosen.items():
        for seed in range(config.first_seed, config.first_seed + seeds_of(config, arm)):
            folder = run_folder(workdir, arm, rate, seed)
            judging = tested(config, workdir, {f"{arm} {seed}": str(folder)})
            chains.append([training(config, arm, rate, seed, workdir), *judging])
    run_them(chains)
    write_table(workdir, tuple(config.arms), LISTS, {a: r for a, (r, _) in chosen.items()}, config)


def check(config: StudyConfig) -> None:
    """Settings that contradict each other.

    Raises:
        ConfigError: all of them.
    """
    checks = (
        (bool(config.stage1), "stage1: give the exported folder of train.sft"),
        (bool(config.rates), "rates: give at least one learning rate"),
        (config.seeds > 0, "seeds must be at least 1"),
        (config.members > 0, "members must be at least 1"),
        (bool(config.arms), "arms: give at least one"),
        (
            not (config.mined and config.mine_changes),
            "mine_changes: the mining of another study is as it is; give one of the two",
        ),
        (
            not {name for name in config.arms if " " in name},
            "arms: no space in a name; a seed follows it",
        ),
    )
    problems = [message for good, message in checks if not good]
    if problems:
        raise ConfigError("\n".join(problems))


# The commands -------------------------------------------------------------------------------------


def preparation(config: StudyConfig, workdir: Path) -> list[Task]:
    """Mining of both splits, and the reward model."""
    tasks: list[Task] = []
    splits = (("train", config.mined_lists), ("valid", config.valid_lists))
    for split, limit in () if config.mined else splits:
        settings = [f"source={config.source}", f"model={config.stage1}", f"split={split}"]
        settings += [f"dual_encoder={config.dual_encoder}", f"limit={limit}"]
        settings += [f"texts={config.mined_per_form}", f"images={config.mined_per_form}"]
        folder = workdir / f"mine-{split}"
        argv = ["train.mine", "--config", config.mine, "--workdir", str(folder), "--set"]
        argv += [*settings, *config.mine_changes]
        tasks.append(Task(f"mine {split}", tuple(argv), folder / "summary.json"))
    settings = [*_data(config, workdir, own=False, labelled=True)]
    settings += [f"members={config.members}", "accept=true"]
    valid = mining(config, workdir, "valid")
    settings += [f"valid_{name}={valid / file}" for name, file in FILES.items()]
    settings += [f"scored_lists={list_file(config, workdir, own=True, labelled=False)}"]
    folder = workdir / "reward"
    argv = ["train.reward", "--config", config.reward, "--workdir", str(folder), "--set"]
    argv += [*settings, *config.reward_changes]
    return [*tasks, Task("reward model", tuple(argv), folder / "rewards.jsonl.gz")]


def _data(config: StudyConfig, workdir: Path, own: bool, labelled: bool) -> list[str]:
    """See `list_file`."""
    lists = list_file(config, workdir, own=own, labelled=labelled)
    preferences = mining(config, workdir, "train") / FILES["preferences"]
    settings = [f"data.source={config.source}", f"model.init={config.stage1}"]
    return [*settings, f"data.lists={lists}", f"data.preferences={preferences}"]


def run_folder(workdir: Path, arm: str, rate: float, seed: int) -> Path:
    """Where an arm's model is."""
    return workdir / "runs" / f"{arm}-{rate:g}-{seed}"


def training(config: StudyConfig, arm: str, rate: float, seed: int, workdir: Path) -> Task:
    """One training."""
    chosen, folder = config.arms[arm], run_folder(workdir, arm, rate, seed)
    settings = [*_data(config, workdir, own=True, labelled=chosen.command == "sft")]
    settings += [f"schedule.steps={config.steps}", f"seed={seed}"]
    settings += [f"optimizer.lr={rate:g}", f"evaluation.every_steps={config.steps}"]
    settings += [f"evaluation.lists={config.valid_lists}"]
    if chosen.command == "align":
        # Every arm runs to its end: one that a rule cut short would compare fewer steps.
        settings += [f"rewards={workdir / 'reward' / 'rewards.jsonl.gz'}", "stop=false"]
    argv = (f"train.{chosen.command}", "--config", config.train, "--workdir", str(folder), "--set")
    return Task(
        f"{arm}, rate {rate:g}, seed {seed}", (*argv, *settings, *chosen.changes), folder / "done"
    )


def sweep(config: StudyConfig, arm: str, workdir: Path) -> list[list[Task]]:
    """Every learning rate with the first seed, and what it makes of lists of a first stage."""
    chains: list[list[Task]] = []
    for rate in config.rates:
        folder = run_folder(workdir, arm, rate, config.first_seed)
        judging = scoring(config, "valid", TOP100, {SWEPT: str(folder)}, workdir, _swept(folder))
        chains.append([training(config, arm, rate, config.first_seed, workdir), *judging])
    return chains


def _swept(run: Path) -> Path:
    """Where the validation scores of a run of the sweep are."""
    return run.parent.parent / "scores" / "sweep" / run.name


def seeds_of(config: StudyConfig, arm: str) -> int:
    """How often an arm is trained."""
    return config.seeds if config.arms[arm].claim else min(2, config.seeds)


def tested(config: StudyConfig, workdir: Path, models: dict[str, str]) -> list[Task]:
    """Each model's scores of both sorts of test lists."""
    split = config.judged_on
    return [task for lists in LISTS for task in scoring(config, split, lists, models, workdir)]


def scoring(
    config: StudyConfig,
    split: str,
    lists: str,
    models: dict[str, str],
    workdir: Path,
    folder: Path | None = None,
) -> list[Task]:
    """Each model's scores of every list, in a folder; beside stage 1 those of the baselines."""
    folder = folder or workdir / "scores" / f"{split}-{lists}"
    common = ["--data", config.source, "--split", split, "--resamples", "100", "--shown", "0"]
    short = config.test_lists if split == config.judged_on else config.valid_lists
    limit = config.top100_lists if lists == TOP100 else short
    common += ["--limit", str(limit)] if limit else []
    if lists == TOP100:
        common += ["--lists", str(_found_lists(workdir, split))]
    dual = ["--dual-encoder", config.dual_encoder]
    tasks: list[Task] = []
    for name, path in models.items():
        out = folder / name.replace(" ", "-")
        argv = ["train.evaluate", "--model", f"{name}={path}", "--step", "last", "--out", str(out)]
        argv += common + (dual if name == STAGE1 else [])
        tasks.append(Task(f"{split} {lists}: {name}", tuple(argv), out / "done"))
    return tasks


def retrieval(config: StudyConfig, workdir: Path, split: str) -> Task:
    """What a first stage finds for the queries of a split."""
    folder = _found(workdir, split)
    argv = ["train.retrieve", "--data", config.source, "--dual-encoder", config.dual_encoder]
    argv += ["--split", split, "--out", str(folder)]
    argv += ["--limit", str(config.top100_lists)] if config.top100_lists else []
    return Task(f"first stage of {split}", tuple(argv), folder / "done")


def _found(workdir: Path, split: str) -> Path:
    return workdir / "scores" / f"found-{split}"


def _found_lists(workdir: Path, split: str) -> Path:
    """The file that `retrieval` wrote; its name where it has not yet."""
    found = _found(workdir, split).glob("top100-*.jsonl.gz")
    written = [path for path in found if "first-stage" not in path.name]
    return written[0] if written else _found(workdir, split) / "top100.jsonl.gz"


def chosen_rate(config: StudyConfig, arm: str, workdir: Path) -> tuple[float, dict[float, float]]:
    """The learning rate with the best validation metric, and all of them.

    The mean of lists of 20, told by the run after its last step, and lists of a first stage.
    """
    values: dict[float, float] = {}
    for rate in config.rates:
        run = run_folder(workdir, arm, rate, config.first_seed)
        found = collect(_swept(run))
        values[rate] = 0.5 * last_valid(run / "metrics.jsonl")
        values[rate] += 0.5 * macro(found.scores[SWEPT], found.lists)
    return max(values, key=lambda rate: values[rate]), values


def last_valid(path: Path) -> float:
    """The metric of the last evaluation of a finished run."""
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [one for one in found if one["kind"] == "valid"][-1][BEST]


if __name__ == "__main__":
    sys.exit(main())

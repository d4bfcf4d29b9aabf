"""A reward model of mined preferences on scientific lists, for `configs/sci_align.py`.

    python -m train.mine --config configs/sci_mine.py:open --set source=DIR model=STAGE1 \\
        --workdir runs/mine
    python -m train.mine --config configs/sci_mine.py:open --set source=DIR model=STAGE1 \\
        split=valid limit=500 --workdir runs/mine-valid
    python -m train.reward --config configs/sci_reward.py --set data.source=DIR model.init=STAGE1 \\
        data.lists=runs/mine/mined.jsonl.gz data.preferences=runs/mine/preferences.jsonl.gz \\
        valid_lists=runs/mine-valid/mined.jsonl.gz \\
        valid_preferences=runs/mine-valid/preferences.jsonl.gz --workdir runs/reward

`STAGE1` is an exported reranker. `--set loss.adversary=0.1` makes it hide the modality of what it
judges (train/adversary.py), `members=3` trains three and takes their cautious mean. One epoch: a
reward model that sees its pairs again learns them by heart (InstructGPT, C.2).
"""

from dataclasses import replace

from configs import published, sci
from train.config import choose
from train.reward import RewardConfig
from train.settings import BatchSettings, ScheduleSettings, TrainConfig, extended


def of(base: TrainConfig) -> RewardConfig:
    """A reward model of the same kind as a stage-1 run, at half its learning rate."""
    return extended(
        RewardConfig,
        base,
        name=base.name + "_reward",
        loss={"preference": 1.0, "centre": 0.01},
        optimizer=replace(base.optimizer, lr=0.5 * base.optimizer.lr),
        members=1,
        caution=0.5,
        valid_lists="",
        valid_preferences="",
        accept=False,
    )


def tiny() -> RewardConfig:
    """Of the embedded default, on its own mistakes."""
    lists = sci.open_lists()
    return replace(
        of(lists),
        name="sci_reward",
        model=replace(lists.model, init=sci.DEFAULT),
        data=replace(lists.data, source="data/sci-open", list_size=8, max_positives=3),
        batch=BatchSettings(lists=16, accumulate=1),
        schedule=ScheduleSettings(steps=400, warmup_steps=20, final_fraction=0.05),
        evaluation=replace(lists.evaluation, every_steps=200, lists=200),
    )


def get_config(argument: str | None = None) -> RewardConfig:
    return choose(argument, {"tiny": tiny, **published.sizes("sci", sci.tiny(), of)}, "tiny")

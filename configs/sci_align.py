"""Stage 2 on scientific lists: a query-level policy on preferences and rewards.

    python -m train.align --config configs/sci_align.py --set data.source=DIR model.init=STAGE1 \\
        data.lists=runs/mine/mined.jsonl.gz data.preferences=runs/mine/preferences.jsonl.gz \\
        rewards=runs/reward/rewards.jsonl.gz --workdir runs/align
    python -m train.align --config configs/sci_align.py:gold ...      # graded labels as the reward
    python -m train.align --config configs/sci_align.py --set policy.algorithm=dpo ...

The files are those of `configs/sci_reward.py`. `policy.temperature=0` chooses it from the logits of
stage 1. The control is `train.sft` on the same lists for as many steps.
"""

from dataclasses import replace

from configs import published, sci
from train.align import AlignConfig
from train.alignment import AnchorSettings, PolicySettings
from train.config import choose
from train.settings import BatchSettings, ScheduleSettings, TrainConfig, extended

POLICY = PolicySettings(
    algorithm="policy",
    samples=16,
    temperature=0.0,
    placements=10,
    cutoff=10,
    utility="reward",
    dcg=1.0,
    preference=0.5,
    hit=0.0,
    reciprocal=0.0,
    credit="to_go",
    baseline=True,
    scale="batch",
    clip=(0.2, 0.2),
    dpo_scale=0.3,
)
ANCHOR = AnchorSettings(bernoulli=0.05, direction="forward", first=0.01, bce=0.2, entropy=0.0)


def of(base: TrainConfig) -> AlignConfig:
    """Alignment of a model of the same kind as a stage-1 run."""
    name = base.name + "_align"
    return extended(
        AlignConfig, base, name=name, policy=POLICY, anchor=ANCHOR, rewards="", stop=True
    )


def tiny() -> AlignConfig:
    """The embedded default on its own mistakes."""
    lists = sci.open_lists()
    return replace(
        of(lists),
        name="sci_align",
        model=replace(lists.model, init=sci.DEFAULT),
        data=replace(lists.data, source="data/sci-open", list_size=8, max_positives=3, buckets=3),
        batch=BatchSettings(lists=32, accumulate=2),
        optimizer=replace(lists.optimizer, lr=2e-4),
        schedule=ScheduleSettings(steps=400, warmup_steps=20, final_fraction=0.05),
        evaluation=replace(lists.evaluation, every_steps=100, lists=300),
    )


def gold() -> AlignConfig:
    """Grades as the reward: nDCG@10 and half a relevant candidate first. No reward model."""
    base = tiny()
    policy = replace(base.policy, utility="gain", preference=0.0, hit=0.5)
    return replace(base, name="sci_align_gold", policy=policy)


def get_config(argument: str | None = None) -> AlignConfig:
    return choose(
        argument,
        {
            "tiny": tiny,
            "gold": gold,
            **published.sizes("sci", sci.tiny(), of),
        },
        "tiny",
    )

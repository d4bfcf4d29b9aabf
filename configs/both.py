"""One model for both domains: scientific lists and design lists in one run.

    python -m train.cloze --data data/sci --lists 12000 --valid 300 --out runs/cloze-sci
    python -m train.cloze --data data/design --lists 8000 --pictures 6000 --valid 300 \\
        --out runs/cloze-design
    python -m train.sft --config configs/both.py:cloze
    python -m train.sft --config configs/both.py            # the lists of both domains beside these

`data/sci` and `data/design` are what `python -m unirank_jax.datasets.build` writes; `--set
data.source=A,B,C,D` gives other folders, in this order. The same command again resumes.
"""

from dataclasses import replace

from configs import sci
from train.config import choose
from train.settings import BatchSettings, CheckpointSettings, ScheduleSettings, TrainConfig

CLOZE = "runs/cloze-sci,runs/cloze-design"


def cloze() -> TrainConfig:
    """First leg, from the shipped default: words and pictures of the query come up again.

    The tower is trained too: it has seen molecules and figures alone.
    """
    base = sci.cloze()
    return replace(
        base,
        name="both_cloze",
        data=replace(base.data, source=CLOZE, kind_power=0.7),
        batch=BatchSettings(lists=12, accumulate=1),
        schedule=ScheduleSettings(steps=800, warmup_steps=40, final_fraction=0.2),
        freeze=(),
        evaluation=replace(base.evaluation, every_steps=200, lists=400),
        checkpoint=CheckpointSettings(every_steps=100, keep=2),
    )


def tiny() -> TrainConfig:
    """Second leg: the lists of both domains beside those of the first."""
    base = sci.mixed()
    return replace(
        base,
        name="both",
        model=replace(base.model, init="runs/sft-both-cloze"),
        data=replace(base.data, source=f"data/sci,data/design,{CLOZE}", buckets=8),
        schedule=ScheduleSettings(steps=4000, warmup_steps=40, final_fraction=0.02),
        freeze=(),
        evaluation=replace(base.evaluation, every_steps=500, lists=600),
    )


def get_config(argument: str | None = None) -> TrainConfig:
    """`tiny` (default) or `cloze`."""
    return choose(argument, {"tiny": tiny, "cloze": cloze}, "tiny")

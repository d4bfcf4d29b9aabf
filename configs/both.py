"""One model for both domains: goes on from `configs/sci.py:mixed` with design lists beside it.

    python -m train.cloze --data data/sci --lists 12000 --valid 300 --out runs/cloze
    python -m train.cloze --data data/design --lists 8000 --pictures 6000 --valid 300 \\
        --out runs/cloze-design
    python -m train.sft --config configs/both.py

`data/sci` and `data/design` are what `python -m unirank_jax.datasets.build` writes; `--set
data.source=A,B,C,D` gives other folders, in this order. The same command again resumes.
"""

from dataclasses import replace

from configs import sci
from train.config import choose
from train.settings import TrainConfig


def tiny() -> TrainConfig:
    """The tower is trained too: it has seen molecules and figures alone."""
    base = sci.stage1()
    return replace(
        base,
        name="both",
        model=replace(base.model, init="results/m2/stage1-sci"),
        data=replace(
            base.data, source="data/sci,data/design,runs/cloze,runs/cloze-design", buckets=5
        ),
    )


def small() -> TrainConfig:
    """The small size: from `configs/design.py:words`, its tower from
    `configs/design_pretrain.py:small_tower`. Tower and token table keep what they know."""
    base = tiny()
    return replace(
        base,
        name="both_small",
        model=replace(base.model, init="runs/small-base", unroll=True),
        data=replace(
            base.data,
            source="data/sci,data/design,runs/cloze,runs/cloze-design,runs/words-sci,"
            "runs/words-design",
            buckets=3,
        ),
        loss={"bce": 0.5, "softmax": 1.0, "overlap": 0.5},
        optimizer=replace(base.optimizer, lr=2e-3),
        freeze=(r"vision\.(patch|table|stage_\d+).*", r"text\.embed\..*"),
        schedule=replace(base.schedule, steps=1600, warmup_steps=20),
        checkpoint=replace(base.checkpoint, every_steps=100, keep=2),
    )


def get_config(argument: str | None = None) -> TrainConfig:
    """`tiny` or `small`."""
    return choose(argument, {"tiny": tiny, "small": small}, "tiny")

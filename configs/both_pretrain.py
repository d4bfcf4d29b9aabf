"""Visual pretraining of the small size on both domains: pictures come to name words.

    python -m train.pretrain --config configs/both_pretrain.py --workdir runs/small-tower
    python -m train.pretrain --config configs/both_pretrain.py:alike --workdir runs/small-alike
    python -m train.pretrain --config configs/both_pretrain.py:contrast --workdir runs/contrast

The legs stand between those of `configs/both.py`, whose docstring has all steps. The token table,
which holds word vectors, stays as it is, and in the first two the decoder too: what a picture names
carries over to words that no caption holds.
"""

from dataclasses import replace

from configs import design_pretrain
from train.config import choose
from train.pretrain import PretrainConfig
from train.settings import LogSettings, ScheduleSettings


def small() -> PretrainConfig:
    """The one leg: ten minutes of two CPU cores."""
    base = design_pretrain.tiny()
    return replace(
        base,
        name="small_tower",
        preset="small",
        init="runs/words-exported",
        source="data/design,data/sci",
        tokenizer="runs/words-exported",
        pools={
            "icon": 24,
            "emoji": 12,
            "furniture": 12,
            "clipart": 8,
            "molecule": 32,
            "figure": 8,
        },
        pairs=replace(base.pairs, units=96, image_query_share=0.0),
        loss={"named": 1.0},
        freeze=(r"text\..*",),
        schedule=ScheduleSettings(steps=700, warmup_steps=20, final_fraction=0.05),
        evaluate_every=350,
        log=LogSettings(every_steps=25, profile_steps=(0, 0)),
    )


def alike() -> PretrainConfig:
    """A second leg: drawings of one object come to be alike, and still name their words."""
    base = small()
    return replace(
        base,
        name="small_alike",
        init="runs/small-tower",
        pairs=replace(base.pairs, image_query_share=0.5),
        loss={"named": 1.0, "alike": 1.0},
        optimizer=replace(base.optimizer, lr=1e-3),
        schedule=replace(base.schedule, steps=500),
        evaluate_every=250,
    )


def contrast() -> PretrainConfig:
    """A third leg: names, cards and drawings of one object come together in the decoder."""
    base = alike()
    return replace(
        base,
        name="small_contrast",
        init="runs/cloze-exported",
        pairs=replace(base.pairs, image_query_share=0.35),
        loss={"contrast": 1.0, "named": 0.3, "alike": 0.3},
        freeze=(r"text\.embed\..*",),
        schedule=ScheduleSettings(steps=2000, warmup_steps=40, final_fraction=0.05),
        evaluate_every=500,
    )


def get_config(argument: str | None) -> PretrainConfig:
    return choose(argument, {"small": small, "alike": alike, "contrast": contrast}, "small")

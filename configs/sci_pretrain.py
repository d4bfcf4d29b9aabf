"""Visual pretraining of the tiny model, from which `configs/sci.py` starts.

    python -m train.pretrain --config configs/sci_pretrain.py                # the embedded sample
    python -m train.pretrain --config configs/sci_pretrain.py:first --set source=DIR \\
        --workdir runs/first                                                 # all open sources
    python -m train.pretrain --config configs/sci_pretrain.py:tower --set source=DIR \\
        --workdir runs/tower
    python -m train.pretrain --config configs/sci_pretrain.py:open --set source=DIR \\
        --workdir runs/open
    python -m train.pretrain --config configs/sci_pretrain.py:match --set source=DIR \\
        --workdir runs/match

`DIR` is what `python -m unirank_jax.datasets.build sci --scale open --out DIR` wrote. The four
legs made the base that ships with the package. Published sizes need no pretraining.
"""

from dataclasses import replace

from train.config import choose
from train.pretrain import PretrainConfig
from train.settings import CheckpointSettings, LogSettings, OptimizerSettings, ScheduleSettings
from train.units import PairSettings


def tiny() -> PretrainConfig:
    """A short run on the embedded sample."""
    return PretrainConfig(
        name="sci_pretrain",
        seed=0,
        preset="tiny",
        init="",
        source="sample:sci",
        tokenizer="",
        pools={"molecule": 56, "figure": 8},
        prompt_id="unirank-native-1",
        max_tokens=320,
        max_query_tokens=32,
        visual_tokens=16,
        pairs=PairSettings(
            units=64,
            family_size=4,
            family_share=0.5,
            image_query_share=0.35,
            query_tokens=40,
            caption_tokens=44,
            text_tokens=56,
            patches=64,
            turn=25.0,
            zoom=0.15,
            shift=0.1,
            alike_share=1.0,
        ),
        loss={"words": 0.3, "contrast": 1.0, "caption": 0.5, "match": 1.0, "document": 0.5},
        temperature=0.05,
        optimizer=OptimizerSettings(
            lr=1.5e-3, weight_decay=0.02, beta1=0.9, beta2=0.98, eps=1e-8, clip_norm=1.0
        ),
        schedule=ScheduleSettings(steps=400, warmup_steps=100, final_fraction=0.05),
        freeze=(),
        evaluate_every=200,
        evaluation_batches=4,
        checkpoint=CheckpointSettings(every_steps=200, keep=2),
        log=LogSettings(every_steps=20, profile_steps=(0, 0)),
    )


def first() -> PretrainConfig:
    """First leg of the shipped base; it was stopped after 374 steps."""
    return replace(
        tiny(),
        source="data/sci-open",
        loss={"words": 0.3, "contrast": 1.0, "caption": 0.5},
        schedule=ScheduleSettings(steps=2000, warmup_steps=100, final_fraction=0.02),
        evaluate_every=250,
        checkpoint=CheckpointSettings(every_steps=250, keep=2),
    )


def tower() -> PretrainConfig:
    """Second leg: the tower alone names what it sees, three times as many images a second."""
    return replace(
        first(),
        init="runs/first",
        loss={"words": 1.0, "contrast": 0.0, "caption": 0.0},
        schedule=ScheduleSettings(steps=1000, warmup_steps=20, final_fraction=0.3),
        checkpoint=CheckpointSettings(every_steps=500, keep=2),
        log=LogSettings(every_steps=50, profile_steps=(0, 0)),
    )


def open_sources() -> PretrainConfig:
    """Third leg: the objectives of the first. Its 520 steps were followed by 200 at full rate."""
    return replace(
        first(),
        init="runs/tower",
        schedule=ScheduleSettings(steps=520, warmup_steps=20, final_fraction=0.05),
        evaluate_every=200,
        checkpoint=CheckpointSettings(every_steps=200, keep=2),
    )


def match() -> PretrainConfig:
    """Last leg: candidates are read after their query, and the label token says which is right.

    It was planned for 2,400 steps and its cosine shortened to 1,400 at step 773.
    """
    return replace(
        open_sources(),
        init="runs/open",
        loss=tiny().loss,
        schedule=ScheduleSettings(steps=1400, warmup_steps=20, final_fraction=0.05),
    )


def get_config(argument: str | None) -> PretrainConfig:
    legs = {"tiny": tiny, "first": first, "tower": tower, "open": open_sources, "match": match}
    return choose(argument, legs, "tiny")

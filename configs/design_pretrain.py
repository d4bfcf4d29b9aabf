"""Visual pretraining on the design domain, from the base that ships with the package.

    python -m train.pretrain --config configs/design_pretrain.py --set source=DIR \\
        --workdir runs/design-base
    python -m train.pretrain --config configs/design_pretrain.py:match --set source=DIR \\
        init=runs/design-base/exported --workdir runs/design-match

`DIR` is what `python -m unirank_jax.datasets.build design --out DIR` wrote. The base has seen
molecules and figures only; here it learns furniture, emoji, icons and clip art: another drawing of
the same thing asks as often as its name does. Published sizes need no pretraining. What the first
leg made, in five minutes of one H100 beside other work, is results/m2/design-base.
"""

from dataclasses import replace

from configs import sci_pretrain
from train.config import choose
from train.pretrain import PretrainConfig
from train.settings import CheckpointSettings, ScheduleSettings


def tiny() -> PretrainConfig:
    """The first leg: the tower and the embeddings. Matching stays at chance in it."""
    base = sci_pretrain.tiny()
    return replace(
        base,
        name="design_pretrain",
        init="base",
        source="data/design",
        pools={"icon": 28, "emoji": 14, "furniture": 12, "clipart": 10},
        pairs=replace(base.pairs, turn=10.0, image_query_share=0.5),
        schedule=ScheduleSettings(steps=1500, warmup_steps=40, final_fraction=0.05),
        evaluate_every=500,
        checkpoint=CheckpointSettings(every_steps=250, keep=2),
    )


def match() -> PretrainConfig:
    """The second leg, of the same objectives: candidates read after their query come to be told
    apart once embeddings tell them apart, from any others before look-alikes. It is a trial: in
    1,200 steps against look-alikes, and 200 against any others, matching stayed at chance."""
    base = tiny()
    return replace(
        base,
        name="design_match",
        init="runs/design-base/exported",
        pairs=replace(base.pairs, alike_share=0.0),
        optimizer=replace(base.optimizer, lr=1e-3),
        schedule=ScheduleSettings(steps=2400, warmup_steps=20, final_fraction=0.05),
    )


def get_config(argument: str | None) -> PretrainConfig:
    return choose(argument, {"tiny": tiny, "match": match}, "tiny")

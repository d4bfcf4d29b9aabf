"""One thing changed at a time: what of the alignment matters.

    python -m train.study --config configs/ablations_study.py --workdir runs/ablations --set \\
        source=data/sci mined=runs/study-sci

All arms have one learning rate, two seeds, and are judged on the validation split. `mined` is the
folder of `configs/sci_study.py`, whose `aligned` is the arm that the others change one thing of.
"""

from dataclasses import replace

from configs import settings_study
from train.config import choose
from train.study import Arm, StudyConfig

REWARDS = {
    "aligned": (),
    "reward-dcg": ("policy.preference=0",),
    "reward-preferences": ("policy.dcg=0", "policy.preference=1"),
    "reward-relevant": ("policy.utility=relevant",),
    "reward-hit": ("policy.dcg=0", "policy.preference=0", "policy.hit=1"),
}
CREDIT = {
    "no-baseline": ("policy.baseline=false",),
    "credit-list": ("policy.credit=list",),
    "samples-4": ("policy.samples=4",),
    "samples-64": ("policy.samples=64",),
}
NONE = ("anchor.bernoulli=0", "anchor.first=0", "anchor.bce=0")
ANCHORS = {
    "anchors-none": NONE,
    "anchor-bce": NONE[:2],
    "anchor-first": ("anchor.bernoulli=0", "anchor.bce=0"),
    "anchor-forward": NONE[1:],
    "anchor-reverse": (*NONE[1:], "anchor.direction=reverse"),
}
OBJECTIVES = {
    "bernoulli": ("policy.algorithm=bernoulli",),
    "pairs": ("policy.algorithm=pairs",),
    "target": ("policy.algorithm=target",),
}
OTHERS = {
    "temperature-half": ("policy.temperature=0.5",),
    "temperature-4": ("policy.temperature=4",),
    "lists-of-16": ("data.list_size=16", "batch.lists=16"),
}
LOSSES = {  # of stage 1, continued
    "continued": (),
    "continued-softmax": ("loss.bce=0",),
    "continued-bce": ("loss.softmax=0",),
    "continued-rcr": ("loss.softmax=0", "loss.rcr=0.5"),
}


def ablations() -> StudyConfig:
    """Rewards, credit, anchors, objectives, temperature, length of lists, losses of stage 1."""
    aligned = {**REWARDS, **CREDIT, **ANCHORS, **OBJECTIVES, **OTHERS}
    return replace(
        settings_study.base(),
        name="one thing changed at a time",
        rates=(2e-4,),
        top100_lists=200,
        arms={name: Arm("sft", changes, claim=False) for name, changes in LOSSES.items()}
        | {name: Arm("align", changes, claim=False) for name, changes in aligned.items()},
    )


def get_config(argument: str | None = None) -> StudyConfig:
    return choose(argument, {"ablations": ablations}, "ablations")

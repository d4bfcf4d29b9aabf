"""What alignment gains on scientific lists, against every control.

    python -m train.study --config configs/sci_study.py --workdir runs/study-sci
    python -m train.study --config configs/sci_study.py:trial ...   # a tenth of it

`--set source=DIR stage1=FOLDER` for data and a model elsewhere. Everything is scored once on the
test split; what is chosen is chosen on the validation split. The study resumes where it was killed.

Beside the arms stand models of another form or domain. Those of everything as images and as texts
are trained first:

    python -m train.sft --config configs/sci.py:as_image --set data.source=data/sci \\
        model.init=base schedule.steps=250                # and :as_text

`--set others.as-image=RUN:image` where they are elsewhere.
"""

from dataclasses import replace

from train.config import choose
from train.study import Arm, StudyConfig

GOLD = ("policy.utility=gain", "policy.preference=0", "policy.hit=0.5")
ONE_EPOCH = ("schedule.steps=125", "evaluation.every_steps=125")  # of 16 lists

ARMS = {
    "continued": Arm("sft", (), claim=True),
    "softmax": Arm("sft", ("loss.bce=0",), claim=True),
    "aligned": Arm("align", (), claim=True),
    "aligned-gold": Arm("align", GOLD, claim=True),
    "dpo": Arm("align", ("policy.algorithm=dpo",), claim=True),
    "first": Arm("align", ("policy.algorithm=first",), claim=False),
    "first-gold": Arm("align", (*GOLD, "policy.algorithm=first"), claim=False),
}


def full() -> StudyConfig:
    """2,000 lists, mined and with the candidates of the dataset; 16,000 pairs in stage 2.

    What is mined, and that the candidates of the dataset stay beside it, was chosen on the
    validation split: results/m4/mining-trial.md.
    """
    return StudyConfig(
        name="alignment on scientific lists",
        source="data/sci",
        stage1="results/m2/stage1-sci",
        dual_encoder="unirank_jax/assets/base",
        others={
            "as-image": "runs/sft-sci-as_image:image",
            "as-text": "runs/sft-sci-as_text:text",
            "out-of-domain": "results/m2/stage1-design",
        },
        mine="configs/sci_mine.py:complete",
        reward="configs/sci_reward.py",
        train="configs/sci_align.py",
        mined_lists=2000,
        valid_lists=600,
        mined_per_form=25,
        steps=63,
        rates=(5e-5, 2e-4),
        seeds=5,
        members=3,
        test_lists=1000,
        top100_lists=300,
        resamples=10_000,
        reward_changes=ONE_EPOCH,
        own=True,
        arms=ARMS,
    )


def trial() -> StudyConfig:
    """Whether everything runs, and the order of magnitude: one rate, two seeds."""
    return replace(
        full(),
        others={},
        mined_lists=200,
        reward_changes=("schedule.steps=13", "evaluation.every_steps=13"),
        valid_lists=100,
        steps=20,
        rates=(2e-4,),
        seeds=2,
        members=1,
        test_lists=200,
        top100_lists=100,
    )


def get_config(argument: str | None = None) -> StudyConfig:
    return choose(argument, {"full": full, "trial": trial}, "full")

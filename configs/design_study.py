"""What alignment gains on design lists, against every control.

    python -m train.study --config configs/design_study.py --workdir runs/study-design
    python -m train.study --config configs/design_study.py:trial ...   # a tenth of it

See `configs/sci_study.py`, also for the models of `others`: `configs/design.py:as_image` and
`:as_text` with `schedule.steps=250`. The study resumes where it was killed.
"""

from dataclasses import replace

from configs import sci_study
from train.config import choose
from train.study import StudyConfig

OTHERS = {
    "as-image": "runs/sft-design-as_image:image",
    "as-text": "runs/sft-design-as_text:text",
    "out-of-domain": "results/m2/stage1-sci",
}


def of(base: StudyConfig) -> StudyConfig:
    """A study of `configs/sci_study.py` on design lists."""
    return replace(
        base,
        name="alignment on design lists",
        source="data/design",
        stage1="results/m2/stage1-design",
        dual_encoder="results/m2/design-base",
        mine="configs/design_mine.py:complete",
        reward="configs/design_reward.py",
        train="configs/design_align.py",
        others={name: OTHERS[name] for name in base.others},
    )


def get_config(argument: str | None = None) -> StudyConfig:
    return choose(
        argument,
        {"full": lambda: of(sci_study.full()), "trial": lambda: of(sci_study.trial())},
        "full",
    )

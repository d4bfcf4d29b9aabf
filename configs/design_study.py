"""What alignment gains on design lists, against every control.

    python -m train.study --config configs/design_study.py --workdir runs/study-design
    python -m train.study --config configs/design_study.py:trial ...   # a tenth of it

See `configs/sci_study.py`. The study resumes where it was killed.
"""

from dataclasses import replace

from configs import sci_study
from train.config import choose
from train.study import StudyConfig


def of(base: StudyConfig) -> StudyConfig:
    """A study of `configs/sci_study.py` on design lists."""
    return replace(
        base,
        name="alignment on design lists",
        source="data/design",
        stage1="results/m2/stage1-design",
        dual_encoder="results/m2/design-base",
        mine="configs/design_mine.py",
        reward="configs/design_reward.py",
        train="configs/design_align.py",
    )


def get_config(argument: str | None = None) -> StudyConfig:
    return choose(
        argument,
        {"full": lambda: of(sci_study.full()), "trial": lambda: of(sci_study.trial())},
        "full",
    )

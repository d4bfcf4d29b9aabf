"""A reward model of mined preferences on design lists, for `configs/design_align.py`.

    python -m train.reward --config configs/design_reward.py --set data.source=DIR \\
        model.init=STAGE1 data.lists=runs/mine-design/mined.jsonl.gz \\
        data.preferences=runs/mine-design/preferences.jsonl.gz --workdir runs/reward-design

`STAGE1` is an exported reranker; the mined files are those of `configs/design_mine.py`. See
`configs/sci_reward.py` for the validation files.
"""

from dataclasses import replace

from configs import design, sci_reward
from train.config import choose
from train.reward import RewardConfig


def tiny() -> RewardConfig:
    """As on scientific lists."""
    base = sci_reward.tiny()
    return replace(base, name="design_reward", data=replace(base.data, source=design.SOURCE))


def get_config(argument: str | None = None) -> RewardConfig:
    return choose(argument, {"tiny": tiny}, "tiny")

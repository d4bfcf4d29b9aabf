"""Stage 2 on design lists: a query-level policy on preferences and rewards.

    python -m train.align --config configs/design_align.py --set data.source=DIR \\
        model.init=STAGE1 data.lists=runs/mine-design/mined.jsonl.gz \\
        data.preferences=runs/mine-design/preferences.jsonl.gz \\
        rewards=runs/reward-design/rewards.jsonl.gz --workdir runs/align-design
    python -m train.align --config configs/design_align.py:gold ...   # graded labels as the reward

The files are those of `configs/design_reward.py`. The control is `train.sft` with this very
configuration.
"""

from dataclasses import replace

from configs import design, published, sci_align
from train.align import AlignConfig
from train.config import choose


def of(base: AlignConfig) -> AlignConfig:
    """A configuration of `configs/sci_align.py` on design lists."""
    name = base.name.replace("sci", "design")
    return replace(base, name=name, data=replace(base.data, source=design.SOURCE))


def get_config(argument: str | None = None) -> AlignConfig:
    return choose(
        argument,
        {
            "tiny": lambda: of(sci_align.tiny()),
            "gold": lambda: of(sci_align.gold()),
            **published.sizes("design", design.published_base(), sci_align.of),
        },
        "tiny",
    )

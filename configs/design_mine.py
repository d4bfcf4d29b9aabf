"""Hard negatives and preferences on design lists.

    python -m train.mine --config configs/design_mine.py --set source=DIR model=exported/ \\
        dual_encoder=results/m2/design-base --workdir runs/mine-design

Running the same command again goes on.
"""

from dataclasses import replace

from configs import sci_mine
from train.config import choose
from train.mine import MineConfig


def tiny() -> MineConfig:
    """4,000 training queries, 25 candidates of each form."""
    base = sci_mine.tiny()
    return replace(base, name="design_mine", source="data/design", limit=4000, shard_queries=200)


def get_config(argument: str | None = None) -> MineConfig:
    return choose(argument, {"tiny": tiny, "complete": lambda: sci_mine.complete(tiny())}, "tiny")

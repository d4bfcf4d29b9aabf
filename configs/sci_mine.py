"""Hard negatives and preferences on scientific lists.

    python -m train.mine --config configs/sci_mine.py                  # 500 queries of the sample
    python -m train.mine --config configs/sci_mine.py:open --set source=DIR model=exported/
    python -m train.mine --config configs/sci_mine.py --set mining.num_negatives=15
    python -m train.mine --config configs/sci_mine.py:complete --set source=DIR model=exported/

Running the same command again goes on. New `mining.*` settings in the same --workdir read the
scores that are there.
"""

from dataclasses import replace

from train.config import choose
from train.mine import MineConfig
from train.mining import DEFAULTS


def tiny() -> MineConfig:
    """A trial on the embedded sample with the embedded models: minutes on two CPU cores."""
    return MineConfig(
        name="sci_mine",
        source="sample:sci",
        split="train",
        model="",
        dual_encoder="",
        limit=500,
        texts=25,
        images=25,
        shard_queries=50,
        tensor=1,
        mining=DEFAULTS,
        pairs_per_query=16,
    )


def open_sources() -> MineConfig:
    """All training lists of the full data, a hundred candidates each."""
    return replace(tiny(), source="data/sci-open", limit=0, texts=50, images=50, shard_queries=200)


def complete(base: MineConfig | None = None) -> MineConfig:
    """For lists whose right answers are all known: nothing is filtered but equal `dup_id`s.

    What the model likes better than the right answer is what it has to unlearn, and queries whose
    right answers the first stage missed are lists, too.
    """
    base = base or replace(open_sources(), shard_queries=50)
    known = replace(base.mining, relative_margin=-1e9, max_score=1.0, missed_positives=True)
    return replace(base, mining=known)


def get_config(argument: str | None = None) -> MineConfig:
    return choose(argument, {"tiny": tiny, "open": open_sources, "complete": complete}, "tiny")

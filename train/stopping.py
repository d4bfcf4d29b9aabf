"""When a run of stage 2 must not go on: signs that the policy learns something else than wanted.

Pure functions of the lines of metrics.jsonl; `train.align` asks after each line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from train.report import KEPT

DEAD = 0.6  # share of queries without a signal
GROWTH = 2.0  # of the logits' mean magnitude, against stage 1
COLLAPSE = 0.1  # of the entropy of who comes first, against the run's start
SLACK = 0.01  # by which the gold reward may fall while the trained one rises by as much
LINES = KEPT  # lines in a row that must agree


def verdict(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the run must end, and what to change; None while nothing speaks against it.

    lines: of training, the run's first and its last ones.
    """
    if len(lines) < LINES + 1:
        return None
    first, last = lines[0], lines[-LINES:]
    if all(line.get("dead", 0.0) > DEAD for line in last):
        return (
            f"{100 * last[-1]['dead']:.0f} % of the queries give no signal (at most "
            f"{100 * DEAD:.0f} %): raise policy.temperature, or mine harder lists"
        )
    if all(line["magnitude"] > GROWTH * line["magnitude_before"] for line in last):
        return (
            f"logits are {last[-1]['magnitude'] / last[-1]['magnitude_before']:.1f} times as large "
            f"as those of stage 1 (at most {GROWTH:g}): raise anchor.bce or anchor.bernoulli, "
            "lower optimizer.lr, or raise policy.temperature"
        )
    if all(line["entropy"] < COLLAPSE * first["entropy"] for line in last):
        return (
            f"the entropy of who comes first fell from {first['entropy']:.3f} to "
            f"{last[-1]['entropy']:.3f} nats: raise anchor.entropy or anchor.first, or lower "
            "optimizer.lr"
        )
    if "gold" in first and all(
        line["reward"] > first["reward"] + SLACK and line["gold"] < first["gold"] - SLACK
        for line in last
    ):
        return (
            f"the reward rose from {first['reward']:.3f} to {last[-1]['reward']:.3f} while the "
            f"nDCG of the same orders fell from {first['gold']:.3f} to {last[-1]['gold']:.3f}: the "
            "reward model is exploited; use more members or caution in train.reward, raise "
            "anchor.first, or train fewer steps"
        )
    return None

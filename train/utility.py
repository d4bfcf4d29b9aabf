"""From rewards, which only compare candidates of one query, to utilities between 0 and 1."""

from __future__ import annotations

import numpy as np

from train.signals import Scores


def utilities(rewards: Scores) -> dict[str, dict[str, float]]:
    """u = sigmoid((r - mean of the query) / spread), qid -> did -> u.

    The spread is the standard deviation within a query, averaged over queries: Bradley-Terry leaves
    the level of each query free, but its differences share one scale.
    """
    spreads = [np.std(list(some.values())) for some in rewards.values() if len(some) > 1]
    spread = max(float(np.mean(spreads)) if spreads else 1.0, 1e-6)
    found = {}
    for qid, some in rewards.items():
        values = np.array(list(some.values()), np.float64)
        scaled = 1.0 / (1.0 + np.exp(-(values - values.mean()) / spread))
        found[qid] = dict(zip(some, scaled.tolist(), strict=True))
    return found

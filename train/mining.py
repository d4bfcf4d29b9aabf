"""Which candidates of a query's pool become its hard negatives, and the preferences they give.

Pure functions of scores. False negatives are dropped first, then a fixed mix of margins is drawn
under a modality quota. Names follow sentence-transformers' `mine_hard_negatives` where they mean
the same; the 95 % rule is TopK-PercPos of NV-Retriever (arXiv 2407.15831).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unirank_jax.datasets.records import hash_number

Floats = NDArray[np.float64]
BUCKETS = ("violation", "near", "easy", "trivial")
REASONS = ("duplicate", "relative margin", "suspected positive", "trivial")


@dataclass(frozen=True)
class MiningSettings:
    """How negatives are filtered and chosen.

    Where every right answer is known, nothing but `dup_id` needs to be filtered:
    relative_margin=-1e9 and max_score=1 keep what a retriever or the model likes better than the
    positives.
    """

    num_negatives: int  # per query
    relative_margin: float  # drop where a retriever's raw score > s_pos - |s_pos| * relative_margin
    max_score: float  # suspected positive: a calibrated score above this and ...
    suspect_margin: float  # ... a logit this much above the best positive's
    near: float  # buckets by gap = s_pos - s: violation < 0 <= near < this <= easy < ...
    trivial: float  # ... this <= trivial, which is dropped
    mix: tuple[float, float, float]  # shares of violation, near and easy among the chosen
    min_other_modality: int  # at least so many of the other modality than the positive's
    min_same_modality: int  # and of its own, where the pool has them
    sampling_strategy: str  # within a bucket: "top" (hardest first) or "random" (by a hash)
    audit_score: float  # queries whose best positive scores below this are listed for a look
    missed_positives: bool = False  # also mine queries none of whose positives was retrieved


DEFAULTS = MiningSettings(
    num_negatives=7,
    relative_margin=0.05,
    max_score=0.9,
    suspect_margin=1.0,
    near=2.0,
    trivial=6.0,
    mix=(0.5, 0.35, 0.15),
    min_other_modality=2,
    min_same_modality=2,
    sampling_strategy="random",
    audit_score=0.05,
)


@dataclass(frozen=True)
class Pool:
    """A query's candidates with what is known about them; (N,) each.

    Attributes:
        grades: of judged candidates; 0 for those that only the first stage found.
        dup_ids: equal content has the same.
        logits: of the current model.
        scores: the same, calibrated to [0, 1].
        retrievers: name -> raw scores, NaN where that retriever does not see the candidate.
    """

    qid: str
    dids: tuple[str, ...]
    grades: NDArray[np.int64]
    rel_min: int
    modalities: tuple[str, ...]
    dup_ids: tuple[str, ...]
    logits: Floats
    scores: Floats
    retrievers: Mapping[str, Floats]

    @property
    def relevant(self) -> NDArray[np.bool_]:
        return self.grades >= self.rel_min


@dataclass(frozen=True)
class Mined:
    """The outcome for one query.

    Attributes:
        positives, negatives: places in the pool; the negatives in the order of BUCKETS.
        buckets: bucket of each negative.
        removed: reason -> places that were dropped.
        audit: why a person should look at this query, or "".
    """

    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    buckets: tuple[str, ...]
    removed: dict[str, tuple[int, ...]]
    audit: str


@dataclass(frozen=True)
class Preference:
    """`better` is to be ranked above `worse` (places in the pool), with a weight."""

    better: int
    worse: int
    kind: str  # "text > image" and so on
    weight: float


def mine(pool: Pool, settings: MiningSettings) -> Mined | None:
    """Choose negatives for one query; None where the pool holds no positive."""
    relevant = pool.relevant
    if not relevant.any():
        return None
    removed = suspects(pool, settings)
    dropped = {place for places in removed.values() for place in places}
    best = pool.logits[relevant].max()
    gaps = best - pool.logits
    usable = [i for i in np.flatnonzero(~relevant).tolist() if i not in dropped]
    groups: dict[str, list[int]] = {name: [] for name in BUCKETS}
    for i in sorted(usable, key=lambda i: _order(pool, i, settings)):
        groups[bucket_of(gaps[i], settings)].append(i)
    removed["trivial"] = tuple(sorted(groups.pop("trivial")))
    positives = tuple(np.flatnonzero(relevant).tolist())
    own = _visual(pool.modalities[int(np.argmax(np.where(relevant, pool.logits, -np.inf)))])
    negatives = _choose(groups, [_visual(one) == own for one in pool.modalities], settings)
    return Mined(
        positives=positives,
        negatives=negatives,
        buckets=tuple(bucket_of(gaps[i], settings) for i in negatives),
        removed=removed,
        audit=_audit(pool, removed, settings),
    )


def suspects(pool: Pool, settings: MiningSettings) -> dict[str, tuple[int, ...]]:
    """Candidates that may be relevant though nobody judged them so, by reason, each once."""
    relevant = pool.relevant
    known = {pool.dup_ids[i] for i in np.flatnonzero(relevant)}
    duplicate = np.array([dup in known for dup in pool.dup_ids]) & ~relevant
    close = np.zeros(len(relevant), bool)
    for raw in pool.retrievers.values():
        seen = raw[relevant][~np.isnan(raw[relevant])]
        if seen.any():  # all 0: no word in common; that says nothing of the others
            limit = seen.max() - abs(seen.max()) * settings.relative_margin
            close |= np.nan_to_num(raw, nan=-np.inf) > limit
    best = pool.logits[relevant].max()
    convincing = (pool.scores > settings.max_score) & (pool.logits > best + settings.suspect_margin)
    close &= ~relevant & ~duplicate
    convincing &= ~relevant & ~duplicate & ~close
    found = (
        ("duplicate", duplicate),
        ("relative margin", close),
        ("suspected positive", convincing),
    )
    return {reason: tuple(np.flatnonzero(which).tolist()) for reason, which in found}


def bucket_of(gap: float, settings: MiningSettings) -> str:
    """The bucket of a candidate whose logit lies `gap` below the best positive's."""
    limits = (0.0, settings.near, settings.trivial)
    return BUCKETS[sum(gap >= limit for limit in limits)]


def preferences(
    pool: Pool, mined: Mined, settings: MiningSettings, limit: int = 16
) -> list[Preference]:
    """Pairs of chosen candidates of different grades, the heaviest `limit` of them.

    Weight (2^g_i - 2^g_j), times 0.3 where the model already separates them by `near` or more.
    """
    chosen = [*mined.positives, *mined.negatives]
    found = [
        Preference(
            i,
            j,
            f"{_form(pool.modalities[i])} > {_form(pool.modalities[j])}",
            float(2.0 ** pool.grades[i] - 2.0 ** pool.grades[j])
            * (1.0 if pool.logits[i] - pool.logits[j] < settings.near else 0.3),
        )
        for i in chosen
        for j in chosen
        if pool.grades[i] > pool.grades[j]
    ]
    found.sort(key=lambda one: (-one.weight, hash_number(pool.qid, pool.dids[one.worse])))
    return found[:limit]


def balanced(queries: Iterable[Sequence[Preference]]) -> list[list[Preference]]:
    """The same preferences with weights scaled so that every kind weighs the same in all.

    Otherwise the most frequent kind brings a liking for its modality back. The sum is kept.
    """
    every = [list(one) for one in queries]
    totals: dict[str, float] = defaultdict(float)
    for one in (one for query in every for one in query):
        totals[one.kind] += one.weight
    share = sum(totals.values()) / len(totals) if totals else 0.0
    return [
        [Preference(p.better, p.worse, p.kind, p.weight * share / totals[p.kind]) for p in query]
        for query in every
    ]


def summary(outcomes: Iterable[Mined | None]) -> dict[str, int]:
    """Counts over queries: mined, without a positive, with a violation; removed and chosen."""
    counts: Counter[str] = Counter()
    for one in outcomes:
        if one is None:
            counts["queries without a positive"] += 1
            continue
        counts["queries"] += 1
        counts["queries with a violation"] += "violation" in one.buckets
        counts["queries to look at"] += bool(one.audit)
        counts.update({f"removed: {reason}": len(one.removed[reason]) for reason in REASONS})
        counts.update(f"chosen: {bucket}" for bucket in one.buckets)
    return dict(counts)


def _choose(
    groups: Mapping[str, list[int]], same: Sequence[bool], settings: MiningSettings
) -> tuple[int, ...]:
    """Quota of both modalities first, then the mix, then whatever is left, hardest bucket first."""
    wanted = settings.num_negatives
    names = BUCKETS[:3]
    everything = [i for name in names for i in groups[name]]
    chosen: list[int] = []
    for own, least in ((False, settings.min_other_modality), (True, settings.min_same_modality)):
        chosen += [i for i in everything if same[i] == own][: min(least, wanted - len(chosen))]
    for name, share in zip(names, settings.mix, strict=True):
        room = round(share * wanted) - sum(i in chosen for i in groups[name])
        free = [i for i in groups[name] if i not in chosen]
        chosen += free[: max(0, min(room, wanted - len(chosen)))]
    chosen += [i for i in everything if i not in chosen][: wanted - len(chosen)]
    return tuple(i for i in everything if i in chosen)


def _order(pool: Pool, place: int, settings: MiningSettings) -> tuple[float, int]:
    hashed = hash_number("mine", pool.qid, pool.dids[place])
    return (-float(pool.logits[place]) if settings.sampling_strategy == "top" else 0.0, hashed)


def _audit(pool: Pool, removed: Mapping[str, tuple[int, ...]], settings: MiningSettings) -> str:
    if pool.scores[pool.relevant].max() < settings.audit_score:
        return "the positives score low: a wrong label, or truly hard"
    if removed["suspected positive"]:
        return "candidates score far above the positives: perhaps relevant and not judged"
    return ""


def _visual(modality: str) -> bool:
    return modality != "text"


def _form(modality: str) -> str:
    return "image" if _visual(modality) else "text"

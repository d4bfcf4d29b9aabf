"""Which batch shapes a run compiles: few, and together cheap for the batches that are expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import reduce
from typing import Any

from train.sizes import PlanError
from unirank_jax.batch import Bucket
from unirank_jax.buckets import rung

SPARE = 1.15  # room above the largest of the expected batches
SCORES = 1000  # scores of attention cost about as much as all the rest of one token


def choose_buckets(needs: Sequence[Bucket], top: Bucket | None, limit: int) -> tuple[Bucket, ...]:
    """At most `limit` buckets for these needs, cheapest first; `top`, if any, is among them.

    Sizes are rounded up to rungs, then the two buckets whose union costs least are joined until
    few enough are left. With `top` the needs are a part of those to come: one bucket is then a
    little larger than all of them, because `top` itself costs many times as much.
    """
    uses: dict[Bucket, int] = {}
    for wanted in needs:
        rounded = _round(wanted)
        uses[rounded] = uses.get(rounded, 0) + 1
    if top is not None:
        uses.setdefault(_round(top), 0)
        spare = reduce(joined, needs)
        spare = replace(
            spare,
            cells=min(round(spare.cells * SPARE), top.cells),
            prefix_cells=min(round(spare.prefix_cells * SPARE), top.prefix_cells),
            patch_cells=min(round(spare.patch_cells * SPARE), top.patch_cells),
            second=min(round(spare.second * SPARE), top.second),
            third=min(round(spare.third * SPARE), top.third),
            fourth=min(round(spare.fourth * SPARE), top.fourth),
        )
        uses.setdefault(_round(spare), 1)
    while len(uses) > limit:
        found = list(uses)
        pairs = [(a, b) for i, a in enumerate(found) for b in found[i + 1 :]]
        a, b = min(pairs, key=lambda pair: _joining_cost(pair[0], pair[1], uses))
        count = uses.pop(a) + uses.pop(b)
        both = joined(a, b)
        uses[both] = uses.get(both, 0) + count
    return tuple(sorted(uses, key=lambda bucket: (_cost(bucket), bucket)))


def fitting(wanted: Bucket, buckets: Sequence[Bucket]) -> Bucket:
    """The cheapest bucket that holds `wanted`, its padding computed where there is hardly any."""
    for bucket in buckets:
        if joined(bucket, wanted) == bucket:
            return bucket.padded_where_full
    raise PlanError(f"no bucket holds {wanted}; there are {list(buckets)}")


def ladder(size: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, 128, ...; 0 and WHOLE stay what they are."""
    rung = 16
    while rung < size:
        rung = rung * 3 // 2 if rung & (rung - 1) == 0 else rung * 4 // 3
    return rung if size else 0


def _round(bucket: Bucket) -> Bucket:
    """Rungs for tokens and images; patches to a multiple of 16; cells, which cost most, finely."""
    return replace(
        bucket,
        prefix_tokens=ladder(bucket.prefix_tokens),
        tokens=ladder(bucket.tokens),
        second=ladder(bucket.second),
        third=ladder(bucket.third),
        fourth=ladder(bucket.fourth),
        images=ladder(bucket.images),
        patches=-(-bucket.patches // 16) * 16,
        cells=rung(bucket.cells, 64, 8),
        prefix_cells=rung(bucket.prefix_cells, 64, 8),
        patch_cells=rung(bucket.patch_cells, 64, 8),
    )


def joined(a: Bucket, b: Bucket) -> Bucket:
    sizes: dict[str, Any] = {
        f.name: max(getattr(a, f.name), getattr(b, f.name)) for f in fields(Bucket)
    }
    return Bucket(**sizes)


def _cost(bucket: Bucket) -> int:
    """Tokens and patches that a program of this bucket computes, and its attention as tokens."""
    before = bucket.outer + bucket.prefix_tokens
    scores = sum(rows * width * (before + width) for rows, width in bucket.blocks.sizes)
    asked = bucket.prefixes * bucket.prefix_tokens
    scores += asked * before + bucket.images * bucket.patches**2
    return (bucket.prefix_cells or asked) + bucket.cells + bucket.patch_cells + scores // SCORES


def _joining_cost(a: Bucket, b: Bucket, uses: dict[Bucket, int]) -> tuple[int, int]:
    """What the batches of both pay for sharing a bucket; ties by the size of the result."""
    cost = _cost(joined(a, b))
    return uses[a] * (cost - _cost(a)) + uses[b] * (cost - _cost(b)), cost

"""Which compiled program runs a batch: sizes on ladders, few programs, none compiled needlessly.

A program holds every batch that is not larger than its bucket. Compiling costs seconds, padding
costs a little every time: a program of the right size is compiled once the padding that it would
have saved has cost as much as compiling it (the rule of the ski rental).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from typing import Any

from unirank_jax.batch import Bucket

COMPILE_PRICE = 1e11  # multiply-adds that a CPU computes in the time of a compilation
CLOSE = 1.05  # a program this little above the right size is the right one
GROW = 1.25  # a new program may cost so much more to hold what an older one holds, too
AGAIN = 1.1  # the waste must have grown by so much before a better size is looked for again
LARGE = 1024  # patches of an image
FEW_GIVEN = 4096  # visual tokens: up to here the bytes of their features do not matter
PATIENCE = 3  # above the wanted number of programs, one more must save so many compilations

logger = logging.getLogger(__name__)


class Buckets:
    """The buckets of one compiled function whose batches are alike: all with new images, or none.

    Args:
        name: for the log.
        most: programs that are compiled readily. The last of them holds everything seen and room
            to spare; more are compiled only for larger batches, with a warning, or where they save
            a lot in the long run.
        cost: multiply-adds of a bucket.
        price: multiply-adds that are computed in the time of a compilation.
    """

    def __init__(
        self, name: str, most: int, cost: Callable[[Bucket], float], price: float = COMPILE_PRICE
    ) -> None:
        self.name, self.most, self.cost, self.price = name, most, cost, price
        self.chosen: list[Bucket] = []
        self._seen: Bucket | None = None  # the union of all batches
        self._uses: dict[Bucket, Uses] = {}

    def choose(self, need: Bucket) -> Bucket:
        """The bucket to run a batch of these sizes in; a new one is remembered."""
        wanted = round_up(need)
        self._seen = need if self._seen is None else union([self._seen, need])
        fitting = [bucket for bucket in self.chosen if fits(need, bucket)]
        best = min(fitting, key=self.cost, default=None)
        full = len(self.chosen) >= self.most - 1  # the last place is for a batch that fits none
        if best is not None:
            uses = self._uses.setdefault(best, Uses(self.cost(best), self.cost))
            better = uses.add(wanted, self.price * (PATIENCE if full else 1))
            if better is None:
                return best
            wanted = better
            del self._uses[best]
        elif full:
            wanted = roomy(self._seen)
            if len(self.chosen) >= self.most:
                count = len(self.chosen) + 1
                logger.warning("%s: program %d is compiled: %s", self.name, count, wanted)
        else:
            grown = [round_up(union([bucket, need])) for bucket in self.chosen]
            least = min(grown, key=self.cost, default=wanted)
            if self.cost(least) <= GROW * self.cost(wanted):
                wanted = least
        self.chosen.append(wanted)
        return wanted

    def history(self) -> dict[str, Any]:
        """What the next choices depend on, as JSON holds it."""
        return {
            "chosen": list(map(astuple, self.chosen)),
            "seen": self._seen and astuple(self._seen),
            "uses": [[astuple(bucket), uses.history()] for bucket, uses in self._uses.items()],
        }

    def recall(self, history: Mapping[str, Any]) -> None:
        """Choose from here on as the one whose history this is."""
        self.chosen = [Bucket(*sizes) for sizes in history["chosen"]]
        self._seen = history["seen"] and Bucket(*history["seen"])
        self._uses = {}
        for sizes, kept in history["uses"]:
            uses = self._uses[Bucket(*sizes)] = Uses(self.cost(Bucket(*sizes)), self.cost)
            uses.recall(kept)


class Uses:
    """What ran in a program, and what its padding has cost."""

    def __init__(self, paid: float, cost: Callable[[Bucket], float]) -> None:
        """paid: the cost of the program's bucket."""
        self.paid, self.cost = paid, cost
        self.counts: dict[Bucket, int] = {}  # by the right size
        self.wasted = self.looked = 0.0

    def add(self, wanted: Bucket, price: float) -> Bucket | None:
        """Count a batch; a smaller bucket that would have saved `price` by now, if there is one.

        It holds the cheapest of the batches up to some size, where that saves most.
        """
        own = self.cost(wanted)
        if self.paid <= CLOSE * own:
            return None
        self.counts[wanted] = self.counts.get(wanted, 0) + 1
        self.wasted += self.paid - own
        if self.wasted < max(price, AGAIN * self.looked):
            return None
        self.looked = self.wasted
        held, count, found = wanted, 0, (0.0, wanted)
        for one in sorted(self.counts, key=self.cost):
            held, count = round_up(union([held, one])) if count else one, count + self.counts[one]
            found = max(found, (count * (self.paid - self.cost(held)), held), key=lambda x: x[0])
        saved, better = found
        return better if saved >= price and fits(wanted, better) else None

    def history(self) -> dict[str, Any]:
        """As JSON holds it."""
        counts = [[astuple(bucket), count] for bucket, count in self.counts.items()]
        return {"counts": counts, "wasted": self.wasted, "looked": self.looked}

    def recall(self, history: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self.counts = {Bucket(*sizes): count for sizes, count in history["counts"]}
        self.wasted, self.looked = history["wasted"], history["looked"]


def fits(need: Bucket, bucket: Bucket) -> bool:
    """Whether a batch of these sizes runs in a bucket."""
    if need.rows > bucket.rows:
        return False
    sizes = zip(astuple(_in_rows(need, bucket.rows)), astuple(bucket), strict=True)
    return all(a <= b for a, b in sizes)


def union(buckets: list[Bucket]) -> Bucket:
    """The smallest bucket that holds all of them."""
    rows = max(bucket.rows for bucket in buckets)
    sizes = (astuple(_in_rows(bucket, rows)) for bucket in buckets)
    return Bucket(*map(max, zip(*sizes, strict=True)))


def _in_rows(bucket: Bucket, rows: int) -> Bucket:
    """The same batches among as many rows, no fewer: its rows are in earlier blocks."""
    if rows == bucket.rows:
        return bucket
    more = replace(bucket, rows=rows)
    second, third, fourth = map(bucket.width_at, more.block_starts)
    return replace(more, second=second, third=third, fourth=fourth)


def round_up(need: Bucket) -> Bucket:
    """Each size on its ladder; 0 stays 0 (no images: a program without a tower).

    Cells and patch cells cost in proportion, so their ladder is fine; the others are coarse, and
    that of given features, which cost their way to the device, is very coarse while they are few.
    An empty slot costs the attention of an image, so of large ones there are no spare slots.
    """
    need = _in_rows(need, rung(need.rows, 8, 2))
    return replace(
        need,
        prefixes=rung(need.prefixes, 1, 1),
        prefix_tokens=rung(need.prefix_tokens, 32, 2),
        tokens=rung(need.tokens, 32, 4),
        images=rung(need.images, 4 if need.patches < LARGE else 1, 2),
        patches=rung(need.patches, 64, 4),
        cells=rung(need.cells, 64, 16),
        patch_cells=rung(need.patch_cells, 64, 16),
        given=_given(need.given),
        outer=rung(need.outer, 64, 1),
        prefix_cells=rung(need.prefix_cells, 64, 8),
        second=rung(need.second, 32, 4),
        third=rung(need.third, 32, 4),
        fourth=rung(need.fourth, 32, 4),
    )


def _given(tokens: int) -> int:
    if tokens > FEW_GIVEN:
        return rung(tokens, FEW_GIVEN, 2)
    return 8 ** math.ceil(math.log(tokens, 8)) if tokens else 0


def roomy(need: Bucket) -> Bucket:
    """Each size on the powers of two: what is a little larger later fits, too.

    Many rows of few cells cannot all be long: that at place n has at most cells / (n + 1) tokens.
    """
    up = round_up(need)
    up = _in_rows(up, rung(up.rows, 1, 1))
    room = Bucket(**{name: rung(size, 1, 1) for name, size in vars(up).items()})

    def width(name: str, row: int) -> int:
        most = -(-room.cells // (row + 1) // 8) * 8
        return max(getattr(up, name), min(getattr(room, name), most))

    names = ("second", "third", "fourth")
    widths = {name: width(name, row) for name, row in zip(names, room.block_starts, strict=True)}
    return replace(room, outer=up.outer, **widths)


def rung(size: int, least: int, steps: int) -> int:
    """The next of `least` times 2^n, with `steps` even steps between two powers; 0 stays 0.

    Steps that would not be whole multiples of `least / 4` are left out.
    """
    if size <= 0:
        return 0
    top = least
    while top < size:
        top *= 2
    step = max(top // (2 * steps), least // 4, 1)
    return max(least, -(-size // step) * step)

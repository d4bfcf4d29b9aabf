"""The table of a study: means over seeds and queries, with intervals over both, and differences.

An interval resamples the queries (within their kinds) and, for rows of several seeds, the seeds as
well: what another run on other queries would give. Differences are paired by query.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unirank_jax.metrics import Judged, measure
from unirank_jax.significance import holm, mcnemar

if TYPE_CHECKING:
    from train.study import StudyConfig

STAGE1, FUSION, CONTROL = "stage 1", "stage 1 + reward", "continued"
REWARD = "reward model 0"
METRIC = "hit@1"
SHARES = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the reward in the fusion
LEVEL = 0.95

Floats = NDArray[np.float64]
Hits = dict[str, Floats]  # row -> (seeds, queries)


class StudyError(RuntimeError):
    """A study that cannot go on."""


@dataclass(frozen=True)
class Estimate:
    """A mean, its interval, and how surely it is not 0 (two-sided, from the bootstrap)."""

    mean: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Found:
    """What the records of a folder of scores say."""

    lists: list[Judged]
    scores: dict[str, list[Floats]]  # scorer -> one array per list


def write_table(
    workdir: Path,
    arms: Sequence[str],
    lists: Sequence[str],
    rates: Mapping[str, float],
    config: StudyConfig,
) -> None:
    """Write table.md and table.json."""
    share = fusion_share(collect(workdir / "scores" / "valid-lists20"))
    tables: dict[str, Any] = {}
    parts = [f"# {config.name}", _about(config, rates, share)]
    for name in lists:
        found = collect(workdir / "scores" / f"test-{name}")
        rows = hits_of(found, arms, share)
        kinds = [one.kind for one in found.lists]
        drawn = draw(rows, kinds, config.resamples)
        values = {row: estimate(drawn, row, None) for row in rows}
        control = CONTROL if CONTROL in rows else STAGE1
        gains = {row: estimate(drawn, row, control) for row in rows if row != control}
        above = {row: estimate(drawn, row, STAGE1) for row in rows if row != STAGE1}
        tests = {row: mcnemar(rows[row][0], rows[control][0], seed=0) for row in gains}
        corrected = dict(
            zip(
                [arm for arm in arms if arm in gains],
                holm([gains[arm].p for arm in arms if arm in gains]),
                strict=True,
            )
        )
        tables[name] = {
            "queries": len(kinds),
            "rows": {row: asdict(one) for row, one in values.items()},
            f"less {control}": {row: asdict(one) for row, one in gains.items()},
            f"less {STAGE1}": {row: asdict(one) for row, one in above.items()},
            "mcnemar": tests,
            "holm": corrected,
            "seeds": {row: len(some) for row, some in rows.items()},
        }
        parts.append(_markdown(name, kinds, rows, values, gains, above, tests, corrected, control))
    text = "\n\n".join(parts) + "\n"
    (workdir / "table.json").write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    (workdir / "table.md").write_text(text, encoding="utf-8")
    print(text)


def collect(folder: Path) -> Found:
    """The records of all models in a folder, which scored the same lists.

    Raises:
        StudyError: they did not.
    """
    lists: list[Judged] | None = None
    scores: dict[str, list[Floats]] = {}
    for path in sorted(folder.glob("*/queries.jsonl")):
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        own = [
            Judged(
                one["qid"],
                tuple(one["grades"]),
                one["rel_min"],
                one["kind"],
                tuple(one["modalities"]),
                tuple(one["missing"]),
            )
            for one in records
        ]
        if lists is not None and own != lists:
            raise StudyError(f"{path}: not the lists of the others; remove {folder} and run again")
        lists = own
        for name in records[0]["scores"]:
            scores[name] = [
                np.array([np.nan if s is None else s for s in one["scores"][name]], np.float64)
                for one in records
            ]
    if lists is None:
        raise StudyError(f"{folder}: no scores")
    return Found(lists, scores)


def fused(found: Found, share: float) -> list[Floats]:
    """Stage 1's logits plus a share of the reward model's."""
    pairs = zip(found.scores[STAGE1], found.scores[REWARD], strict=True)
    return [logits + share * reward for logits, reward in pairs]


def fusion_share(valid: Found) -> float:
    """The share of the reward with the best validation metric, macro over kinds."""
    kinds = np.array([one.kind for one in valid.lists])

    def macro(share: float) -> float:
        hits = measure(fused(valid, share), valid.lists, (METRIC,), nan_last=True)[METRIC]
        return float(np.mean([hits[kinds == kind].mean() for kind in np.unique(kinds)]))

    return max(SHARES, key=macro)


def hits_of(found: Found, arms: Sequence[str], share: float) -> Hits:
    """Hit@1 of every row and seed: rows of one model have one seed."""
    scores = dict(found.scores)
    scores[FUSION] = fused(found, share)
    hits = {
        name: measure(values, found.lists, (METRIC,), nan_last=True)[METRIC]
        for name, values in scores.items()
    }
    rows: Hits = {}
    for name, values in hits.items():
        row, _, seed = name.rpartition(" ")
        if row in arms and seed.isdigit():
            rows[row] = np.vstack([rows[row], values]) if row in rows else values[None]
        else:
            rows[name] = values[None]
    return rows


@dataclass(frozen=True)
class Drawn:
    """Macro means over kinds of each row, as they are and in every resample."""

    points: dict[str, float]
    means: dict[str, Floats]  # (resamples,)


def draw(rows: Hits, kinds: Sequence[str], resamples: int) -> Drawn:
    """Resample queries within kinds, the same for all rows, and the seeds of each row."""
    rng = np.random.default_rng(0)
    labels = np.asarray(kinds)
    names = np.unique(labels)
    points = {row: 0.0 for row in rows}
    means = {row: np.zeros(resamples) for row in rows}
    seeds = {
        row: rng.multinomial(len(some), np.full(len(some), 1 / len(some)), resamples) / len(some)
        for row, some in rows.items()
    }
    for name in names:
        members = np.flatnonzero(labels == name)
        count = len(members)
        counts = rng.multinomial(count, np.full(count, 1 / count), resamples) / count
        for row, some in rows.items():
            own = some[:, members]  # (seeds, queries)
            points[row] += float(own.mean()) / len(names)
            means[row] += np.einsum("rq,sq,rs->r", counts, own, seeds[row], optimize=True) / len(
                names
            )
    return Drawn(points, means)


def estimate(drawn: Drawn, row: str, other: str | None) -> Estimate:
    """Of a row, or of its difference to another."""
    point = drawn.points[row] - (drawn.points[other] if other else 0.0)
    means = drawn.means[row] - (drawn.means[other] if other else 0.0)
    means = np.round(means, 12)  # rows that are alike differ by nothing, not in their last bits
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    rarer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Estimate(point, float(low), float(high), min(1.0, 2 * (rarer + 1) / (len(means) + 1)))


def _about(config: StudyConfig, rates: Mapping[str, float], share: float) -> str:
    told = ", ".join(f"{arm} {rate:g}" for arm, rate in rates.items())
    return (
        f"Macro Hit@1 over kinds of the test split in percent. Every arm goes on from stage 1 for "
        f"{config.steps} steps on the same mined lists; learning rates, chosen on the validation "
        f"split of {len(config.rates)} each: {told}. Share of the reward in the fusion, chosen "
        f"there too: {share:g}. Brackets: {100 * LEVEL:.0f} % intervals over queries and seeds "
        f"({config.resamples} resamples). p is two-sided, of the difference to the control, "
        "corrected by Holm over the arms; McNemar's is of the first seeds."
    )


def _markdown(
    name: str,
    kinds: Sequence[str],
    rows: Hits,
    values: Mapping[str, Estimate],
    gains: Mapping[str, Estimate],
    above: Mapping[str, Estimate],
    tests: Mapping[str, float],
    corrected: Mapping[str, float],
    control: str,
) -> str:
    def span(one: Estimate, sign: str) -> str:
        mean, low, high = (100 * x for x in (one.mean, one.low, one.high))
        return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"

    lines = [
        f"## {name} ({len(kinds)} queries)",
        "",
        f"| | seeds | Hit@1 | less {STAGE1} | less {control} | p | p, Holm | McNemar |",
        "| - | -: | -: | -: | -: | -: | -: | -: |",
    ]
    for row in sorted(rows, key=lambda row: -values[row].mean):
        gain = gains.get(row)
        cells = [
            row,
            str(len(rows[row])),
            span(values[row], ""),
            span(above[row], "+") if row in above else "",
            span(gain, "+") if gain else "",
            f"{gain.p:.3g}" if gain else "",
            f"{corrected[row]:.3g}" if row in corrected else "",
            f"{tests[row]:.3g}" if row in tests else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

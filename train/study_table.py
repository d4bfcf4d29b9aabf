"""The table of a study: every row with its intervals, its gains, and how surely they are not 0."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.baselines import TEXT_BASELINES
from train.evaluation import DUAL, FIRST
from train.study_numbers import (
    FUSION,
    LEVEL,
    STAGE1,
    Estimate,
    Hits,
    collect,
    draw,
    estimate,
    fusion_share,
    hits_of,
    ratio,
)
from train.study_scale import as_json, markdown, scales
from unirank_jax.significance import holm, mcnemar

if TYPE_CHECKING:
    from train.study import StudyConfig

CONTROL, BESIDE = "continued", "recall@1"
OUTSIDE = (*TEXT_BASELINES, DUAL, FIRST)  # and `StudyConfig.others`


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
        found = collect(workdir / "scores" / f"{config.judged_on}-{name}")
        rows = hits_of(found, arms, share)
        kinds = [one.kind for one in found.lists]
        drawn = draw(rows, kinds, config.resamples)
        values = {row: estimate(drawn, row, None) for row in rows}
        control = CONTROL if CONTROL in rows else STAGE1
        gains = {row: estimate(drawn, row, control) for row in rows if row != control}
        above = {row: estimate(drawn, row, STAGE1) for row in rows if row != STAGE1}
        tests = {row: mcnemar(rows[row][0], rows[control][0], seed=0) for row in gains}
        recalls = draw(hits_of(found, arms, share, BESIDE), kinds, config.resamples)
        recall = {row: estimate(recalls, row, None) for row in rows}
        outside = max({*OUTSIDE, *config.others} & rows.keys(), key=lambda row: values[row].mean)
        over = {row: estimate(drawn, row, outside) for row in rows if row != outside}
        relative = {row: ratio(drawn, row, outside) for row in over}
        corrected = dict(
            zip(
                [arm for arm in arms if arm in gains],
                holm([gains[arm].p for arm in arms if arm in gains]),
                strict=True,
            )
        )
        models = [row for row in rows if row not in (*OUTSIDE, FUSION)]
        scale = scales(found, models, arms)
        tables[name] = {
            "scale": {row: as_json(one) for row, one in scale.items()},
            "queries": len(kinds),
            "rows": {row: asdict(one) for row, one in values.items()},
            f"less {control}": {row: asdict(one) for row, one in gains.items()},
            f"less {STAGE1}": {row: asdict(one) for row, one in above.items()},
            BESIDE: {row: asdict(one) for row, one in recall.items()},
            "strongest outside": outside,
            f"less {outside}": {row: asdict(one) for row, one in over.items()},
            f"relative to {outside}": {row: asdict(one) for row, one in relative.items()},
            "mcnemar": tests,
            "holm": corrected,
            "seeds": {row: len(some) for row, some in rows.items()},
        }
        parts.append(_markdown(name, kinds, rows, values, gains, above, tests, corrected, control))
        parts.append(
            _outside(outside, [row for row in over if row not in OUTSIDE], over, relative, recall)
        )
        parts.append(markdown(scale))
    text = "\n\n".join(parts) + "\n"
    (workdir / "table.json").write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    (workdir / "table.md").write_text(text, encoding="utf-8")
    print(text)


def _about(config: StudyConfig, rates: Mapping[str, float], share: float) -> str:
    told = ", ".join(f"{arm} {rate:g}" for arm, rate in rates.items())
    return (
        f"Macro Hit@1 over kinds of the {config.judged_on} split in percent. Every arm goes on "
        f"from stage 1 for {config.steps} steps on the same mined lists; learning rates, chosen on "
        f"the validation split of {len(config.rates)} each: {told}. Share of the reward in the "
        f"fusion, chosen there too: {share:g}. Brackets: {100 * LEVEL:.0f} % intervals over "
        f"queries and seeds ({config.resamples} resamples). p is two-sided, of the "
        "difference to the control, corrected by Holm over the arms; McNemar's is of the first "
        "seeds."
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


def _outside(
    outside: str,
    names: Sequence[str],
    over: Mapping[str, Estimate],
    relative: Mapping[str, Estimate],
    recall: Mapping[str, Estimate],
) -> str:
    """Against the strongest row that this pipeline has not trained."""
    lines = [
        f"Against {outside}, the strongest row that is not of this pipeline (Recall@1 "
        f"{span(recall[outside], '')}):",
        "",
        f"| | Hit@1 less {outside} | relative | p | Recall@1 |",
        "| - | -: | -: | -: | -: |",
    ]
    for row in sorted(names, key=lambda row: -over[row].mean):
        gain, share = span(over[row], "+"), span(relative[row], "+")
        lines.append(
            f"| {row} | {gain} | {share} % | {over[row].p:.3g} | {span(recall[row], '')} |"
        )
    return "\n".join(lines)


def span(one: Estimate, sign: str) -> str:
    """In percent, with its interval."""
    mean, low, high = (100 * x for x in (one.mean, one.low, one.high))
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"

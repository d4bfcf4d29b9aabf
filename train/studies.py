"""Several studies in one table: what every arm gains over the control, corrected for their number.

    python -m train.studies runs/noisy runs/few runs/top runs/hard --out runs/settings.md

Each folder holds a finished `train.study`. Its own table corrects its own arms (Holm); where the
best of several studies is picked, as among the settings of `configs/settings_study.py`, all arms of
all of them have to be corrected together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from train.study import ABOUT, LISTS
from train.study_numbers import STAGE1, Estimate, StudyError
from train.study_table import CONTROL, span
from unirank_jax.datasets.formats.writing import write_lines
from unirank_jax.significance import holm


@dataclass(frozen=True)
class Gain:
    """An arm of a study against the control of that study."""

    study: str
    arm: str
    seeds: int
    queries: int
    gain: Estimate


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and write it. Exit code 1 where a study is not finished."""
    arguments = _parser().parse_args(argv)
    try:
        gains = [g for run in arguments.runs for g in read_gains(Path(run), arguments.lists)]
    except StudyError as error:
        print(f"train.studies: {error}", file=sys.stderr)
        return 1
    text = render(gains, arguments.lists)
    print(text)
    if arguments.out:
        Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
        write_lines(Path(arguments.out), [text, "\n"])
    return 0


def read_gains(run: Path, lists: str) -> list[Gain]:
    """The arms of a finished study but its control.

    Raises:
        StudyError: no table.
    """
    try:
        about = json.loads((run / ABOUT).read_text("utf-8"))
        table = json.loads((run / "table.json").read_text("utf-8"))[lists]
    except (OSError, KeyError, ValueError) as error:
        raise StudyError(
            f"{run}: no finished study ({error}); run train.study to its end"
        ) from error
    control = CONTROL if CONTROL in table["rows"] else STAGE1
    return [
        Gain(
            about["name"],
            arm,
            table["seeds"][arm],
            table["queries"],
            Estimate(**table[f"less {control}"][arm]),
        )
        for arm in table["holm"]
    ]


def render(gains: Sequence[Gain], lists: str) -> str:
    """A Markdown table, the largest gain first."""
    corrected = holm([one.gain.p for one in gains])
    lines = [
        f"Macro Hit@1 less the control's on {lists}, in percent, 95 % intervals over queries and "
        f"seeds; p corrected by Holm over these {len(gains)} arms.",
        "",
        "| study | arm | seeds | queries | gain | p | p, Holm |",
        "| - | - | -: | -: | -: | -: | -: |",
    ]
    order = sorted(zip(gains, corrected, strict=True), key=lambda pair: -pair[0].gain.mean)
    for one, p in order:
        cells = [one.study, one.arm, str(one.seeds), str(one.queries), span(one.gain, "+")]
        lines.append("| " + " | ".join([*cells, f"{one.gain.p:.3g}", f"{p:.3g}"]) + " |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.studies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of train.study")
    parser.add_argument("--lists", choices=LISTS, default=LISTS[0], help="(default: %(default)s)")
    parser.add_argument("--out", help="write the table here, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""`python -m train.demo`: the whole tour on the embedded sample, in minutes on two CPU cores.

Fine-tunes the embedded base, exports it, measures it before and after beside the baselines, ranks
held-out queries and writes a page that shows them. Running it again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from train import evaluate, export, sft
from train.evaluation import content
from train.initial import ASSETS
from train.page import Candidate, RankedList, render
from unirank_jax.datasets.dataset import Dataset, sample
from unirank_jax.datasets.records import Example

_EXAMPLES = """examples:
  python -m train.demo
  python -m train.demo --workdir runs/longer --set schedule.steps=1000"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when the page is written."""
    arguments = _parser().parse_args(argv)
    root = Path(arguments.workdir)
    run, exported = root / "run", root / "exported"

    print("1/4 fine-tuning the embedded base (the same command by hand: python -m train.sft)")
    overrides = ["--set", *arguments.set] if arguments.set else []
    code = sft.main(["--config", arguments.config, "--workdir", str(run), *overrides])
    if code:
        return code

    print("2/4 exporting the best checkpoint")
    shutil.rmtree(exported, ignore_errors=True)  # of an earlier demo in this folder
    code = export.main(["--workdir", str(run), "--step", "best", "--out", str(exported)])
    if code:
        return code

    print("3/4 measuring before and after on held-out molecules and documents")
    report = root / "evaluation"
    evaluate.main(
        [
            *("--config", arguments.config, "--out", str(report)),
            *("--limit", str(arguments.lists)),
            *("--model", f"before={ASSETS / 'base'}", f"after={exported}"),
        ]
    )

    print("4/4 ranking real queries")
    page = root / "ranked.html"
    table = (report / "report.md").read_text("utf-8")
    page.write_text(_page(exported, table, arguments.shown), encoding="utf-8")
    print(f"ranked lists with pictures: {page}")
    return 0


def _page(folder: Path, table: str, shown: int) -> str:
    from unirank_jax.loading import load

    reranker = load(folder)
    dataset = sample("sci")
    lists = []
    for example in _one_per_kind(dataset, shown):
        ranked = reranker.rank(
            content(example.query.parts),
            [content(item.parts) for item in example.candidates],
            instruction=example.query.instruction,
        )
        best = tuple(
            Candidate(
                example.candidates[one.index].parts,
                one.score,
                example.grades[one.index] >= example.query.rel_min,
            )
            for one in ranked
        )
        lists.append(RankedList(example.query.kind, example.query.parts, best))
    introduction = (
        "Text and image candidates of held-out queries, ranked together by one model that was "
        "fine-tuned for a few minutes on a CPU. Below: the measurements on all lists."
    )
    return render("unirank_jax demo", introduction, table, lists)


def _one_per_kind(dataset: Dataset, most: int) -> list[Example]:
    """The first test list of every kind of query."""
    found: dict[str, int] = {}
    lists = dataset.lists("test")
    for number in range(len(lists)):
        found.setdefault(dataset.query(lists[number].qid).kind, number)
        if len(found) == most:
            break
    return [dataset.example("test", number) for number in found.values()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
    )
    parser.add_argument("--config", default="configs/sci.py:tiny", help="(default: %(default)s)")
    parser.add_argument("--workdir", default="runs/demo", help="folder (default: %(default)s)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="for train.sft"
    )
    parser.add_argument(
        "--lists", type=int, default=560, help="test lists measured (default: %(default)s)"
    )
    parser.add_argument(
        "--shown", type=int, default=12, help="ranked lists on the page (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

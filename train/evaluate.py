"""`python -m train.evaluate`: rerankers and baselines on the lists of one split, with intervals.

Prints the tables and writes them (report.md), all numbers (report.json), the scores of every query
(queries.jsonl) and a page with plots and ranked lists (report.html) to a folder. The lists are the
dataset's own, those of a file, or what a first stage finds in the whole pool (train/top100.py). As
a library: `evaluate` and `evaluate_scores`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from train import html_report
from train.baselines import Scorer, text_baselines
from train.config import ConfigError
from train.config import load as load_config
from train.contenders import (
    dual_encoder,
    dual_folder,
    model_scorer,
    named,
    named_paths,
    require_steps,
)
from train.evaluation import FIRST, Report, evaluate, evaluate_scores, examples_of
from train.fitted import with_baselines
from train.forms import Shown
from train.runs import Ranking, coverage, fixed, open_run, rejudged, write_runs
from train.slices import Row
from train.tables import as_json, render
from train.top100 import Sizes, first_stage_of, top100
from unirank_jax.content import ContentError
from unirank_jax.datasets.dataset import Dataset, DatasetError, open_source
from unirank_jax.datasets.overlay import overlaid
from unirank_jax.hub import WeightsError
from unirank_jax.metrics import MetricError

__all__ = ["Report", "Row", "evaluate", "evaluate_scores", "main", "write"]

TOP100 = "top100"
EXPECTED = (ConfigError, DatasetError, MetricError, WeightsError, ContentError)

_EXAMPLES = """examples:
  python -m train.evaluate --config configs/sci.py
  python -m train.evaluate --model runs/sft-sci-tiny
  python -m train.evaluate --data my_lists/ --model exported/ --split valid
  python -m train.evaluate --model before=base/ after=exported/ --out runs/comparison
  python -m train.evaluate --model native=runs/a image=runs/b:image text=runs/c:text
  python -m train.evaluate --lists top100 --write-runs --out runs/top100
  python -m train.evaluate --model exported/ --fit
  python -m train.evaluate --data beir/ --run theirs.trec ours=ours.trec --qrels other.trec

Without --model and --run the embedded default reranker is measured."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exits with a message on bad arguments, data or scores."""
    arguments = _parser().parse_args(argv)
    folder = Path(arguments.out)
    try:
        config = load_config(arguments.config, arguments.set)
        report, dataset = run(arguments, arguments.data or config.data.source, config.seed)
        print(render(report, every_slice=False))
        write(report, folder)
        if arguments.write_runs:
            write_runs(report.queries, folder / "runs")
    except EXPECTED as error:
        sys.exit(f"train.evaluate: {error}")
    page = html_report.render(report, dataset, vars(arguments), arguments.shown)
    (folder / "report.html").write_text(page, encoding="utf-8")
    more = ", runs/" if arguments.write_runs else ""
    print(f"{folder}: report.html, report.md (every slice), report.json, queries.jsonl{more}")


def run(arguments: argparse.Namespace, source: str, seed: int) -> tuple[Report, Dataset]:
    """Load the models one after the other and evaluate them on the lists that were asked for."""
    split = arguments.split
    dual = dual_folder(arguments.dual_encoder, source)
    on_error = "nan" if arguments.nan_last else "raise"
    paths, forms = named(arguments.model, default=not arguments.run)
    if arguments.mixed and set(forms.values()) - {"native"}:
        raise ConfigError("--mixed changes the form of candidates; leave it out beside PATH:FORM")
    if arguments.fit and (arguments.mixed or arguments.nan_last):
        raise ConfigError(
            "--fit needs every score of the lists as they are; leave --mixed and --nan-last out"
        )
    require_steps(paths.values(), arguments.step)
    rankings = {
        name: open_run(Path(path)) for name, path in named_paths("--run", arguments.run).items()
    }
    dataset, notes, first = _lists(arguments, open_source(source), dual)
    if arguments.qrels:
        dataset, note = rejudged(dataset, split, Path(arguments.qrels))
        notes.append(note)
    shown = Shown(dataset, forms)
    notes += shown.notes(split)
    examples = examples_of(shown.dataset, split, arguments.limit)
    notes += [coverage(name, ranking, examples) for name, ranking in rankings.items()]
    models = {
        name: model_scorer(name, paths[name], arguments.step, on_error, shown) for name in paths
    }
    baselines = dual_encoder(dual)
    runs: dict[str, Scorer] = {name: fixed(ranking) for name, ranking in rankings.items()}
    if arguments.fit:
        of_text = text_baselines(shown.dataset, split, examples)
        models, baselines, fits = with_baselines(models, {**of_text, **baselines})
        runs |= fits
    report = evaluate(
        shown.dataset,
        split,
        models,
        baselines | ({FIRST: fixed(first)} if first else {}),
        runs=runs,
        notes=notes,
        resamples=arguments.resamples,
        seed=seed,
        limit=arguments.limit,
        mixed=arguments.mixed,
        nan_last=arguments.nan_last,
    )
    return replace(report, about=report.about | shown.about(split)), shown.dataset


def _lists(
    arguments: argparse.Namespace, dataset: Dataset, dual: Path | None
) -> tuple[Dataset, list[str], Ranking | None]:
    """The dataset with the lists to evaluate on, what to say about them, and their first stage."""
    split, wanted = arguments.split, arguments.lists
    if split not in dataset.splits:
        raise DatasetError(
            f"{dataset.path}: no lists in split {split!r}; "
            f"choose one of: {', '.join(dataset.splits)}"
        )
    if not wanted:
        return dataset, [], None
    if wanted == TOP100:
        if dual is None:
            raise ConfigError("--lists top100: a first stage needs --dual-encoder PATH; give one")
        sizes = Sizes(arguments.texts, arguments.images, arguments.limit)
        path = top100(dataset, split, dual, sizes, Path(arguments.out))
        note = (
            f"Lists: {sizes.texts} texts and {sizes.images} items with an image that a first stage "
            f"found in the whole pool of {len(dataset.pool(split))} items; unjudged items of the "
            "query's own object are left out."
        )
    else:
        path, note = Path(wanted), f"Lists: those of {Path(wanted).name}."
    return overlaid(dataset, split, path), [note], first_stage_of(path)


def write(report: Report, folder: Path) -> None:
    """report.md, report.json and queries.jsonl; earlier files of these names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(render(report, every_slice=True), encoding="utf-8")
    text = json.dumps(as_json(report), indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    with open(folder / "queries.jsonl", "w", encoding="utf-8") as file:
        for record in report.queries:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "--config",
        default="configs/sci.py",
        help="names the data and the seed (default: %(default)s)",
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="overrides"
    )
    parser.add_argument(
        "--model",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME=]PATH[:FORM]",
        help="exported folders, hub ids or workdirs of train.sft; with :image or :text the model "
        "sees all candidates in that form",
    )
    parser.add_argument(
        "--run",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME=]FILE",
        help="TREC runs that are compared like models; documents that they do not hold rank last",
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="also each model joined with BM25, TF-IDF and the dual encoder, and these without a "
        "model: weighed on one half of the lists, judged on the other",
    )
    parser.add_argument(
        "--write-runs", action="store_true", help="write a TREC run of every scorer, and the qrels"
    )
    parser.add_argument(
        "--step", default="best", help="of a workdir: best, last or a number (default: best)"
    )
    parser.add_argument(
        "--dual-encoder",
        metavar="PATH",
        help="a pretrained folder whose cosine joins the baselines (default: on the embedded "
        "sample, the embedded base)",
    )
    parser.add_argument("--data", help="a dataset folder or JSONL file instead of the config's")
    parser.add_argument("--split", default="test", help="(default: %(default)s)")
    parser.add_argument(
        "--lists",
        default="",
        metavar="top100|FILE",
        help="top100: what a first stage finds in the whole pool (kept in --out); or a file of "
        "lists (default: the dataset's own)",
    )
    for form in ("texts", "images"):
        parser.add_argument(
            f"--{form}", type=int, default=50, help=f"{form} on a top100 list (default: 50)"
        )
    parser.add_argument("--qrels", metavar="FILE", help="judge the lists by these grades instead")
    parser.add_argument("--limit", type=int, help="at most this many lists, evenly spaced")
    parser.add_argument(
        "--mixed",
        type=int,
        default=0,
        help="score up to so many queries with their candidates as texts and as images (default: "
        "none)",
    )
    parser.add_argument(
        "--resamples", type=int, default=10_000, help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument(
        "--nan-last", action="store_true", help="count failed candidates as last, do not stop"
    )
    parser.add_argument(
        "--shown",
        type=int,
        default=12,
        help="ranked lists of each sort on the page (default: %(default)s)",
    )
    parser.add_argument("--out", default="runs/evaluate", help="folder (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import unirank_jax
from train import html_report
from train.baselines import Scorer, Scores
from train.config import ConfigError
from train.config import load as load_config
from train.evaluation import (
    DUAL,
    FIRST,
    Report,
    evaluate,
    evaluate_scores,
    examples_of,
    reranker_scorer,
)
from train.runs import Ranking, coverage, fixed, open_run, rejudged, write_runs
from train.slices import Row
from train.tables import as_json, render
from train.top100 import Sizes, first_stage_of, top100
from unirank_jax.content import ContentError
from unirank_jax.datasets.dataset import Dataset, DatasetError, open_source
from unirank_jax.datasets.overlay import overlaid
from unirank_jax.datasets.records import Example
from unirank_jax.hub import WeightsError, resolve
from unirank_jax.metrics import MetricError

__all__ = ["Report", "Row", "evaluate", "evaluate_scores", "main", "write"]

TOP100 = "top100"
BASE = Path(unirank_jax.__file__).parent / "assets" / "base"
EXPECTED = (ConfigError, DatasetError, MetricError, WeightsError, ContentError)

_EXAMPLES = """examples:
  python -m train.evaluate --config configs/sci.py
  python -m train.evaluate --model runs/sft-sci-tiny
  python -m train.evaluate --data my_lists/ --model exported/ --split valid
  python -m train.evaluate --model before=base/ after=exported/ --out runs/comparison
  python -m train.evaluate --lists top100 --write-runs --out runs/top100
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
    dual = _dual_folder(arguments.dual_encoder, source)
    on_error = "nan" if arguments.nan_last else "raise"
    models = _models(arguments.model, arguments.step, on_error, bool(arguments.run))
    rankings = {name: open_run(Path(path)) for name, path in _named("--run", arguments.run)}
    dataset, notes, first = _lists(arguments, open_source(source), dual)
    if arguments.qrels:
        dataset, note = rejudged(dataset, split, Path(arguments.qrels))
        notes.append(note)
    examples = examples_of(dataset, split, arguments.limit)
    notes += [coverage(name, ranking, examples) for name, ranking in rankings.items()]
    report = evaluate(
        dataset,
        split,
        models,
        _dual_encoder(dual) | ({FIRST: fixed(first)} if first else {}),
        runs={name: fixed(ranking) for name, ranking in rankings.items()},
        notes=notes,
        resamples=arguments.resamples,
        seed=seed,
        limit=arguments.limit,
        mixed=arguments.mixed,
        nan_last=arguments.nan_last,
    )
    return report, dataset


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


def _models(specs: Sequence[str], step: str, on_error: str, with_runs: bool) -> dict[str, Scorer]:
    """The models that were named; without any model or run the embedded default.

    A model is loaded when its turn to score comes, so only one is in memory at a time.
    """
    named: dict[str, str | None] = {}
    for name, path in _named("--model", specs):
        # Now, not when the first models have scored for hours.
        named[name] = path if _is_run(path) else str(resolve(path))
    if not named and not with_runs:
        named = {"default": None}
    return {name: _model(name, path, step, on_error) for name, path in named.items()}


def _named(option: str, specs: Sequence[str]) -> list[tuple[str, str]]:
    """(name, path) of `NAME=PATH` or `PATH`, which is named by its last part."""
    found: dict[str, str] = {}
    for spec in specs:
        name, equals, path = spec.partition("=")
        if not equals:
            name, path = Path(spec).name.removesuffix(".trec"), spec
        if name in found:
            raise ConfigError(f"{option} {spec}: the name {name!r} is taken; write NAME={path}")
        found[name] = path
    return list(found.items())


def _is_run(path: str) -> bool:
    return (Path(path) / "checkpoints").is_dir()


def _model(name: str, path: str | None, step: str, on_error: str) -> Scorer:
    def score(examples: Sequence[Example]) -> Scores:
        from unirank_jax.reranker import default, load  # JAX: only when it is needed

        if path is None:
            return reranker_scorer(default(), on_error=on_error, progress=name)(examples)
        with _exported(path, step) as folder:
            return reranker_scorer(load(folder), on_error=on_error, progress=name)(examples)

    return score


@contextmanager
def _exported(path: str, step: str) -> Iterator[str]:
    """A model folder as it is; a training run's checkpoint, exported for the time being."""
    if not _is_run(path):
        yield path
        return
    from train.checkpoint import CheckpointError
    from train.export import export

    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        try:
            export(Path(path), step, folder, "merged", None)
        except CheckpointError as error:
            raise ConfigError(f"--model {path}, --step {step}: {error}") from None
        yield str(folder)


def _dual_folder(path: str | None, source: str) -> Path | None:
    """The folder at `path`; without one, that of the embedded base on the embedded data."""
    if path is None and source.startswith("sample:") and (BASE / "config.json").is_file():
        path = str(BASE)
    return None if path is None else resolve(path)


def _dual_encoder(folder: Path | None) -> dict[str, Scorer]:
    if folder is None:
        return {}

    def score(examples: Sequence[Example]) -> Scores:
        from train.dual import dual_encoder  # JAX: only when it is needed
        from unirank_jax.reranker import load

        return dual_encoder(load(folder))(examples)

    return {DUAL: score}


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
        metavar="[NAME=]PATH",
        help="exported folders, hub ids or workdirs of train.sft",
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

"""`python -m train.evaluate`: rerankers and baselines on the lists of one split, with intervals.

Prints the tables and writes them (report.md), all numbers (report.json), the scores of every query
(queries.jsonl) and a page with plots and ranked lists (report.html) to a folder. As a library:
`evaluate` and `evaluate_scores`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import unirank_jax
from train import html_report
from train.baselines import Scorer, Scores
from train.config import ConfigError
from train.config import load as load_config
from train.evaluation import (
    Report,
    Row,
    evaluate,
    evaluate_scores,
    reranker_scorer,
)
from train.forms import Shown, form_of_run, split_form
from train.tables import as_json, render
from unirank_jax.content import ContentError
from unirank_jax.datasets.dataset import DatasetError, open_source
from unirank_jax.datasets.forms import Form
from unirank_jax.datasets.records import Example
from unirank_jax.hub import WeightsError, resolve
from unirank_jax.metrics import MetricError

if TYPE_CHECKING:
    from unirank_jax.reranker import Reranker

__all__ = ["Report", "Row", "evaluate", "evaluate_scores", "main", "write"]

BASE = Path(unirank_jax.__file__).parent / "assets" / "base"
Paths = dict[str, str | None]  # name -> folder of a model or a run; None: the embedded default
EXPECTED = (ConfigError, DatasetError, MetricError, WeightsError, ContentError)

_EXAMPLES = """examples:
  python -m train.evaluate --config configs/sci.py
  python -m train.evaluate --model runs/sft-sci-tiny
  python -m train.evaluate --data my_lists/ --model exported/ --split valid
  python -m train.evaluate --model before=base/ after=exported/ --out runs/comparison
  python -m train.evaluate --model native=runs/a image=runs/b:image text=runs/c:text

Without --model the embedded default reranker is measured."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exits with a message on bad arguments, data or scores."""
    arguments = _parser().parse_args(argv)
    try:
        config = load_config(arguments.config, arguments.set)
        source = arguments.data or config.data.source
        paths, forms = named(arguments.model)
        shown = Shown(open_source(source), forms)
        dataset = shown.dataset
        report = run(arguments, paths, shown, source, config.seed)
    except EXPECTED as error:
        sys.exit(f"train.evaluate: {error}")
    print(render(report, every_slice=False))
    folder = Path(arguments.out)
    write(report, folder)
    page = html_report.render(report, dataset, vars(arguments), arguments.shown)
    (folder / "report.html").write_text(page, encoding="utf-8")
    print(f"{folder}: report.html, report.md (every slice), report.json, queries.jsonl")


def run(
    arguments: argparse.Namespace, paths: Paths, shown: Shown, source: str, seed: int
) -> Report:
    """Load the models one after the other and evaluate them on the data."""
    dataset, on_error = shown.dataset, "nan" if arguments.nan_last else "raise"
    if arguments.mixed and set(shown.forms.values()) != {"native"}:
        raise ConfigError("--mixed changes the form of candidates; leave it out beside PATH:FORM")
    if arguments.split not in dataset.splits:
        raise DatasetError(
            f"{dataset.path}: no lists in split {arguments.split!r}; "
            f"choose one of: {', '.join(dataset.splits)}"
        )
    report = evaluate(
        dataset,
        arguments.split,
        {name: _model(name, paths[name], arguments.step, on_error, shown) for name in paths},
        _dual_encoder(arguments.dual_encoder, source),
        resamples=arguments.resamples,
        seed=seed,
        limit=arguments.limit,
        mixed=arguments.mixed,
        nan_last=arguments.nan_last,
    )
    return replace(report, about=report.about | shown.about(arguments.split))


def write(report: Report, folder: Path) -> None:
    """report.md, report.json and queries.jsonl; earlier files of these names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(render(report, every_slice=True), encoding="utf-8")
    text = json.dumps(as_json(report), indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    with open(folder / "queries.jsonl", "w", encoding="utf-8") as file:
        for record in report.queries:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def named(specs: Sequence[str]) -> tuple[Paths, dict[str, Form]]:
    """The models of `[NAME=]PATH[:FORM]`, named by the last part of the path, and their forms.

    Without a form it is that of the run, or native. No model is the embedded default.
    """
    named: Paths = {} if specs else {"default": None}
    forms: dict[str, Form] = {} if specs else {"default": "native"}
    for spec in specs:
        name, equals, path = spec.partition("=")
        path, form = split_form(path if equals else spec)
        name = name if equals else Path(path).name
        if name in named:
            raise ConfigError(f"--model {spec}: the name {name!r} is taken; write NAME={path}")
        # Now, not when the first models have scored for hours.
        named[name] = path if _is_run(path) else str(resolve(path))
        forms[name] = form or (form_of_run(path) if _is_run(path) else "native")
    return named, forms


def _is_run(path: str) -> bool:
    return (Path(path) / "checkpoints").is_dir()


def _model(name: str, path: str | None, step: str, on_error: str, shown: Shown) -> Scorer:
    """Loads the model when its turn to score comes, so only one is in memory at a time."""

    def score(examples: Sequence[Example]) -> Scores:
        from unirank_jax.reranker import default, load  # JAX: only when it is needed

        def scores(reranker: Reranker) -> Scores:
            seen = shown.to(name, examples, reranker.prompt)
            return reranker_scorer(reranker, on_error=on_error, progress=name)(seen)

        if path is None:
            return scores(default())
        with exported(path, step) as folder:
            return scores(load(folder))

    return score


@contextmanager
def exported(path: str, step: str) -> Iterator[str]:
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


def _dual_encoder(path: str | None, source: str) -> dict[str, Scorer]:
    """The dual encoder at `path`; without one, that of the embedded base on the embedded data."""
    if path is None and source.startswith("sample:") and (BASE / "config.json").is_file():
        path = str(BASE)
    if path is None:
        return {}
    folder = resolve(path)

    def score(examples: Sequence[Example]) -> Scores:
        from train.dual import dual_encoder  # JAX: only when it is needed
        from unirank_jax.reranker import load

        return dual_encoder(load(folder))(examples)

    return {"dual encoder": score}


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

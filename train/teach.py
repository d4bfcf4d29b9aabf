"""`python -m train.teach`: a teacher's logits for training lists, for `loss.teacher`.

BM25, TF-IDF and one or more dual encoders measure every candidate; how much each counts, by what
asks and what is shown, is fitted to lists of another split (train/teacher.py). A model then learns
the whole order of a list, and not only which candidate is right:
`python -m train.sft --set data.teacher=FILE loss.teacher=1`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from train.baselines import Scorer, Scores, text_baselines
from train.config import ConfigError
from train.judging import judged
from train.teacher import Teacher, cross_fitted, fit
from unirank_jax.datasets.dataset import Dataset, DatasetError, open_source
from unirank_jax.datasets.formats.writing import json_line, write_lines
from unirank_jax.datasets.overlay import overlaid
from unirank_jax.datasets.records import Example
from unirank_jax.hub import WeightsError, resolve

EXPECTED = (ConfigError, DatasetError, WeightsError, ValueError)
HIT = "hit@1"

_EXAMPLES = """examples:
  python -m train.teach --data sample:sci --dual-encoder unirank_jax/assets/base \\
      --out runs/teacher.jsonl.gz
  python -m train.teach --data data/sci --lists runs/retrieve-sci/FILE --own-candidates \\
      --dual-encoder unirank_jax/assets/base results/m2/small-base --out runs/teach-sci.jsonl.gz"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit code 0 when the file is written, 1 on an error."""
    arguments = _parser().parse_args(argv)
    try:
        dataset = open_source(arguments.data)
        for split in (arguments.split, arguments.fit_on):
            if split not in dataset.splits:
                raise DatasetError(f"no lists in {split!r}; choose of {', '.join(dataset.splits)}")
        if arguments.split == arguments.fit_on:
            raise ConfigError("--fit-on: give another split than --split, or it proves nothing")
        duals = {path: _dual(path) for path in arguments.dual_encoder}
        fitted = _fit(dataset, arguments.fit_on, arguments.limit, duals)
        if arguments.lists:
            own = arguments.own_candidates
            dataset = overlaid(dataset, arguments.split, arguments.lists, own=own)
        examples = examples_of(dataset, arguments.split, None)
        measures = _measures(dataset, arguments.split, examples, duals)
        write_lines(Path(arguments.out), map(json_line, _records(fitted, examples, measures)))
        print(f"{arguments.out}: {len(examples)} lists")
    except EXPECTED as error:
        print(f"train.teach: {error}", file=sys.stderr)
        return 1
    return 0


def examples_of(dataset: Dataset, split: str, limit: int | None) -> list[Example]:
    """The examples of a split, or `limit` evenly spaced ones; an item is in memory once."""
    lists = dataset.lists(split)
    count = len(lists) if limit is None else min(limit, len(lists))
    chosen = [lists[i * len(lists) // count] for i in range(count)]
    wanted = dict.fromkeys(did for one in chosen for did in one.dids)
    items = {did: dataset.item(did) for did in tqdm(wanted, desc="reading", unit="item", delay=5)}
    return [
        Example(
            dataset.query(one.qid),
            tuple(items[did] for did in one.dids),
            one.grades,
            one.neg_types,
            one.missing,
        )
        for one in chosen
    ]


def _dual(path: str) -> Scorer:
    from train.dual import dual_encoder  # JAX: only when it is needed
    from unirank_jax.loading import load

    return dual_encoder(load(resolve(path)))


def _measures(
    dataset: Dataset, split: str, examples: Sequence[Example], duals: dict[str, Scorer]
) -> dict[str, Scores]:
    scorers = {**text_baselines(dataset, split, examples), **duals}
    del scorers["random"]
    return {name: scorer(examples) for name, scorer in scorers.items()}


def _fit(dataset: Dataset, split: str, limit: int, duals: dict[str, Scorer]) -> Teacher:
    """The teacher of a split; prints what it is worth on lists that it was not fitted to."""
    examples = examples_of(dataset, split, limit)
    measures = _measures(dataset, split, examples, duals)
    halves = cross_fitted(measures, examples)
    from train.ranking import by_kind  # JAX: only when it is needed

    lists = [judged(example) for example in examples]
    print(f"macro {HIT} of {len(examples)} lists of {split!r}, in percent:")
    for name, scores in {**measures, "teacher, fitted to the other half": halves}.items():
        print(f"  {name}: {100 * by_kind(scores, lists)[HIT]:.1f}")
    return fit(measures, examples)


def _records(
    teacher: Teacher, examples: Sequence[Example], measures: dict[str, Scores]
) -> Iterator[dict[str, Any]]:
    for number, example in enumerate(examples):
        one = {name: values[number] for name, values in measures.items()}
        logits = teacher.logits(one, example)
        yield {
            "qid": example.query.qid,
            "dids": [item.did for item in example.candidates],
            "logits": [float(f"{value:.5g}") for value in logits],
        }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.teach",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
    )
    parser.add_argument("--data", required=True, help="a dataset folder, or sample:sci")
    parser.add_argument("--split", default="train", help="to write (default: %(default)s)")
    parser.add_argument("--lists", help="a file of lists instead of the split's own")
    parser.add_argument(
        "--own-candidates", action="store_true", help="with --lists: and the split's own besides"
    )
    parser.add_argument("--fit-on", default="valid", help="a split (default: %(default)s)")
    parser.add_argument(
        "--limit", type=int, default=2000, help="lists of --fit-on (default: %(default)s)"
    )
    parser.add_argument(
        "--dual-encoder", nargs="*", default=[], metavar="PATH", help="pretrained folders"
    )
    parser.add_argument("--out", required=True, help="file.jsonl.gz")
    return parser


if __name__ == "__main__":
    sys.exit(main())

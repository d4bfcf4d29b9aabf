"""`python -m train.retrieve`: what a first stage finds in the whole pool, as lists to train on.

BM25 and a dual encoder search the pool of a split for every query (train/top100.py). Train on the
file with `python -m train.sft --set data.lists=FILE data.own_candidates=true`, which adds it to the
dataset's own candidates. `train.mine` goes further: it scores what was found with a model and keeps
the hardest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from train.config import ConfigError
from train.contenders import dual_folder
from train.top100 import Sizes, top100
from unirank_jax.datasets.dataset import DatasetError, open_source
from unirank_jax.hub import WeightsError

EXPECTED = (ConfigError, DatasetError, WeightsError, ValueError)

_EXAMPLES = """examples:
  python -m train.retrieve --data sample:sci --limit 200 --out runs/retrieved
  python -m train.retrieve --data data/design --dual-encoder results/m2/design-base \\
      --texts 25 --images 25 --out runs/retrieved

The file's name is a hash of all that it depends on: what is there already is not made again."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit code 0 with the file's path printed, 1 on an error."""
    arguments = _parser().parse_args(argv)
    try:
        dataset = open_source(arguments.data)
        if arguments.split not in dataset.splits:
            known = ", ".join(dataset.splits)
            raise DatasetError(f"--split: no lists in {arguments.split!r}; choose one of: {known}")
        folder = dual_folder(arguments.dual_encoder, arguments.data)
        if folder is None:
            raise ConfigError("--dual-encoder: a first stage needs one; give a pretrained folder")
        sizes = Sizes(arguments.texts, arguments.images, arguments.limit)
        print(top100(dataset, arguments.split, folder, sizes, Path(arguments.out)))
    except EXPECTED as error:
        print(f"train.retrieve: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.retrieve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
    )
    parser.add_argument("--data", required=True, help="a dataset folder, or sample:sci")
    parser.add_argument("--split", default="train", help="(default: %(default)s)")
    parser.add_argument(
        "--dual-encoder",
        metavar="PATH",
        help="a pretrained folder (default: on the embedded sample, the embedded base)",
    )
    for form in ("texts", "images"):
        parser.add_argument(f"--{form}", type=int, default=50, help=f"{form} a query (default: 50)")
    parser.add_argument("--limit", type=int, help="at most this many queries, evenly spaced")
    parser.add_argument("--out", default="runs/retrieve", help="folder (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

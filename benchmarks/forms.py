"""Milliseconds per list of native scoring, everything as image and everything as text.

    python benchmarks/forms.py --data DIR --model native=A image=B:image text=C:text --out FILE

Each model scores the same lists in its own form, one list per call, with every program compiled
beforehand. Rounds take turns among the models, so that a slow moment of the machine meets all; the
median over rounds counts. Texts are drawn beforehand and stored as PNG, as a collection of images
would be: decoding is timed, drawing is told apart. Prints JSON; without --model the embedded
default is timed in all three forms.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from PIL import Image

from train.contenders import exported, named
from train.evaluate import EXPECTED
from train.evaluation import content, examples_of
from train.forms import Shown
from unirank_jax.content import ImagePart
from unirank_jax.datasets.dataset import open_source
from unirank_jax.datasets.forms import FORMS
from unirank_jax.datasets.records import Example, Item
from unirank_jax.loading import default, load
from unirank_jax.reranker import Reranker


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Exits with a message on bad arguments or data."""
    arguments = _parser().parse_args(argv)
    try:
        found = measure(arguments)
    except EXPECTED as error:
        sys.exit(f"benchmarks/forms.py: {error}")
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.out:
        Path(arguments.out).write_text(text + "\n", encoding="utf-8")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All numbers; times are in milliseconds."""
    paths, forms = named(arguments.model)
    if not arguments.model:
        paths, forms = dict.fromkeys(FORMS), {form: form for form in FORMS}
    shown = Shown(open_source(arguments.data), forms)
    examples = examples_of(shown.dataset, arguments.split, arguments.lists)
    with ExitStack() as stack:
        models: dict[str, Reranker] = {}
        for name, path in paths.items():
            if path is None:
                models[name] = default()
            else:
                models[name] = load(stack.enter_context(exported(path, arguments.step)))
        drawing: dict[str, float] = {}
        lists: dict[str, list[Example]] = {}
        for name, model in models.items():
            start = time.perf_counter()
            seen = list(shown.to(name, examples, model.prompt))
            drawing[name] = _milliseconds(start) / len(examples)
            lists[name] = [_stored(example) for example in seen]
            _score(model, lists[name])  # compiles
        rounds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(arguments.rounds):
            for name, model in models.items():
                start = time.perf_counter()
                _score(model, lists[name])
                rounds[name].append(_milliseconds(start) / len(examples))
        programs = {name: model.engine.programs for name, model in models.items()}
    return {
        "data": shown.dataset.path.name,
        "split": arguments.split,
        "lists": len(examples),
        "candidates_per_list": sum(len(one.candidates) for one in examples) / len(examples),
        "device": jax.devices()[0].device_kind,
        "processors": os.cpu_count(),
        "jax": jax.__version__,
        **shown.about(arguments.split),
        "milliseconds_per_list": {
            name: {
                "form": forms[name],
                "median": round(statistics.median(times), 3),
                "lowest": round(min(times), 3),
                "highest": round(max(times), 3),
                "conversion": round(drawing[name], 3) if forms[name] != "native" else 0.0,
                "programs": programs[name],
            }
            for name, times in rounds.items()
        },
    }


def _score(model: Reranker, examples: Sequence[Example]) -> None:
    """One call per list; the logits arrive on the host, so nothing is left running."""
    for example in examples:
        model.logits(
            content(example.query.parts),
            [content(item.parts) for item in example.candidates],
            instruction=example.query.instruction,
        )


def _stored(example: Example) -> Example:
    """The list with drawn pictures as PNG, as they would lie in a collection."""
    return replace(example, candidates=tuple(map(_stored_item, example.candidates)))


def _stored_item(item: Item) -> Item:
    parts = []
    for part in item.parts:
        if isinstance(part, ImagePart) and isinstance(part.source, Image.Image):
            buffer = io.BytesIO()
            part.source.save(buffer, format="PNG")
            part = ImagePart(buffer.getvalue(), part.place)
        parts.append(part)
    return replace(item, parts=tuple(parts))


def _milliseconds(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="sample:sci", help="(default: %(default)s)")
    parser.add_argument("--split", default="test", help="(default: %(default)s)")
    parser.add_argument(
        "--model", nargs="+", default=[], metavar="[NAME=]PATH[:FORM]", help="as train.evaluate"
    )
    parser.add_argument("--step", default="best", help="of a workdir (default: %(default)s)")
    parser.add_argument("--lists", type=int, default=60, help="evenly spaced (default: 60)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--out", help="a file for the JSON")
    return parser


if __name__ == "__main__":
    main()

"""Long files of lists, answered in shards: a killed run goes on after the last one, and several
processes (a pod, train/processes.py) share them.

A shard holds the answers of so many lines; all shards, in the order of their names, are what
`unirank score --output` would write, up to the last digits of a logit. They do not depend on how
many processes there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from train import processes
from train.config import keep
from unirank_jax.datasets.formats.writing import json_line, write_lines
from unirank_jax.reranker import Reranker

ABOUT = "answers.json"

Answer = Callable[[int, str], dict[str, Any]]  # number of a line, the line


def answer_shards(
    source: Path, folder: Path, size: int, reranker: Reranker, answer: Answer, told: dict[str, Any]
) -> int:
    """Write the shards that are missing, of several processes each its own; returns how many of
    this process's lines could not be answered.

    answer: of one line with `reranker`. told: what the answers depend on beside the lines.

    Raises:
        ConfigError: the folder holds answers of other lines or of another model.
    """
    here = processes.share()
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    about = told | {"input": digest, "shard_lines": size}
    processes.agree({"input and model": json.dumps(about)})
    if here.index == 0:
        folder.mkdir(parents=True, exist_ok=True)
        keep(folder / ABOUT, about, "answers of another kind")
    processes.meet("folder")
    with open(source, encoding="utf-8") as file:
        total = sum(1 for line in file if line.strip())
    own = set(here.of(range(-(-total // size))))
    nothing, bad = reranker.engine.history(), 0
    count = sum(min(size, total - size * number) for number in own)
    with tqdm(total=count, desc="scoring", unit="list") as bar:
        for number, lines in enumerate(_chunks(source, size)):
            if number not in own:
                continue
            path = folder / f"answers-{number:05d}.jsonl"
            if not path.exists():
                # the last digits of a logit depend on all batches before
                reranker.engine.recall(nothing)
                answers = []
                for at, text in lines:
                    answers.append(answer(at, text))
                    bar.update()
                write_lines(path, map(json_line, answers))
            else:
                bar.update(len(lines))
            with open(path, encoding="utf-8") as file:
                bad += sum("error" in json.loads(line) for line in file)
    processes.meet("answers")
    return bad


def _chunks(source: Path, size: int) -> Iterator[list[tuple[int, str]]]:
    """The lines that are not empty, with their numbers, so many at a time."""
    with open(source, encoding="utf-8") as file:
        lines = ((at, text) for at, text in enumerate(file, start=1) if text.strip())
        while chunk := list(islice(lines, size)):
            yield chunk

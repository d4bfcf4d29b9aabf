"""The console script `unirank`: score and rank lists from JSONL, check data.

Imports of JAX and the model happen only when they are needed, so that `unirank --help` is quick.
Exit codes: 0 done, 1 some input was bad (the rest is done), 2 wrong use.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TextIO

_EXAMPLES = """examples:
  echo '{"query": "water", "candidates": ["H2O", {"image": "salt.png"}]}' | unirank rank
  unirank score --model exported --input lists.jsonl --output scores.jsonl
  unirank score --model exported --input many.jsonl --shards scores/   # resumable; also on a pod
  unirank data check my_lists/

One line of input: {"query": CONTENT, "candidates": [CONTENT, ...], "instruction"?: TEXT}.
CONTENT is a text, {"text": ..}, {"image": PATH}, {"text": .., "image": PATH}, or a list of these;
image paths are relative to the input file (or to the current folder for standard input)."""


class LineError(ValueError):
    """A line of input that cannot be used."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        return 1
    except (OSError, ValueError, RuntimeError) as error:
        print(f"unirank {arguments.command}: {error}", file=sys.stderr)
        return 1


def _score_or_rank(arguments: argparse.Namespace) -> int:
    """Answer line by line; a bad line gives a line with `error` and exit code 1 at the end."""
    import unirank_jax  # loads JAX: after the arguments are known to be good
    from unirank_jax.loading import default

    if arguments.shards:
        return _in_shards(arguments)
    reranker = unirank_jax.load(arguments.model) if arguments.model else default()
    bad = 0
    with _opened(arguments.input, "r", sys.stdin) as source:
        with _opened(arguments.output, "w", sys.stdout) as target:
            for number, text in _lines(source):
                answer = _answer_or_error(arguments, reranker, number, text)
                bad += "error" in answer
                print(json.dumps(answer, ensure_ascii=False), file=target, flush=True)
    return _told(arguments, bad)


def _in_shards(arguments: argparse.Namespace) -> int:
    """The same into files of a folder, which several processes may share."""
    import unirank_jax
    from train import bulk, processes
    from unirank_jax.hub import fingerprint
    from unirank_jax.loading import default

    if arguments.input == "-" or arguments.shard_lines < 1:
        print(
            f"unirank {arguments.command}: --shards needs --input FILE, since standard input "
            "cannot be read again, and at least one line in each (--shard-lines)",
            file=sys.stderr,
        )
        return 2
    source, folder = Path(arguments.input), Path(arguments.shards)
    try:
        processes.join()
        reranker = unirank_jax.load(arguments.model) if arguments.model else default()
        told = {"command": arguments.command, "model": fingerprint(Path(reranker.source))}
        answer = partial(_answer_or_error, arguments, reranker)
        bad = bulk.answer_shards(source, folder, arguments.shard_lines, reranker, answer, told)
    except (OSError, ValueError, RuntimeError) as error:
        return processes.failed(f"unirank {arguments.command}", error, folder)
    return _told(arguments, bad)


def _told(arguments: argparse.Namespace, bad: int) -> int:
    if bad:
        print(f"unirank {arguments.command}: {bad} lines could not be answered", file=sys.stderr)
    return 1 if bad else 0


def _answer_or_error(
    arguments: argparse.Namespace, reranker: Any, number: int, text: str
) -> dict[str, Any]:
    """One line's answer, or what is wrong with the line."""
    root = Path(arguments.input).parent if arguments.input != "-" else Path()
    try:
        return _answer(reranker, text, root, arguments.command)
    except ValueError as error:  # LineError and ContentError
        return {"error": f"{arguments.input}:{number}: {error}"}


def _answer(reranker: Any, text: str, root: Path, command: str) -> dict[str, Any]:
    """One line's answer: {"id"?, "scores", "logits"} or {"id"?, "ranking"}, by input index.

    Candidates that cannot be read have null numbers and their error.
    """
    line = _parse(text)
    query = _content(line["query"], root)
    candidates = [_content(candidate, root) for candidate in line["candidates"]]
    ranked = reranker.rank(query, candidates, instruction=line.get("instruction"), on_error="nan")
    entries = [
        {
            "index": one.index,
            "score": None if one.error else one.score,
            "logit": None if one.error else one.logit,
            **({"truncated": True} if one.truncated else {}),
            **({"error": one.error} if one.error else {}),
        }
        for one in ranked
    ]
    named = {"id": line["id"]} if "id" in line else {}
    failed = [entry["error"] for entry in entries if "error" in entry]
    trouble = {"error": f"{len(failed)} candidates could not be read"} if failed else {}
    if command == "rank":
        return {**named, "ranking": entries, **trouble}
    entries.sort(key=lambda entry: entry["index"])
    return {**named, "candidates": entries, **trouble}


def _parse(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise LineError(f"not valid JSON ({error}); write one object per line") from None
    if not isinstance(line, dict):
        raise LineError('not an object; write {"query": .., "candidates": [..]}')
    problems = [f"{name}: missing" for name in ("query", "candidates") if name not in line]
    known = ("id", "query", "candidates", "instruction")
    problems += [
        f"{name}: unknown; there are {', '.join(known)}" for name in line.keys() - {*known}
    ]
    if not isinstance(line.get("candidates", []), list):
        problems.append("candidates: not a list")
    if not isinstance(line.get("instruction", ""), str):
        problems.append("instruction: not a text")
    if problems:
        raise LineError("; ".join(sorted(problems)))
    return line


def _content(value: Any, root: Path) -> Any:
    """Content with image paths taken from `root`; everything else is checked by the reranker."""
    if isinstance(value, list):
        return [_content(part, root) for part in value]
    if isinstance(value, dict) and isinstance(value.get("image"), str):
        return {**value, "image": str(root / value["image"])}
    return value


def _check_data(arguments: argparse.Namespace) -> int:
    """Read everything, every image included; exit code 1 when the data cannot be used."""
    from unirank_jax.datasets.check import check

    report = check(arguments.path, run=arguments.run_file, depth=arguments.depth)
    print(report.text(), file=sys.stdout if report.ok else sys.stderr)
    return 0 if report.ok else 1


def _convert_data(arguments: argparse.Namespace) -> int:
    """Write data in another format; what that format cannot say is told as warnings."""
    from unirank_jax.datasets.dataset import open_source
    from unirank_jax.datasets.formats.registry import write

    dataset = open_source(arguments.source)
    warnings = write(dataset, arguments.to, arguments.out)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    lists = ", ".join(f"{split}: {len(dataset.lists(split))} lists" for split in dataset.splits)
    print(f"{arguments.out}: {arguments.to}; {lists}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    """Read every complete checkpoint of a run; exit code 1 when one is damaged."""
    from train.verify import verify

    whole = True
    for line, good in verify(Path(arguments.workdir)):
        print(line, file=sys.stdout if good else sys.stderr, flush=True)
        whole = whole and good
    return 0 if whole else 1


def _opened(path: str, mode: str, stream: TextIO) -> AbstractContextManager[Any]:
    """A file, or the standard stream for "-", which is left open."""
    return nullcontext(stream) if path == "-" else open(path, mode, encoding="utf-8")


def _lines(source: TextIO) -> Iterator[tuple[int, str]]:
    for number, text in enumerate(source, start=1):
        if text.strip():
            yield number, text


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="unirank",
        description="Score text and image candidates of one list with a reranker.",
        formatter_class=formatter,
        epilog=_EXAMPLES,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in (
        ("score", "scores of every candidate, in input order"),
        ("rank", "candidates from best to worst"),
    ):
        command = commands.add_parser(
            name, help=summary, description=summary, formatter_class=formatter, epilog=_EXAMPLES
        )
        command.add_argument("--model", help="folder or hub id (default: the embedded model)")
        command.add_argument("--input", default="-", help="JSONL file (default: standard input)")
        target = command.add_mutually_exclusive_group()
        target.add_argument("--output", default="-", help="JSONL file (default: standard output)")
        target.add_argument(
            "--shards",
            metavar="DIR",
            help="a folder of JSONL files instead: the same command goes on after the last one; "
            "processes of a pod share them",
        )
        command.add_argument(
            "--shard-lines", type=int, default=1000, help="lines in each (default: %(default)s)"
        )
        command.set_defaults(run=_score_or_rank)
    data = commands.add_parser("data", help="look at datasets")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="check every line and every image of a dataset",
        description="Check every line and every image of a dataset, and say what was understood:\n"
        "our own JSONL, BEIR, Parquet tables, M-BEIR, sentence-transformers, ms-swift,\n"
        "FlagEmbedding, TREC run and qrels.",
        formatter_class=formatter,
        epilog="examples:\n  unirank data check my_lists/\n"
        "  unirank data check scifact/ --run bm25.trec --depth 50",
    )
    check.add_argument("path", help="dataset folder or file")
    check.add_argument(
        "--run", dest="run_file", metavar="FILE", help="TREC run whose best documents are the lists"
    )
    check.add_argument(
        "--depth", type=int, default=100, help="documents of the run for each query (default: 100)"
    )
    check.set_defaults(run=_check_data)
    convert = actions.add_parser(
        "convert",
        help="write a dataset in another format",
        description="Write a dataset in another format; what it cannot say is told as warnings.",
        formatter_class=formatter,
        epilog="example:\n  unirank data convert sample:sci --to beir --out sci_beir",
    )
    convert.add_argument("source", metavar="SRC", help="dataset folder or file, or sample:NAME")
    convert.add_argument(
        "--to",
        required=True,
        choices=("jsonl", "beir", "trec", "sentence-transformers", "ms-swift"),
        help="the format to write",
    )
    convert.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    convert.set_defaults(run=_convert_data)
    kept = commands.add_parser("ckpt", help="look at the checkpoints of a run")
    looks = kept.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = looks.add_parser(
        "verify",
        help="read every checkpoint back",
        description="Read every array of every complete checkpoint; nothing is changed, so a run\n"
        "that is going on may be looked at.",
        formatter_class=formatter,
        epilog="example:\n  unirank ckpt verify runs/sft-sci-tiny",
    )
    verify.add_argument("workdir", help="the --workdir of a run")
    verify.set_defaults(run=_verify)
    return parser


if __name__ == "__main__":
    sys.exit(main())

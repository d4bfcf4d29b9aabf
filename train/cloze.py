"""`python -m train.cloze`: lists that ask for the text from which some words were taken.

A small model from scratch learns slowly that words of a query that occur in a candidate speak for
it. Here nothing else counts (inverse cloze, Lee et al. 2019): the query is a span or a handful of
words of a text of the training pool, the others are texts that BM25 finds for it but that lack some
of its words, and texts at random. Long texts, of which there are few, come as often as short ones;
of some of them the span is taken out, so that only the rare words that come up again tell.
--words adds lists in which texts are random words of the pool: no word speaks for a candidate by
itself there, so that looking it up in the query is all there is to learn (with `loss.overlap` some
hundred updates teach it, train/overlap.py). --pictures adds lists that ask for a picture by the
same picture (train/picture_cloze.py). All are trained on before the real lists or beside them;
published sizes need none.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from train import picture_cloze
from train.baselines import text_of
from train.lexical import BM25Index, words_of
from unirank_jax.datasets.dataset import Dataset, DatasetError, open_source
from unirank_jax.datasets.formats.writing import json_line, write_lines

SPAN, HANDFUL = 32, 5  # words of a query at most: of one piece, or from anywhere
RANDOM_QUERY, RANDOM_MORE = 9, 8  # random words of a query, and of a candidate besides, at most
LONG = 12  # long words of a text that is long, so that a list of numbers is not
TRIED = 500  # texts at random that are looked at to fill a list
FOUND = 60  # texts of BM25 from which hard ones are taken
_WORD, _LONG_WORD = re.compile(r"\w+"), re.compile(r"[^\W\d_]{4,}")

_EXAMPLES = """examples:
  python -m train.cloze --data sample:sci --lists 2000 --out runs/cloze
  python -m train.cloze --data data/design --pictures 6000 --out runs/cloze-design
  python -m train.sft --config configs/sci.py:cloze --set data.source=runs/cloze
  python -m train.sft --config configs/sci.py:open_lists --set data.source=DIR,runs/cloze"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit code 0 when the lists are written, 1 on an error."""
    arguments = _parser().parse_args(argv)
    try:
        counts = write(
            open_source(arguments.data),
            Path(arguments.out),
            {"train": arguments.lists, "valid": arguments.valid * bool(arguments.lists)},
            {"train": arguments.words, "valid": arguments.valid * bool(arguments.words)},
            {"train": arguments.pictures, "valid": arguments.valid * bool(arguments.pictures)},
            arguments.size,
            arguments.seed,
        )
    except (DatasetError, OSError, ValueError) as error:
        print(f"train.cloze: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.out}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))
    return 0


def write(
    dataset: Dataset,
    folder: Path,
    counts: dict[str, int],
    words: dict[str, int],
    pictures: dict[str, int],
    size: int,
    seed: int,
) -> dict[str, int]:
    """Write `split.jsonl` of each split with so many lists of `size` about texts, about random
    words and about pictures; returns how many there are.

    Raises:
        DatasetError: a split without enough different texts or pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for split, count in counts.items():
        texts = texts_of(dataset, split)
        if len(texts) < 2 * size:
            raise DatasetError(
                f"{dataset.path}: {len(texts)} texts in split {split!r} are too few for lists of "
                f"{size}; choose a smaller --size or more data"
            )
        name = f"{split}-{dataset.fingerprint[:8]}"  # lists of several datasets go together
        lists = list(lists_of(texts, count, size, random.Random(f"{seed} {split}"), name))
        some_words = random.Random(f"{seed} {split} words")
        lists += word_lists(texts, words[split], size, some_words, name)
        if pictures[split]:
            shown = picture_cloze.pictures_of(dataset, split)
            if len({picture.same for picture in shown}) < 2 * size:
                raise DatasetError(
                    f"{dataset.path}: {len(shown)} pictures in split {split!r} are too few for "
                    f"lists of {size}; choose a smaller --size or --pictures 0"
                )
            rng = np.random.default_rng([seed, sorted(counts).index(split)])
            some = pictures[split], size, rng, name, folder
            lists += picture_cloze.lists_of(shown, *some)
        write_lines(folder / f"{split}.jsonl", map(json_line, lists))
        written[split] = len(lists)
    return written


def texts_of(dataset: Dataset, split: str) -> list[str]:
    """The different texts of a split's pool, in a fixed order."""
    return sorted(
        {text for did in dataset.pool(split) if (text := text_of(dataset.item(did).parts))}
    )


def lists_of(
    texts: Sequence[str], count: int, size: int, rng: random.Random, name: str
) -> Iterator[dict[str, Any]]:
    """Up to `count` lists of one relevant and size - 1 other texts."""
    index = BM25Index(texts)
    sets = [set(words_of(text)) for text in texts]
    long = [i for i, text in enumerate(texts) if len(_LONG_WORD.findall(text)) >= LONG]
    for number in tqdm(range(count), desc=f"cloze {name}", unit="list"):
        among_long = len(long) >= 2 * size and rng.random() < 0.5
        place = rng.choice(long) if among_long else rng.randrange(len(texts))
        if among_long and rng.random() < 0.5:  # against others that lack a span, too
            kind = "taken out"
            others = rng.sample([i for i in long if i != place], size - 1)
            query, relevant = without_span(texts[place], rng)
            shown = [relevant, *(without_span(texts[i], rng)[1] for i in others)]
        else:
            kind, query = query_of(texts[place], rng)
            others = _others(query, place, index, sets, size, rng)
            shown = [texts[i] for i in (place, *others)]
        if len(others) < size - 1:
            continue  # words that nearly every text has
        yield {
            "qid": f"{name}-query-{number}",
            "kind": kind,
            "query": {"text": query},
            "candidates": [
                {"did": f"{name}-text-{number}-{at}", "text": text, "grade": int(at == 0)}
                for at, text in enumerate(shown)
            ],
        }


def word_lists(
    texts: Sequence[str], count: int, size: int, rng: random.Random, name: str
) -> Iterator[dict[str, Any]]:
    """`count` lists of random words: the relevant candidate holds all words of the query, the
    others a share of them at most."""
    pool = sorted({word.group() for text in texts for word in _WORD.finditer(text)})
    for number in range(count):
        query = rng.sample(pool, rng.randint(1, RANDOM_QUERY))
        candidates = []
        for at in range(size):
            length = len(query) + rng.randint(0, RANDOM_MORE)
            words = rng.sample(pool, length)
            kept = query
            if at:
                share = rng.random()
                kept = [word for word in query if rng.random() < share]
                kept = kept[: len(query) - 1]
            places = rng.sample(range(length), len(kept))
            for place, word in zip(places, kept, strict=True):
                words[place] = word
            candidates.append(
                {
                    "did": f"{name}-words-{number}-{at}",
                    "text": " ".join(words),
                    "grade": int(at == 0),
                }
            )
        yield {
            "qid": f"{name}-words-{number}",
            "kind": "words",
            "query": {"text": " ".join(query)},
            "candidates": candidates,
        }


def _others(
    query: str,
    place: int,
    index: BM25Index,
    sets: Sequence[set[str]],
    size: int,
    rng: random.Random,
) -> list[int]:
    """Up to size - 1 texts that lack a word of the query, half of them hard."""
    wanted = set(words_of(query))
    scores = index.scores(query)
    if scores is None:
        return []
    hard = np.argpartition(-scores, min(FOUND, len(sets) - 1))[:FOUND].tolist()
    hard = [i for i in hard if scores[i] > 0 and not wanted <= sets[i]]
    chosen = rng.sample(hard, min(len(hard), size // 2))
    for other in rng.sample(range(len(sets)), min(len(sets), TRIED)):
        if len(chosen) == size - 1:
            break
        if other not in chosen and other != place and not wanted <= sets[other]:
            chosen.append(other)
    return chosen


def query_of(text: str, rng: random.Random) -> tuple[str, str]:
    """The kind of a query and its text: a span of words as they stand, or some words from
    anywhere in any order."""
    found = list(_WORD.finditer(text))
    if not found:
        return "span", ""
    if rng.random() < 0.5:
        start, end = _span(found, len(found), rng)
        return "span", text[start:end]
    some = rng.sample(found, rng.randint(1, min(HANDFUL, len(found))))
    return "handful", " ".join(one.group() for one in some)


def without_span(text: str, rng: random.Random) -> tuple[str, str]:
    """A span of up to half of the words, and the text without it."""
    found = list(_WORD.finditer(text))
    start, end = _span(found, max(1, len(found) // 2), rng)
    return text[start:end], f"{text[:start].rstrip()} {text[end:].lstrip()}".strip()


def _span(words: Sequence[re.Match[str]], most: int, rng: random.Random) -> tuple[int, int]:
    """Where a span of words begins and ends; each doubling of its length is as likely."""
    most = min(SPAN, most)
    length = min(most, int(2 ** rng.uniform(0, math.log2(most + 1))))
    first = rng.randint(0, len(words) - length)
    return words[first].start(), words[first + length - 1].end()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.cloze",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
    )
    parser.add_argument("--data", required=True, help="a dataset folder, or sample:sci")
    parser.add_argument("--lists", type=int, default=20_000, help="for training (default: 20000)")
    parser.add_argument(
        "--words", type=int, default=0, help="for training, of random words (default: 0)"
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=0,
        help="for training, that ask for a picture by the same picture, moved (default: 0)",
    )
    parser.add_argument(
        "--valid", type=int, default=400, help="held out, of each sort (default: 400)"
    )
    parser.add_argument("--size", type=int, default=16, help="candidates of a list (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for JSONL files")
    return parser


if __name__ == "__main__":
    sys.exit(main())

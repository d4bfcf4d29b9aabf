"""The network to start from: word vectors in its token table, another's tower, the rest random."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from train import start
from train.initial import ASSETS
from unirank_jax.config import preset
from unirank_jax.keys import flatten
from unirank_jax.tokenizer import Tokenizer
from unirank_jax.weights import load_params

CONFIG = """
from dataclasses import replace
from configs import both_pretrain
def get_config(argument):
    return replace(both_pretrain.small(), preset="tiny", init="")
"""
WORDS = ("figure", "acid", "methyl", "the", "value", "plot", "data", "model", "zebra", "blue")


def _vectors(folder: Path) -> tuple[Path, np.ndarray]:
    vectors = np.random.default_rng(1).normal(size=(len(WORDS), 12)).astype(np.float32)
    lines = [" ".join([w, *map(str, row)]) for w, row in zip(WORDS, vectors, strict=True)]
    (folder / "vectors.txt").write_text("\n".join(lines) + "\n")
    return folder / "vectors.txt", vectors


def test_words_of_near_vectors_are_near_tokens(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(start, "COMMON_DIRECTIONS", 0)
    file, _ = _vectors(tmp_path)
    words, vectors = start.read_vectors(file)
    assert words == list(WORDS) and vectors.shape == (10, 12)
    tokenizer = Tokenizer.from_file(ASSETS / "tokenizer")
    table, known = start.token_table(tokenizer, words, vectors, 128)
    centred = vectors - vectors.mean(0)
    found = {}
    for token in range(tokenizer.vocabulary_size):
        word = tokenizer.decode([token]).strip().lower()
        if word in words and not tokenizer.is_special(token):
            found.setdefault(word, []).append(token)
    assert known == sum(map(len, found.values())) > len(found) > 4, "in several spellings each"
    for one, tokens in found.items():
        for other, others in found.items():
            a, b = centred[words.index(one)], centred[words.index(other)]
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            for i, j in ((tokens[0], others[-1]), (tokens[-1], others[0])):
                near = table[i] @ table[j] / np.linalg.norm(table[i]) / np.linalg.norm(table[j])
                assert near == pytest.approx(cosine, abs=1e-4), (one, other)
    sizes = np.sqrt(np.square(table).mean(1))
    assert sizes.mean() == pytest.approx(start.SCALE, rel=0.02), "words and others alike"
    with pytest.raises(ValueError, match="take shorter ones"):
        start.token_table(tokenizer, words, vectors, 8)


def test_the_command_writes_a_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, _ = _vectors(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    out = tmp_path / "start"
    command = ["--data", "sample:sci", "--vectors", str(file), "--config"]
    command += [str(tmp_path / "config.py"), "--out", str(out), "--tower"]
    base = ASSETS / "base"
    assert start.main([*command, str(base)]) == 0
    params, old = (flatten(load_params(f, preset("tiny"), jnp.float32)) for f in (out, base))
    towers = [name for name in params if name.startswith("vision.")]
    beside = [name for name in towers if ".deepstack_" in name and ".down." in name]
    assert len(beside) == 4 and not any(np.any(params[name]) for name in beside)
    assert all(np.array_equal(params[n], old[n]) for n in towers if n not in beside)
    assert not np.array_equal(params["text.embed.table"], old["text.embed.table"])
    assert json.loads((out / "config.json").read_text())["text_config"]["vocab_size"] == 2048
    assert start.main([*command, str(base)]) == 1
    assert "exists; remove it" in capsys.readouterr().err
    assert "its decoder is random" in (out / "README.md").read_text(), "nothing is trained yet"


def test_bad_vectors_name_their_line(tmp_path: Path) -> None:
    for text, message in (
        ("a 1 2\nb 1\n", "line 2: 1 numbers"),
        ("a 1 2\nb x 2\n", "line 2: not a word and numbers"),
        ("", "no words"),
    ):
        (tmp_path / "v.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            start.read_vectors(tmp_path / "v.txt")


def test_vectors_of_the_package_are_read(tmp_path: Path) -> None:
    vectors = {"a": [1.0, 2.0, 9.0, 0], "b": [3.0, 4.0, 9.0, 1]}
    content = {"dimensions": 2, "words": ["b", "a"], "vectors": vectors}
    (tmp_path / "v.json").write_text(json.dumps(content))
    words, found = start.read_vectors(tmp_path / "v.json")
    assert words == ["b", "a"] and found.tolist() == [[3, 4], [1, 2]]
    (tmp_path / "v.json").write_text(json.dumps({"words": ["a"]}))
    with pytest.raises(ValueError, match="'dimensions' is missing"):
        start.read_vectors(tmp_path / "v.json")

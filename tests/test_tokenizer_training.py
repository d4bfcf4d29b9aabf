"""The small tokenizer that is trained on a dataset: its layout and its limits."""

from __future__ import annotations

import json

import pytest

from unirank_jax.datasets.records import (
    hash_number,
)
from unirank_jax.datasets.tokenizer import SPECIAL_TOKENS, save_tokenizer, train_tokenizer
from unirank_jax.tokenizer import Tokenizer


def test_tokenizer_has_qwens_layout(tmp_path):
    texts = [
        word
        for number in range(3000)
        for word in (
            "yes",
            "yes",
            "no",
            "no",
            f"document {hash_number(str(number)) % 10**6}",
            "methyl",
        )
    ]
    tokenizer = train_tokenizer(iter(texts), 290)
    save_tokenizer(tokenizer, tmp_path, maximum_length=512)
    read = Tokenizer.from_file(tmp_path)
    assert [read.special(token) for token in SPECIAL_TOKENS] == list(range(264, 290))
    assert read.single("yes") < 264 and read.single("no") < 264
    text = 'Ein Satz, ünïcode 123 — "<|im_end|>"\n'
    assert read.decode(read.encode(text)) == text
    assert len(read.encode("123")) == 3, "digits are single tokens"
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|im_end|>" and config["pad_token"] == "<|endoftext|>"


def test_tokenizer_needs_enough_text():
    with pytest.raises(ValueError, match="lower the vocabulary"):
        train_tokenizer(iter(["yes", "no"] * 10), 500)
    with pytest.raises(ValueError, match="label word 'yes' is not one token"):
        train_tokenizer(iter(["nothing", "here"] * 10), 290)

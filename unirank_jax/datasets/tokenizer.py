"""A small byte-level BPE tokenizer in Qwen's layout, trained on the texts of a dataset.

Same normaliser, pre-tokenisation and special tokens as Qwen3, but a vocabulary of a few
thousand, so that a tiny model does not spend its parameters on an embedding table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    processors,
    trainers,
)
from tokenizers import pre_tokenizers as pre

from unirank_jax.content import TextPart
from unirank_jax.datasets.dataset import Dataset

# Qwen's pre-tokenisation: contractions, words, single digits, punctuation, spaces.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
PROMPT_TEXTS = (
    "system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".',
    "user\n<Instruct>: Given a search query, retrieve relevant candidates that answer the query."
    "<Query>:\n<Document>:",
    "assistant\n",
)
LABEL_WORDS = ("yes", "no")
# How often a text is counted: often enough that every word of the prompt becomes one token,
# and that the words of the few figures stand up to the many molecules.
PROMPT_WEIGHT = 2000
DOMAIN_WEIGHTS: Mapping[str, int] = {"figure": 4}


def training_texts(dataset: Dataset) -> Iterator[str]:
    """The prompt's texts, then all instructions and texts of the train split, weighted."""
    instructions: set[str] = set()
    seen: set[str] = set()
    domains: dict[str, str] = {}
    for ranked in dataset.lists("train"):
        query = dataset.query(ranked.qid)
        domains.setdefault(query.unit_id, query.domain)
        if query.instruction is not None:
            instructions.add(query.instruction)
        for part in query.parts:
            if isinstance(part, TextPart) and part.text not in seen:
                seen.add(part.text)
                yield part.text
    for text in (*PROMPT_TEXTS, *sorted(instructions)):
        for _ in range(PROMPT_WEIGHT):
            yield text
    for item in dataset.items_of("train"):
        weight = DOMAIN_WEIGHTS.get(domains.get(item.unit_id, ""), 1)
        for part in item.parts:
            if isinstance(part, TextPart):
                for _ in range(weight):
                    yield part.text


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> Tokenizer:
    """Train on `texts`; the vocabulary has exactly `vocabulary` entries, special tokens last.

    Raises ValueError where the texts are too few for that vocabulary, or where a label word is
    not a single token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre.Sequence(
        [
            pre.Split(Regex(PATTERN), behavior="isolated"),
            pre.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    base = vocabulary - len(SPECIAL_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=base,
        initial_alphabet=sorted(pre.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    for word in LABEL_WORDS:
        if len(tokenizer.encode(word).ids) != 1:
            raise ValueError(f"label word {word!r} is not one token; raise the vocabulary")
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS]
    )
    if tokenizer.get_vocab_size() != vocabulary:
        raise ValueError(
            f"the texts give {tokenizer.get_vocab_size()} tokens, not {vocabulary}; "
            "lower the vocabulary or give more text"
        )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, maximum_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": [
            token for token in SPECIAL_TOKENS if token not in ("<|im_end|>", "<|endoftext|>")
        ],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": maximum_length,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    texts = {
        "tokenizer.json": tokenizer.to_str(pretty=False),
        "tokenizer_config.json": json.dumps(config, indent=1) + "\n",
    }
    for name, text in texts.items():
        temporary = folder / f".{name}.writing"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / name)

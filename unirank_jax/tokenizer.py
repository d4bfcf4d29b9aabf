"""Byte-pair tokenizer of a `tokenizer.json` in which control strings are plain text.

The special tokens are kept out of the inner tokenizer, so no text, whoever wrote it, can encode to
one; code that builds a prompt asks for their ids by name.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import Any

import tokenizers


class Tokenizer:
    """Text to ids and back. Build it with `from_file` or `from_json`."""

    def __init__(self, inner: tokenizers.Tokenizer, specials: dict[str, int]) -> None:
        self._inner = inner
        self._specials = specials
        self._names = {number: name for name, number in specials.items()}

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> "Tokenizer":
        """Reads a `tokenizer.json`, or the one in a folder.

        Raises `FileNotFoundError` when there is none, `ValueError` when it is not usable.
        """
        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; give a tokenizer.json or its folder")
        try:
            return cls.from_json(json.loads(file.read_bytes()))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Tokenizer":
        """Builds from the parsed content of a `tokenizer.json`, which is not changed.

        Raises `ValueError` when the library refuses it, or when plain text would still encode to
        one of the special tokens.
        """
        if not isinstance(content, dict) or "model" not in content:
            raise ValueError("this is no tokenizer.json; it needs a 'model'")
        specials = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
        plain = dict(content, added_tokens=[], truncation=None, padding=None, post_processor=None)
        try:
            inner = tokenizers.Tokenizer.from_str(json.dumps(plain, ensure_ascii=False))
        except Exception as error:  # the library raises a bare Exception
            raise ValueError(f"the tokenizer cannot be built ({error})") from error
        built = cls(inner, specials)
        reachable = [name for name in specials if specials[name] in built.encode(name)]
        if reachable:
            raise ValueError(
                f"plain text encodes to the special tokens {reachable}; "
                "take them out of the model's vocabulary"
            )
        return built

    def encode(self, text: str) -> list[int]:
        """Ids of the text. Control strings such as `<|im_end|>` are plain text."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        batch = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """For each id of `encode(text)`, the characters [start, end) that it comes from."""
        return self._inner.encode(text, add_special_tokens=False).offsets

    def special(self, name: str) -> int:
        """Id of a special token, for example `<|im_start|>`. Raises `ValueError` if unknown."""
        if name not in self._specials:
            raise ValueError(
                f"the tokenizer has no special token {name!r}; "
                f"it has {sorted(self._specials)}; take the tokenizer of a Qwen3-VL model"
            )
        return self._specials[name]

    def is_special(self, number: int) -> bool:
        """Whether the id is of a special token, which no text encodes to."""
        return number in self._names

    def single(self, word: str) -> int:
        """Id of a word that is one token. Raises `ValueError` when it is not one token."""
        ids = self.encode(word)
        if len(ids) != 1:
            raise ValueError(
                f"{word!r} is {len(ids)} tokens {ids}; choose a label that is one token"
            )
        return ids[0]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, special tokens by name; bytes that are no UTF-8 become U+FFFD."""
        pieces = []
        for special, group in groupby(map(int, ids), self._names.__contains__):
            if special:
                pieces += [self._names[number] for number in group]
            else:
                pieces.append(self._inner.decode(list(group), skip_special_tokens=False))
        return "".join(pieces)

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest id, special tokens included."""
        highest = max(self._inner.get_vocab().values(), default=-1)
        return max([highest, *self._specials.values()]) + 1

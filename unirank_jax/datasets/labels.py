"""Labels of pictures: when two names mean the same, and groups that must share a split.

Several vendors draw the same things, so a label that one of them shows in training must not
be asked in testing about another's drawing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Words of an icon's name that say how it is drawn, not what it shows.
STYLE_WORDS = frozenset({"outline", "outlined", "variant", "filled", "fill", "alt", "solid"})


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text, in order: "File_CSV-2" gives file, csv, 2."""
    return re.findall(r"[^\W_]+", text.lower())


def label_key(text: str) -> str:
    """What equal labels share: their words without style and order; "" where none is left."""
    return " ".join(sorted(set(words(text)) - STYLE_WORDS))


def stem(word: str) -> str:
    """A word without the s of a plural."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def without_words(phrases: Iterable[str], title: str) -> list[str]:
    """The phrases that share no word, and no singular of one, with a title; each once."""
    taken = {stem(word) for word in words(title)}
    kept: dict[str, str] = {}
    for phrase in phrases:
        phrase = " ".join(phrase.replace("-", " ").replace("_", " ").split())
        stems = {stem(word) for word in words(phrase)}
        if stems and not stems & taken:
            kept.setdefault(phrase.lower(), phrase)
    return list(kept.values())


class Groups:
    """Names joined into groups; the group of a name is called after its first member."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def join(self, one: str, other: str) -> None:
        """From now on both names, and all that are joined to them, are one group."""
        first, second = sorted((self.group(one), self.group(other)))
        self._parents[second] = first

    def group(self, name: str) -> str:
        """The smallest name (in alphabetical order) of the group."""
        root = name
        while self._parents.setdefault(root, root) != root:
            root = self._parents[root]
        while self._parents[name] != root:
            self._parents[name], name = root, self._parents[name]
        return root

"""Which texts of a group are most like one of them: cosine of TF-IDF weights of words."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache

MAX_SHARE = 0.2  # words in more than this share of a group's texts say nothing
COUNT = 24


class Likeness:
    """Texts by id, in groups; only texts of the same group are compared."""

    def __init__(self, texts: Mapping[str, str], groups: Mapping[str, str]) -> None:
        self.groups = groups
        members: dict[str, dict[str, Counter[str]]] = defaultdict(dict)
        for name, text in texts.items():
            members[groups[name]][name] = Counter(re.findall(r"[^\W\d_]{3,}", text.lower()))
        self.weights: dict[str, dict[str, float]] = {}
        self.holders: dict[tuple[str, str], list[str]] = defaultdict(list)
        for group, counts in members.items():
            found = Counter(word for words in counts.values() for word in words)
            for name, words in counts.items():
                self.weights[name] = _weights(words, found, len(counts))
                for word in self.weights[name]:
                    self.holders[group, word].append(name)
        self.nearest = cache(self._nearest)

    def _nearest(self, name: str) -> tuple[str, ...]:
        """Ids of at most COUNT texts that share words with this one, the most alike first."""
        scores: dict[str, float] = defaultdict(float)
        for word, weight in self.weights[name].items():
            for other in self.holders[self.groups[name], word]:
                scores[other] += weight * self.weights[other][word]
        scores.pop(name, None)
        return tuple(sorted(scores, key=lambda other: (-round(scores[other], 9), other))[:COUNT])


def _weights(words: Counter[str], found: Counter[str], size: int) -> dict[str, float]:
    telling = {
        word: (1 + math.log(count)) * math.log(size / found[word])
        for word, count in words.items()
        if found[word] <= max(2, MAX_SHARE * size)
    }
    norm = math.sqrt(sum(weight * weight for weight in telling.values()))
    return {word: weight / norm for word, weight in telling.items()} if norm else {}

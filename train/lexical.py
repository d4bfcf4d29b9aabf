"""BM25 over a pool of texts: the one place that knows the library."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Lower-case words, single characters too: digits in a chemical name tell isomers apart."""
    return _WORD.findall(text.lower())


class BM25Index:
    """BM25 (Lucene's variant, k1 = 1.5, b = 0.75)."""

    def __init__(self, documents: Sequence[str]) -> None:
        import bm25s  # it computes with JAX at once, and processes join before anything does

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
        self._index = bm25s.BM25(k1=1.5, b=0.75, method="lucene") if documents else None
        if self._index is not None:
            self._index.index([words_of(text) for text in documents], show_progress=False)

    def scores(self, text: str) -> NDArray[np.floating] | None:
        """Of every document, in their order; None for a text without words or an empty pool."""
        words = words_of(text)
        return self._index.get_scores(words) if self._index is not None and words else None

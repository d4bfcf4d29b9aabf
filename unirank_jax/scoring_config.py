"""How scoring runs, as one frozen setting. No JAX here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Cascade:
    """Ranking in two passes: cheaper, and the order may be another.

    Attributes:
        top: candidates that are scored again as they are.
        visual_tokens: of a picture in the first pass, at most.
    """

    top: int
    visual_tokens: int

    def __post_init__(self) -> None:
        for name in ("top", "visual_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"cascade.{name} is {getattr(self, name)}; give at least 1")


@dataclass(frozen=True)
class ScoringConfig:
    """How scoring runs; only `quantize` changes a score, and only `cascade` what is ranked by.

    Attributes:
        token_budget: tokens of one batch; None is 2,048 on a CPU (its caches are small) and 16,384
            on accelerators.
        cache_bytes: host memory for the features of pictures that were seen, and on an accelerator
            as much of its memory, from where they need not travel again; 0 = none are kept.
        workers: threads that decode, resize and tokenise while the device computes.
        cascade: `rank` scores all candidates with few visual tokens, the best again as they are.
        cache_folder: where the features of every picture are written and read again, also by
            other processes: for a corpus. Each model has a folder of its own in it.
        compile_cache: a folder that keeps compiled programs for the next process. It must be as
            trusted as the code: executables are loaded from it.
        quantize: "int8" loads the decoder's linear layers in 8 bits and multiplies in 8 bits (see
            int8.py): a quarter of their float32 memory, a half of bfloat16, and faster where the
            hardware has it. Such a model only scores: it cannot be saved or trained.
    """

    token_budget: int | None = None
    cache_bytes: int = 256 * 2**20
    workers: int = min(8, os.cpu_count() or 1)
    cascade: Cascade | None = None
    cache_folder: str | os.PathLike[str] | None = None
    compile_cache: str | os.PathLike[str] | None = None
    quantize: Literal["int8"] | None = None

    def __post_init__(self) -> None:
        least = {"token_budget": 1, "cache_bytes": 0, "workers": 1}
        for name, bound in least.items():
            if getattr(self, name) is not None and getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least {bound}")
        if self.quantize not in (None, "int8"):
            raise ValueError(f"quantize is {self.quantize!r}; choose 'int8' or None")

"""unirank_jax: one vision-language model scores hybrid text-image candidates natively.

    import unirank_jax
    unirank_jax.score("a query", ["a passage", {"image": "figure.png"}])

Names are loaded on first use, so that importing the package stays quick and free of JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unirank_jax.content import ContentError as ContentError
    from unirank_jax.intake import TruncationWarning as TruncationWarning
    from unirank_jax.loading import load as load
    from unirank_jax.loading import rank as rank
    from unirank_jax.loading import score as score
    from unirank_jax.ranked import Ranked as Ranked
    from unirank_jax.reranker import Reranker as Reranker
    from unirank_jax.scoring_config import Cascade as Cascade
    from unirank_jax.scoring_config import ScoringConfig as ScoringConfig

__version__ = "0.1.0"

_HOMES = {
    "Cascade": "scoring_config",
    "ContentError": "content",
    "Ranked": "ranked",
    "Reranker": "reranker",
    "ScoringConfig": "scoring_config",
    "TruncationWarning": "intake",
    "load": "loading",
    "rank": "loading",
    "score": "loading",
}
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

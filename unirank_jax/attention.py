"""The one door to attention: the structure of a request, who can honour it, and the dispatch.

`attend` takes the structure of the mask (causal, key lengths, shared prefixes), never a dense mask,
so that a backend can either honour it or refuse it. A backend is one file with two functions:
`refusal(request)`, the reason why it cannot, or None, and `attend`. Scores and softmax are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax

from unirank_jax import attention_cudnn, attention_splash, attention_xla
from unirank_jax.attention_request import Backend, PrefixKV, Request

__all__ = ["Backend", "PrefixKV", "attend"]

Array = jax.Array


def platform() -> str:
    """Where the program is going to run; a compile for another platform replaces this function."""
    return jax.default_backend()


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    key_lengths: Array | None = None,
    prefixes: Sequence[PrefixKV] = (),
    backend: Backend = "auto",
) -> Array:
    """Grouped-query attention: q (B, T, N, H), k and v (B, S, K, H) -> (B, T, N, H).

    causal: token t reads keys <= t of its own row (S = T). key_lengths (B,): keys past it are
    padding. prefixes: every token also reads the valid keys of its row's prefix in each of them.
    backend: a named one honours the request or raises ValueError; "auto" is splash on one TPU where
    it can honour the request, else XLA.
    A row that has no key to read gives finite numbers, which differ between backends.
    """
    chosen = choose(describe(q, k, v, prefixes), backend)
    run = {
        "xla": attention_xla.attend,
        "splash": attention_splash.attend,
        "cudnn": attention_cudnn.attend,
    }[chosen]
    return run(q, k, v, causal=causal, key_lengths=key_lengths, prefixes=prefixes)


def describe(q: Array, k: Array, v: Array, prefixes: Sequence[PrefixKV]) -> Request:
    """The request that these arrays make on the present platform."""
    arrays = [q, k, v, *(x for prefix in prefixes for x in (prefix.k, prefix.v))]
    dtypes = frozenset(x.dtype.name for x in arrays)
    sizes = (q.shape[-1], q.shape[1], k.shape[1], len(prefixes))
    return Request(platform(), dtypes, *sizes, jax.device_count())


def choose(request: Request, backend: Backend) -> Literal["xla", "splash", "cudnn"]:
    """The backend that serves the request; ValueError where the named one cannot."""
    refusals = {"splash": attention_splash.refusal, "cudnn": attention_cudnn.refusal}
    if backend == "xla":
        return "xla"
    if backend == "splash" or backend == "cudnn":
        reason = refusals[backend](request)
        if reason is not None:
            raise ValueError(f"attention backend {backend!r} cannot honour {reason}")
        return backend
    if backend != "auto":
        known = "auto, xla, splash or cudnn"
        raise ValueError(f"attention backend {backend!r} is unknown; choose {known}")
    # One query has few scores: nothing to gain from a kernel. A kernel is not split over devices by
    # the compiler. cuDNN must be named: its numbers have not been compared with ours on a GPU yet.
    kernel = request.queries > 1 and request.devices == 1
    return "splash" if kernel and attention_splash.refusal(request) is None else "xla"

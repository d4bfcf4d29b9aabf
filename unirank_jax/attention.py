"""The one door to attention: the structure of a request, who can honour it, and the dispatch.

`attend` takes the structure of the mask (causal, key lengths, shared prefixes), never a dense mask,
so that a backend can either honour it or refuse it. A backend is one file with two functions:
`refusal(request)`, the reason why it cannot, or None, and `attend`. Scores and softmax are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from jax.sharding import Mesh, PartitionSpec

from unirank_jax import attention_cudnn, attention_splash, attention_xla
from unirank_jax.attention_request import Backend, PrefixKV, Request

__all__ = ["Backend", "PrefixKV", "attend"]

Array = jax.Array
LONG = 256  # queries of a row from which on cuDNN is taken
IN_PIECES = 512  # ... and XLA on an accelerator computes some heads and queries at a time


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    key_lengths: Array | None = None,
    prefixes: Sequence[PrefixKV] = (),
    backend: Backend = "auto",
    mesh: Mesh | None = None,
) -> Array:
    """Grouped-query attention: q (B, T, N, H), k and v (B, S, K, H) -> (B, T, N, H).

    causal: token t reads keys <= t of its own row (S = T). key_lengths (B,): keys past it are
    padding. prefixes: every token also reads the valid keys of its row's prefix in each of them.
    backend: a named one honours the request or raises ValueError; "auto" is splash on a TPU and,
    for rows of LONG queries or more, cuDNN on an NVIDIA GPU, where they can honour the request,
    else XLA.
    mesh: the devices that the program is for; None: all of JAX's. A kernel is not spread over
    devices by the compiler: of several, each computes its own heads (`spread`).
    A row that has no key to read gives finite numbers, which differ between backends.
    """
    request = describe(q, k, v, prefixes, mesh)
    chosen = choose(request, backend)
    runs: dict[str, Callable[..., Array]] = {
        "xla": _xla(request),
        "splash": attention_splash.attend,
        "cudnn": attention_cudnn.attend,
    }
    run = runs[chosen]
    if request.partitioned and chosen != "xla":
        assert mesh is not None
        run = spread(run, mesh)
    return run(q, k, v, causal=causal, key_lengths=key_lengths, prefixes=prefixes)


def _xla(request: Request) -> Callable[..., Array]:
    """How XLA computes the request: whole where it may be spread over devices."""
    if request.partitioned:
        return attention_xla.attend
    if request.platform == "cpu":
        return attention_xla.attend_in_parts
    return attention_xla.attend if request.queries < IN_PIECES else attention_xla.attend_in_pieces


def spread(run: Callable[..., Array], mesh: Mesh) -> Callable[..., Array]:
    """A backend's `attend` over a mesh: heads along its tensor axis, everything else whole.

    Rows are spread by a `jax.vmap` around it whose `spmd_axis_name` is the mesh's batch axes
    (`model.over_shards`).
    """
    heads, whole = PartitionSpec(None, None, "tensor", None), PartitionSpec()

    def attend(
        q: Array, k: Array, v: Array, *, causal: bool, key_lengths: Any, prefixes: Any
    ) -> Array:
        def own(q: Array, k: Array, v: Array, key_lengths: Any, prefixes: Any) -> Array:
            return run(q, k, v, causal=causal, key_lengths=key_lengths, prefixes=prefixes)

        shared = [PrefixKV(heads, heads, whole, whole) for _ in prefixes]  # type: ignore[arg-type]
        specs = (heads, heads, heads, whole, shared)
        over = jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=heads, check_vma=False)
        return over(q, k, v, key_lengths, list(prefixes))

    return attend


def describe(
    q: Array, k: Array, v: Array, prefixes: Sequence[PrefixKV], mesh: Mesh | None
) -> Request:
    """The request that these arrays make, and where."""
    arrays = [q, k, v, *(x for prefix in prefixes for x in (prefix.k, prefix.v))]
    dtypes = frozenset(x.dtype.name for x in arrays)
    device = _default_device() if mesh is None else mesh.devices.flat[0]
    count = jax.device_count() if mesh is None else mesh.size
    inside = jax.sharding.get_abstract_mesh().are_all_axes_manual  # of a shard_map
    partitioned = count > 1 and not inside
    parts = None if mesh is None else mesh.shape.get("tensor") if partitioned else None
    return Request(
        device.platform,
        _generation(device),
        partitioned,
        parts is not None and k.shape[2] % parts == 0,
        dtypes,
        q.shape[-1],
        q.shape[1],
    )


def _default_device() -> jax.Device:
    # A device, the name of a platform, or None.
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    if chosen is None or isinstance(chosen, str):
        return jax.devices(chosen)[0]
    return chosen


def _generation(device: jax.Device) -> float:
    """9.0 for an H100; other devices have no such number, or a name (AMD's gfx942)."""
    name = str(getattr(device, "compute_capability", ""))
    return float(name) if name.replace(".", "", 1).isdigit() else 0.0


def choose(request: Request, backend: Backend) -> Literal["xla", "splash", "cudnn"]:
    """The backend that serves the request; ValueError where the named one cannot."""
    if backend == "xla":
        return "xla"
    if backend == "splash" or backend == "cudnn":
        reason = _refusal(request, backend)
        if reason is not None:
            raise ValueError(f"attention backend {backend!r} cannot honour {reason}")
        return backend
    if backend != "auto":
        known = "auto, xla, splash or cudnn"
        raise ValueError(f"attention backend {backend!r} is unknown; choose {known}")
    # Few queries have few scores: nothing to gain from a kernel. cuDNN equalled ours on an H100 for
    # pages; four small cases of odd length failed; they are padded since and were not run again.
    if request.queries > 1 and _refusal(request, "splash") is None:
        return "splash"
    if request.queries >= LONG and _refusal(request, "cudnn") is None:
        return "cudnn"
    return "xla"


def _refusal(request: Request, kernel: Literal["splash", "cudnn"]) -> str | None:
    module = {"splash": attention_splash, "cudnn": attention_cudnn}[kernel]
    reason = module.refusal(request)
    if reason is None and request.partitioned and not request.divides:
        return (
            "a program of several devices that no known mesh spreads; give Compute.mesh, with a "
            "tensor axis that divides the keys' heads, or choose auto or xla"
        )
    return reason

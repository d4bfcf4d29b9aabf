"""Attention backends: splash (interpreted) against the dense reference, and who refuses what."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import parity_models
import pytest
from jax.sharding import Mesh, PartitionSpec
from parity_models import (
    exact_arithmetic,
    make_twin,
    mixed_pairs,
    our_gradients,
    our_logits,
    pack_pairs,
    tiny_config,
)

from unirank_jax import attention, attention_cudnn, attention_splash, attention_xla, sharding
from unirank_jax.attention_request import Backend, PrefixKV, Request
from unirank_jax.layers import Compute

FULL = frozenset({"float32"})
HALF = frozenset({"bfloat16"})
CASES = {  # head dim, heads, kv heads, queries, keys, causal, key lengths, prefixes (Tq, lengths)
    "tower": (64, 2, 2, 37, 37, False, [37, 20, 0], []),
    "tower, head dim 72": (72, 2, 2, 130, 130, False, [129, 1, 130], []),
    "rows": (128, 4, 2, 35, 35, True, None, []),
    "rows, key lengths": (64, 4, 1, 35, 35, True, [35, 3, 0], []),
    "one prefix": (128, 4, 2, 21, 21, True, None, [(19, [11])]),
    "prefixes of rows, one empty": (64, 4, 2, 21, 21, True, None, [(5, [5]), (140, [0, 133])]),
    "last token": (64, 2, 1, 1, 40, False, [40, 7, 0], [(9, [0, 6])]),
}


def draw(case: str, dtype: str) -> tuple[list[Any], dict[str, Any], np.ndarray]:
    """Arrays, options and which (row, query) has a key to read."""
    size, heads, groups, queries, keys, causal, lengths, prefixes = CASES[case]
    rng = np.random.default_rng(7)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), dtype)

    rows = 3
    q, k = normal(rows, queries, heads, size), normal(rows, keys, groups, size)
    v = normal(rows, keys, groups, size)
    readable = np.arange(keys) < np.array(lengths or [keys] * rows)[:, None]
    some = np.repeat(readable.any(1)[:, None], queries, 1)
    shared = []
    for span, valid in prefixes:
        pair = (normal(len(valid), span, groups, size), normal(len(valid), span, groups, size))
        source = None if len(valid) == 1 else np.array([1, 0, 1], np.int32)
        shared.append(PrefixKV(*pair, jnp.asarray(valid, jnp.int32), source))
        some |= (np.array(valid)[np.zeros(rows, int) if source is None else source] > 0)[:, None]
    options = {"causal": causal, "key_lengths": None if lengths is None else jnp.array(lengths)}
    return [q, k, v, shared], options, some


def one_device(platform: str, **known: Any) -> Any:
    """What the dispatcher reads of a mesh of one device, which this machine need not have."""
    device = SimpleNamespace(platform=platform, **known)
    shape = dict.fromkeys(("data", "fsdp", "tensor"), 1)
    return SimpleNamespace(size=1, shape=shape, devices=np.array([device], object))


# A kernel by its interpreter; for cuDNN, which has none, its call served by XLA: what is left to a
# GPU is the kernel itself.
KERNELS: dict[str, Any] = {
    "splash": partial(attention_splash.attend, interpret=True),
    "cudnn": partial(attention_cudnn.attend, implementation="xla"),
    "xla in pieces": attention_xla.attend_in_pieces,
    "xla in parts": attention_xla.attend_in_parts,
}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces of a row, the last one not full, and one row at a time."""
    monkeypatch.setattr(attention_xla, "IN_CACHE", 1 << 12)
    monkeypatch.setattr(attention_xla, "LONG", 1 << 10)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_equals_the_dense_reference_forward_and_backward(
    kernel: str, case: str, dtype: str
):
    (q, k, v, shared), options, some = draw(case, dtype)
    target = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)
    weight = jnp.where(jnp.asarray(some)[..., None, None], target, 0)

    def run(backend: Any) -> Any:
        def loss(q: Any, k: Any, v: Any, pairs: Any) -> Any:
            prefixes = [p._replace(k=a, v=b) for p, (a, b) in zip(shared, pairs, strict=True)]
            out = backend(q, k, v, prefixes=prefixes, **options)
            return (out.astype(jnp.float32) * weight).sum(), out

        pairs = [(p.k, p.v) for p in shared]
        (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(
            q, k, v, pairs
        )
        return out, grads

    found, found_grads = run(KERNELS[kernel])
    wanted, wanted_grads = run(attention_xla.attend)
    assert found.dtype == wanted.dtype and np.isfinite(np.asarray(found, np.float32)).all()
    pairs = [(found[some], wanted[some])]
    pairs += zip(jax.tree.leaves(found_grads), jax.tree.leaves(wanted_grads), strict=True)
    for a, b in pairs:
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.abs(a - b).max() <= (2e-5 if dtype == "float32" else 3e-2) * np.abs(b).max()


TPU = Request("tpu", 0.0, False, False, FULL, 72, 10)
GPU = Request("gpu", 9.0, False, False, HALF, 128, 10)
REFUSED = [
    (TPU._replace(platform="cpu"), "splash", "platform cpu; run on TPU"),
    (TPU._replace(dtypes=frozenset({"float16"})), "splash", "dtypes float16; use float32"),
    (TPU._replace(dtypes=FULL | HALF), "splash", "dtypes bfloat16, float32"),
    (TPU._replace(head_dim=576), "splash", "head dim 576; use at most 512"),
    (TPU._replace(partitioned=True), "splash", "of several devices that no known mesh spreads"),
    (GPU._replace(platform="cpu"), "cudnn", "platform cpu; run on an NVIDIA GPU"),
    (GPU._replace(generation=7.5), "cudnn", "compute capability 7.5; run on .* 8.0 or later"),
    (GPU._replace(generation=0.0), "cudnn", "compute capability 0.0; run on an NVIDIA GPU"),
    (GPU._replace(dtypes=FULL), "cudnn", "dtypes float32; compute in bfloat16"),
    (GPU._replace(head_dim=256), "cudnn", "head dim 256; use a multiple of 8 up to 128"),
    (GPU._replace(head_dim=68), "cudnn", "head dim 68"),
    (GPU._replace(partitioned=True), "cudnn", "of several devices .*; give Compute.mesh"),
]


@pytest.mark.parametrize(("request_", "kernel", "words"), REFUSED, ids=lambda x: str(x)[:40])
def test_a_named_backend_refuses_what_it_cannot_honour(
    request_: Request, kernel: Backend, words: str
):
    with pytest.raises(ValueError, match=f"{kernel}' cannot honour .*{words}"):
        attention.choose(request_, kernel)
    assert attention.choose(request_, "auto") == "xla"


def test_auto_takes_a_kernel_where_it_is_proven():
    assert attention.choose(TPU, "auto") == attention.choose(TPU, "splash") == "splash"
    assert attention.choose(TPU._replace(queries=1), "auto") == "xla"
    assert attention.choose(TPU._replace(queries=1), "splash") == "splash"
    assert attention.choose(TPU._replace(partitioned=True, divides=True), "auto") == "splash"
    assert attention.choose(GPU, "auto") == "xla"  # few queries: nothing to gain
    assert attention.choose(GPU._replace(queries=attention.LONG), "auto") == "cudnn"
    assert attention.choose(GPU, "cudnn") == "cudnn"
    assert attention.choose(TPU, "xla") == attention.choose(GPU, "xla") == "xla"
    with pytest.raises(ValueError, match="'flash' is unknown; choose auto"):
        attention.choose(GPU, "flash")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("length", "size"), [(1, 128), (66, 128), (300, 128), (450, 512), (640, 128), (1344, 512)]
)
def test_splash_takes_the_largest_block_that_wastes_little(length: int, size: int):
    assert attention_splash.block(length) == size


@pytest.mark.parametrize("backend", [b for b in get_args(Backend) if b not in ("auto", "xla")])
def test_a_kernel_that_is_not_for_this_platform_is_refused_with_real_arrays(backend: Any):
    (q, k, v, _), options, _ = draw("tower", "bfloat16")
    with pytest.raises(ValueError, match="cannot honour the platform cpu"):
        attention.attend(q, k, v, backend=backend, **options)


def test_a_cpu_computes_what_its_cache_holds(monkeypatch: pytest.MonkeyPatch):
    """Rows that fit together go together, evenly; a long one goes in pieces."""
    shapes: list[tuple[str, tuple[int, ...]]] = []

    def recorded(name: str) -> Any:
        run = getattr(attention_xla, name)

        def record(q: Any, *arrays: Any, **options: Any) -> Any:
            shapes.append((name, q.shape[:2]))
            return run(q, *arrays, **options)

        return record

    for name in ("attend", "attend_in_pieces"):
        monkeypatch.setattr(attention_xla, name, recorded(name))
    monkeypatch.setattr(attention_xla, "LONG", 2)
    for rows, length in [(12, 8), (12, 16), (9, 16), (7, 16), (2, 32), (2, 64)]:
        q = jnp.zeros(
            (rows, length, 1, 8)
        )  # of 4096 bytes of scores are 16 rows of 8, 4 of 16, ...
        attention.attend(q, q, q, causal=True, mesh=one_device("cpu"))
    whole, pieces = "attend", "attend_in_pieces"
    assert shapes == [
        (whole, (12, 8)),
        (whole, (4, 16)),
        (whole, (3, 16)),
        (whole, (1, 16)),
        (whole, (1, 32)),
        (pieces, (2, 64)),
    ]


def test_an_accelerator_computes_long_rows_in_pieces(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def record(q: Any, *_: Any, **__: Any) -> Any:
        calls.append(q.shape[1])
        return q

    monkeypatch.setattr(attention_xla, "attend_in_pieces", record)
    for length in (attention.IN_PIECES - 1, attention.IN_PIECES):
        q = jnp.zeros((1, length, 1, 8))
        attention.attend(q, q, q, causal=True, mesh=one_device("gpu"))
    assert calls == [attention.IN_PIECES]


def test_what_a_request_says_of_its_devices(eight_devices: list[jax.Device]):
    """One device, several that the compiler spreads over, and several inside shard_map."""
    (q, k, v, shared), _, _ = draw("prefixes of rows, one empty", "bfloat16")
    one, all_ = (sharding.mesh(-1, 1, 1, some) for some in (eight_devices[:1], eight_devices))

    def described(mesh: Mesh | None, prefixes: Any = ()) -> Request:
        return attention.describe(q, k, v, prefixes, mesh)

    assert described(one, shared) == Request("cpu", 0.0, False, False, HALF, 64, 21)
    tensor = {size: sharding.mesh(-1, 1, size, eight_devices) for size in (2, 4)}
    assert described(tensor[2]).divides and not described(tensor[4]).divides, "two heads of keys"
    assert not described(None).divides
    mixed = [shared[0]._replace(v=shared[0].v.astype(jnp.float32)), shared[1]]
    assert described(one, mixed).dtypes == FULL | HALF
    assert described(all_).partitioned and described(None).partitioned
    inside = []

    def shard(x: jax.Array) -> jax.Array:
        inside.extend([described(all_).partitioned, described(None).partitioned])
        return x

    rows = PartitionSpec("data")
    jax.shard_map(shard, mesh=all_, in_specs=rows, out_specs=rows)(jnp.zeros(8))
    assert inside == [False, False]


def test_a_gpu_says_its_generation():
    (q, k, v, _), _, _ = draw("tower", "bfloat16")
    for known, generation in [({"compute_capability": "9.0"}, 9.0), ({}, 0.0)]:
        found = attention.describe(q, k, v, [], one_device("gpu", **known))
        assert (found.platform, found.generation) == ("gpu", generation)
    amd = one_device("gpu", compute_capability="gfx942")
    assert attention.describe(q, k, v, [], amd).generation == 0.0


def test_cudnn_gets_the_lengths_the_causality_and_the_scale(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def record(q: Any, k: Any, v: Any, **options: Any) -> Any:
        calls.append({"q": q.shape, "k": k.shape, "v": v.shape, **options})
        return q

    mesh = one_device("gpu", compute_capability="8.6")
    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    for case in ("tower", "rows", "prefixes of rows, one empty"):
        (q, k, v, shared), options, _ = draw(case, "bfloat16")
        attention.attend(q, k, v, prefixes=shared, backend="cudnn", mesh=mesh, **options)
    tower, rows, continued = calls
    assert tower.pop("key_value_seq_lengths").tolist() == [37, 20, 1]
    same = {name: (3, 38, 2, 64) for name in "qkv"}  # the kernel wants even lengths
    assert tower == {**same, "scale": 0.125, "is_causal": False, "implementation": "cudnn"}
    assert rows["is_causal"] and rows["key_value_seq_lengths"] is None
    assert continued["is_causal"] and continued["key_value_seq_lengths"] is None
    assert continued["q"] == (3, 166, 4, 64) and continued["k"] == (3, 166, 2, 64)


@pytest.mark.parametrize("run", [attention_xla.attend, *KERNELS.values()], ids=["xla", *KERNELS])
def test_rows_with_a_prefix_each_need_no_index(run: Any) -> None:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    q, k, v = random(3, 5, 4, 64), random(3, 5, 2, 64), random(3, 5, 2, 64)
    lengths = jnp.array([7, 0, 4])
    each = PrefixKV(random(3, 7, 2, 64), random(3, 7, 2, 64), lengths, None)
    shared = PrefixKV(random(1, 6, 2, 64), random(1, 6, 2, 64), jnp.array([6]), None)
    found = run(q, k, v, causal=True, prefixes=[shared, each])
    named = each._replace(prefix_of=jnp.arange(3))
    expected = attention_xla.attend(q, k, v, causal=True, prefixes=[shared, named])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", ["tower", "prefixes of rows, one empty", "last token"])
def test_a_kernel_is_spread_over_heads_and_shards(case: str, eight_devices: list[jax.Device]):
    """Forward and backward over (data 2, fsdp 2, tensor 2), and of one shard on tensor 2 alone."""
    (q, k, v, shared), options, some = draw(case, "float32")
    if k.shape[2] % 2:  # one head of keys: two, for two devices
        k, v = (jnp.concatenate([x, x[..., ::-1]], 2) for x in (k, v))
        shared = [
            one._replace(k=jnp.concatenate([one.k] * 2, 2), v=jnp.concatenate([one.v] * 2, 2))
            for one in shared
        ]
    weight = jnp.where(
        jnp.asarray(some)[..., None, None], jnp.cos(jnp.arange(q.size)).reshape(q.shape), 0
    )

    def loss(run: Any, scale: jax.Array, q: Any, k: Any, v: Any, pairs: Any) -> jax.Array:
        prefixes = [p._replace(k=scale * a, v=b) for p, (a, b) in zip(shared, pairs, strict=True)]
        return (run(scale * q, k, v, prefixes=prefixes, **options) * weight).sum()

    def gradients(run: Any, mesh: Mesh | None) -> Any:
        one = jax.value_and_grad(partial(loss, run), (1, 2, 3, 4))
        many = jax.vmap(
            one, (0, None, None, None, None), spmd_axis_name=sharding.BATCH_AXES if mesh else None
        )
        pairs = [(p.k, p.v) for p in shared]
        return jax.jit(many)(jnp.array([1.0, 0.5, -1.0, 2.0]), q, k, v, pairs)

    wanted = gradients(attention_xla.attend, None)
    for mesh in (sharding.mesh(2, 2, 2, eight_devices), sharding.mesh(1, 1, 2, eight_devices[:2])):
        found = gradients(attention.spread(KERNELS["splash"], mesh), mesh)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())


def test_a_whole_model_scores_the_same_with_the_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Tower, prefixes and candidates go through the dispatcher to the kernel, with gradients."""
    config = tiny_config(text_depth=2, deepstack_layers=(0,), vision_depth=2)
    ours = make_twin(config, tmp_path).ours
    pairs = mixed_pairs(config)
    batch = pack_pairs(config, pairs, shared=True)
    weights = np.random.default_rng(1).normal(size=len(pairs)).astype(np.float32)
    with exact_arithmetic():
        wanted = our_logits(ours, batch, len(pairs)), our_gradients(ours, batch, weights)
        monkeypatch.setattr(parity_models, "COMPUTE", Compute(mesh=one_device("tpu")))
        calls = []

        def kernel(*arrays: Any, **options: Any) -> jax.Array:
            calls.append(options)
            return KERNELS["splash"](*arrays, **options)

        monkeypatch.setattr(attention.attention_splash, "attend", kernel)
        compute = parity_models.COMPUTE
        found = (
            our_logits(ours, batch, len(pairs)),
            our_gradients(ours, batch, weights, compute),
        )
    assert {call["causal"] for call in calls} == {True, False}
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()

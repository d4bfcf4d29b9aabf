"""Attention backends: splash (interpreted) against the dense reference, and who refuses what."""

from __future__ import annotations

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unirank_jax import attention, attention_cudnn, attention_splash, attention_xla
from unirank_jax.attention_request import Backend, PrefixKV, Request

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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_splash_equals_the_dense_reference_forward_and_backward(case: str, dtype: str):
    (q, k, v, shared), options, some = draw(case, dtype)
    target = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)
    weight = jnp.where(jnp.asarray(some)[..., None, None], target, 0)

    def run(backend: Any, **more: Any) -> Any:
        def loss(q: Any, k: Any, v: Any, pairs: Any) -> Any:
            prefixes = [p._replace(k=a, v=b) for p, (a, b) in zip(shared, pairs, strict=True)]
            out = backend(q, k, v, prefixes=prefixes, **options, **more)
            return (out.astype(jnp.float32) * weight).sum(), out

        pairs = [(p.k, p.v) for p in shared]
        (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(
            q, k, v, pairs
        )
        return out, grads

    found, found_grads = run(attention_splash.attend, interpret=True)
    wanted, wanted_grads = run(attention_xla.attend)
    assert found.dtype == wanted.dtype and np.isfinite(np.asarray(found, np.float32)).all()
    pairs = [(found[some], wanted[some])]
    pairs += zip(jax.tree.leaves(found_grads), jax.tree.leaves(wanted_grads), strict=True)
    for a, b in pairs:
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.abs(a - b).max() <= (2e-5 if dtype == "float32" else 3e-2) * np.abs(b).max()


def test_a_named_backend_refuses_what_it_cannot_honour():
    good = Request("tpu", FULL, 72, 10, 10, 2)
    assert attention.choose(good, "splash") == "splash"
    for request, words in [
        (good._replace(platform="cpu"), "platform cpu; run on TPU"),
        (good._replace(dtypes=frozenset({"float16"})), "dtypes float16; use float32"),
        (good._replace(dtypes=FULL | HALF), "dtypes bfloat16, float32"),
        (good._replace(head_dim=30), "head dim 30; use a multiple of 8"),
    ]:
        with pytest.raises(ValueError, match=words):
            attention.choose(request, "splash")
    good = Request("gpu", HALF, 128, 10, 11, 0)
    assert attention.choose(good, "cudnn") == "cudnn"
    for request, words in [
        (good._replace(platform="tpu"), "platform tpu; run on an NVIDIA GPU"),
        (good._replace(prefixes=2), "2 shared prefixes; give whole rows"),
        (good._replace(dtypes=FULL), "dtypes float32; compute in bfloat16"),
        (good._replace(head_dim=256), "head dim 256; use a multiple of 8 up to 128"),
        (good._replace(head_dim=68), "head dim 68"),
    ]:
        with pytest.raises(ValueError, match=words):
            attention.choose(request, "cudnn")
    with pytest.raises(ValueError, match="'flash' is unknown; choose auto"):
        attention.choose(good, "flash")  # type: ignore[arg-type]


def test_auto_takes_a_kernel_where_it_is_proven():
    def auto(*request: Any) -> str:
        return attention.choose(Request(*request), "auto")

    assert auto("cpu", FULL, 64, 9, 9, 0) == "xla"
    assert auto("tpu", HALF, 128, 9, 9, 2) == "splash"
    assert auto("tpu", HALF, 128, 1, 9, 2) == "xla"  # one query
    assert auto("tpu", FULL | HALF, 128, 9, 9, 2) == "xla"
    assert auto("tpu", HALF, 128, 9, 9, 2, 8) == "xla"  # several devices
    assert auto("gpu", HALF, 72, 9, 9, 0) == "xla"  # cuDNN is taken where it is named


@pytest.mark.parametrize("backend", [b for b in get_args(Backend) if b not in ("auto", "xla")])
def test_a_kernel_that_is_not_for_this_platform_is_refused_with_real_arrays(backend: Any):
    (q, k, v, _), options, _ = draw("tower", "bfloat16")
    with pytest.raises(ValueError, match="cannot honour the platform cpu"):
        attention.attend(q, k, v, backend=backend, **options)


def test_cudnn_gets_the_lengths_the_causality_and_the_scale(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def record(q: Any, k: Any, v: Any, **options: Any) -> Any:
        calls.append(options)
        return q

    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    (q, k, v, _), options, _ = draw("tower", "bfloat16")
    attention.attend(q, k, v, backend="cudnn", **options)
    (call,) = calls
    assert call.pop("key_value_seq_lengths").tolist() == [37, 20, 1]
    assert call == {"scale": 0.125, "is_causal": False, "implementation": "cudnn"}
    with pytest.raises(ValueError, match="no shared prefixes"):
        attention_cudnn.attend(q, k, v, causal=True, prefixes=[PrefixKV(k, v, k, None)])


@pytest.mark.parametrize("backend", [attention_xla, attention_splash])
def test_rows_with_a_prefix_each_need_no_index(backend: Any) -> None:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    q, k, v = random(3, 5, 4, 64), random(3, 5, 2, 64), random(3, 5, 2, 64)
    lengths = jnp.array([7, 0, 4])
    each = PrefixKV(random(3, 7, 2, 64), random(3, 7, 2, 64), lengths, None)
    shared = PrefixKV(random(1, 6, 2, 64), random(1, 6, 2, 64), jnp.array([6]), None)
    options = {"interpret": True} if backend is attention_splash else {}
    found = backend.attend(q, k, v, causal=True, prefixes=[shared, each], **options)
    named = each._replace(prefix_of=jnp.arange(3))
    expected = attention_xla.attend(q, k, v, causal=True, prefixes=[shared, named])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)

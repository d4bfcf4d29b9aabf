"""cuDNN's attention on a GPU against the dense reference, which no other machine can show.

On a machine with an NVIDIA GPU (without the variable the tests take the CPU and are skipped):
`JAX_PLATFORMS=cuda python -m pytest tests/prove_gpu_attention.py -rP`.
The scores of the shipped model in bfloat16 with either backend are compared with float32, too.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_attention import CASES, draw

from unirank_jax import attention_cudnn, attention_xla
from unirank_jax.layers import Compute
from unirank_jax.loading import DEFAULT_FOLDER, load
from unirank_jax.reranker import Reranker

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
LARGE = {  # rows of pages, as the tower and the decoder of published sizes have them
    "tower of pages": (64, 16, 16, 5120, 5120, False, [5120, 4096, 77], []),
    "rows of pages": (128, 16, 8, 1300, 1300, True, None, [(64, [60]), (40, [33, 7])]),
}


@pytest.mark.parametrize("case", [*CASES, *LARGE])
def test_cudnn_equals_the_dense_reference_forward_and_backward(
    case: str, monkeypatch: pytest.MonkeyPatch
):
    """The same bfloat16 inputs; the reference computes in float32. A bfloat16 has 8 bits."""
    for name, value in LARGE.items():
        monkeypatch.setitem(CASES, name, value)
    (q, k, v, shared), options, some = draw(case, "bfloat16")
    target = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)
    weight = jnp.where(jnp.asarray(some)[..., None, None], target, 0)

    def run(backend: Any, dtype: str) -> Any:
        def loss(q: Any, k: Any, v: Any, pairs: Any) -> Any:
            prefixes = [p._replace(k=a, v=b) for p, (a, b) in zip(shared, pairs, strict=True)]
            out = backend(q, k, v, prefixes=prefixes, **options)
            return (out.astype(jnp.float32) * weight).sum(), out

        pairs = [(p.k, p.v) for p in shared]
        given = jax.tree.map(lambda x: x.astype(dtype), (q, k, v, pairs))
        with jax.default_matmul_precision("highest"):
            program = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))
            (_, out), grads = program(*given)
        return [np.asarray(x, np.float32) for x in (out[some], *jax.tree.leaves(grads))]

    found, wanted = run(attention_cudnn.attend, "bfloat16"), run(attention_xla.attend, "float32")
    errors = [
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, wanted, strict=True)
    ]
    print(f"{case}: largest error of the largest value, output and gradients: {max(errors):.1e}")
    assert np.isfinite(errors).all() and max(errors) <= 2e-2


def test_a_whole_model_scores_as_in_float32():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
    pictures: list[Any] = [Image.fromarray(one).resize((96, 120)) for one in coarse]
    candidates = [*pictures, *(f"a passage about number {n} " * (n + 1) for n in range(12))]
    query = "the figure that shows the number of the passage"

    def logits(dtype: str, backend: Any) -> np.ndarray:
        one = load(DEFAULT_FOLDER, dtype=dtype)
        compute = Compute(dtype=dtype, attention=backend, mesh=one.engine.compute.mesh)
        model, prompt = one.engine.model, one.prompt
        other = Reranker(model, prompt, one.manifest, one.source, compute, one.scoring)
        return other.logits(query, candidates)

    with jax.default_matmul_precision("highest"):
        exact = logits("float32", "xla")
    spread = exact.std()
    errors = {b: np.abs(logits("bfloat16", b) - exact).max() / spread for b in ("xla", "cudnn")}
    print(f"largest error of the spread of logits, bfloat16: {errors}")
    assert errors["cudnn"] <= 2 * max(errors["xla"], 1e-2)

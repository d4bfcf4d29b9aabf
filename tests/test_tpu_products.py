"""Products of a program, read from its text."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from train.tpu_products import products

PROGRAM = """
%fused (left: bf16[64,128], right: bf16[128,32]) -> bf16[64,32] {{
  %left = bf16[64,128]{{1,0:T(8,128)(2,1)}} parameter(0)
  %right = bf16[128,32]{{1,0:T(8,128)(2,1)}} parameter(1)
  ROOT %conv = bf16[64,32]{{1,0:T(8,128)(2,1)}} convolution(%left, %right), dim_labels=bf_io->bf
}}

ENTRY %main (x: bf16[64,128], y: bf16[128,32], z: f32[{z}], k: f32[{k}]) -> f32[{out}] {{
  %x = bf16[64,128]{{1,0}} parameter(0)
  %y = bf16[128,32]{{1,0}} parameter(1)
  %z = f32[{z}]{{2,1,0}} parameter(2)
  %k = f32[{k}]{{2,1,0}} parameter(3)
  %first = bf16[64,32]{{1,0}} fusion(%x, %y), kind=kOutput, calls=%fused
  ROOT %second = f32[{out}]{{2,1,0}} convolution(%z, %k), window={{{window}}}, dim_labels={labels}
}}
"""


# 16 heads as a window that is turned round, over one place: each head is met once; as spatial
# batches of eight, of which the padding leaves one each; a plain window of three, one place padded.
@pytest.mark.parametrize(
    ("z", "k", "out", "window", "labels", "second"),
    [
        ("64,512,1", "16,64,64", "512,16,64", "size=16 pad=15_15 rhs_reversal=1", 0, 16),
        ("8,24,32", "8,32,40", "8,24,40", "size=8 stride=7 pad=7_7 lhs_dilate=8", 1, 8),
        ("10,24,32", "3,32,40", "10,24,40", "size=3 pad=1_1", 1, 28),
    ],
)
def test_a_window_counts_where_it_meets_numbers(
    z: str, k: str, out: str, window: str, labels: int, second: int
) -> None:
    names = ("fb0_0io->b0f", "0bf_0io->0bf")[labels]
    each = (512 * 64 * 64, 24 * 32 * 40)[labels]
    text = PROGRAM.format(z=z, k=k, out=out, window=window, labels=names)
    assert products(text) == 2 * (64 * 128 * 32 + second * each)


def test_products_of_a_real_program() -> None:
    """As XLA counts them, on a CPU; it counts sums too."""

    def chain(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.einsum("bij,bjk->bik", x, y).reshape(8, -1) @ jnp.ones((96, 16))

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, 12, 64), (8, 64, 8))]
    compiled: Any = jax.jit(chain).lower(*shapes).compile()
    found = products(compiled.as_text())
    assert found == 2 * 8 * (12 * 64 * 8 + 96 * 16)
    assert compiled.cost_analysis()["flops"] == pytest.approx(found, rel=0.05)

"""What a compiler leaves of a program: its text before it is done, and the memory it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from train.tpu_products import products
from train.tpu_program import EstimateError, compiled, main_memory, optimised


def lowered_product(side: int) -> Any:
    matrix = jax.ShapeDtypeStruct((side, side), jnp.float32)
    return jax.jit(jnp.matmul).lower(matrix, matrix)


def nothing_to_lower() -> Any:
    raise ValueError("no such network")


def test_the_text_of_another_process() -> None:
    assert products(optimised(lowered_product, 96)[0]) == 2 * 96**3


def test_a_process_that_fails_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EstimateError, match="status 1 before the program was optimised"):
        optimised(nothing_to_lower)
    assert "no such network" in capfd.readouterr().err


def test_the_memory_of_a_program_is_all_that_is_allocated() -> None:
    """Two arguments, a result, and two products that are there at once; four MiB each."""
    side = 1024
    matrix = jax.ShapeDtypeStruct((side, side), jnp.float32)

    def product(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = jnp.tanh(a @ b)
        z = jnp.sin(y @ b.T)
        return z @ y + a, (y * z).sum()

    text, total = compiled(jax.jit(product).lower(matrix, matrix))
    assert products(text) == 2 * 3 * side**3
    assert total == pytest.approx(5 * 4 * side**2, rel=1e-3)
    assert main_memory("Memory Space: default (color=0)\nTotal bytes: 7 (7B)\n") == 7
    assert main_memory("Memory Space: default (color=0)\nTotal bytes: 7") == 0, "half written"
    assert main_memory("Memory Space: other (color=1)\nTotal bytes: 7 (7B)\n") == 0


class TooLarge:
    """A program that the compiler optimises and then refuses, with or without its report."""

    def __init__(self, report: str) -> None:
        self.report = report

    def compile(self, compiler_options: dict[str, Any]) -> None:
        folder = Path(compiler_options["xla_dump_to"])
        (folder / "module.after_optimizations.txt").write_text("the program")
        if self.report:
            (folder / "module.memory-usage-report.txt").write_text(self.report)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM")


def test_a_program_that_is_too_large_is_weighed() -> None:
    report = "Memory Space: default (color=0)\nTotal bytes: 17 (17B)\n"
    assert compiled(TooLarge(report)) == ("the program", 17)
    with pytest.raises(jax.errors.JaxRuntimeError, match="memory on HBM"):
        compiled(TooLarge(""))

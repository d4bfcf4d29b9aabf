"""Bytes to and from main memory, read from a program's text."""

from __future__ import annotations

from pathlib import Path

from train.tpu_text import parse
from train.tpu_traffic import traffic

TEXT = (Path(__file__).parent / "golden" / "tpu_program.txt").read_text()
BLOCK = 8 * 128 * 4


def test_what_stays_on_the_chip_is_not_counted() -> None:
    """By operation: x and one slice of four read; a copy out; a slice put in place (read and
    written); a loop's body (read twice, written); a slice fetched, in both spellings; a kernel that
    reads one and writes half."""
    assert traffic(TEXT) == BLOCK * (2 + 1 + 2 + 3 + 1 + 1 + 1.5)


def test_operations_are_parsed() -> None:
    found = parse(TEXT)
    assert [name for name, one in found.items() if one.entry] == ["main"]
    near = found["main"].operations["near"]
    assert near.operands == ["x", "stack", "at"] and near.calls == ["fused_computation.1"]
    assert found["fused_computation.1"].operations["param_1.2"].number == 1
    assert found["fused_computation.2"].operations["put"].root


def test_arrays_take_whole_tiles() -> None:
    """Heads of 72 in lanes of 128, five rows in tiles of eight, whichever dimensions are minor."""
    text = """
ENTRY %main (x: bf16[5,4,72]) -> bf16[5,4,72] {
  %x = bf16[5,4,72]{2,0,1:T(8,128)(2,1)} parameter(0)
  ROOT %y = bf16[5,4,72]{1,2,0:T(8,128)(2,1)} copy(%x)
}
"""
    assert traffic(text) == 2 * (8 * 4 * 128 + 5 * 128 * 72)

"""Multiplications and additions of matrix products in a TPU program, read from its optimised text.

The TPU compiler writes every product as a convolution: what is multiplied for each pair of batches
is a window that slides along the batches. A position of a window that lies in the padding is not
counted, as in the compiler's own count. Sums and other work of one operand are left out, kernels
too, and loops are counted once.
"""

from __future__ import annotations

import re

import numpy as np

from train.tpu_text import Computation, Operation, parse, running

_SHAPE = re.compile(r"\w+\[([\d,]*)\]")


def products(text: str) -> float:
    """Operations of one run of the program, on one chip: two for each multiplication."""
    computations = parse(text)
    return sum(_of(one, computations) for one in running(computations))


def _of(one: Computation, all_: dict[str, Computation]) -> float:
    total = 0.0
    for operation in one.operations.values():
        if operation.kind == "fusion" and operation.calls:
            total += _of(all_[operation.calls[0]], all_)
        elif operation.kind == "convolution":
            total += 2.0 * _convolution(operation, one)
        elif operation.kind == "dot":
            total += 2.0 * _dot(operation, one)
    return total


def _dot(operation: Operation, one: Computation) -> float:
    left = _dimensions(one.operations[operation.operands[0]].shape)
    match = re.search(r"lhs_contracting_dims={([\d,]*)}", operation.attributes)
    summed = [left[int(n)] for n in match.group(1).split(",") if n] if match else []
    return float(np.prod(_dimensions(operation.shape) + summed))


def _convolution(operation: Operation, one: Computation) -> float:
    """Multiplications: batches x features in x features out x positions of the window that meet a
    number."""
    match = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", operation.attributes)
    if match is None:
        raise ValueError(f"{operation.name}: a convolution without dim_labels")
    left_names, kernel_names, names = match.groups()
    left, kernel = (_dimensions(one.operations[n].shape) for n in operation.operands[:2])
    result = dict(zip(names, _dimensions(operation.shape), strict=True))
    read = dict(zip(left_names, left, strict=True))
    window = dict(re.findall(r"(\w+)=([\dx_-]+)", _window(operation.attributes)))
    count = float(read["b"] // _group("batch", operation.attributes))
    count *= dict(zip(kernel_names, kernel, strict=True))["i"] * result["f"]
    for at in range(len(names) - 2):
        name = str(at)
        low = int(_part(window, "pad", at, "0_0").split("_")[0])
        reach = int(_part(window, "size", at, "1"))
        step, far, near = (
            int(_part(window, kind, at, "1")) for kind in ("stride", "rhs_dilate", "lhs_dilate")
        )
        place = np.arange(result[name])[:, None] * step + np.arange(reach) * far - low
        inside = (place >= 0) & (place <= (read[name] - 1) * near) & (place % near == 0)
        count *= int(inside.sum())
    return count


def _window(attributes: str) -> str:
    match = re.search(r"window={([^}]*)}", attributes)
    return match.group(1) if match else ""


def _part(window: dict[str, str], kind: str, at: int, default: str) -> str:
    return window[kind].split("x")[at] if kind in window else default


def _group(kind: str, attributes: str) -> int:
    match = re.search(rf"{kind}_group_count=(\d+)", attributes)
    return int(match.group(1)) if match else 1


def _dimensions(shape: str) -> list[int]:
    match = _SHAPE.search(shape)
    return [int(n) for n in match.group(1).split(",") if n] if match else []

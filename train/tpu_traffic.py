"""Bytes that a TPU program moves to and from its main memory, read from its optimised text.

The compiler's own count, "bytes accessed", includes what stays in the chip's vector memory, where
it places much of what one operation leaves to the next; in the text such an array's layout says
S(1). Here every operation reads its operands and writes its results once, except those places, in
whole tiles: heads of 72 take 128 lanes. Loops are counted once, as in the compiler's count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod

from train.tpu_text import Computation, Operation, parse, running

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4}
BYTES |= {"u32": 4, "f64": 8, "s64": 8, "u64": 8}
# Names for arrays that are there already, or whose work is counted in another computation.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while"}
FREE |= {"conditional", "call", "partition-id", "replica-id", "opt-barrier", "add-dependency"}
SLICES = {"slice", "dynamic-slice", "gather"}  # they read what they give
_TILES = re.compile(r"\{([\d,]+):T\((\d+),(\d+)\)")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")


def traffic(text: str) -> float:
    """Bytes of one run of the program, on one chip."""
    computations = parse(text)
    total = 0.0
    for one in running(computations):
        for operation in one.operations.values():
            total += _moved(operation, one, computations)
    return total


def _moved(operation: Operation, one: Computation, all_: dict[str, Computation]) -> float:
    """Bytes of one operation."""
    kind = operation.kind
    if kind in FREE or kind.endswith("-done"):
        return 0.0
    if kind.endswith("-start") and _started(operation, all_) in SLICES:
        given, _, taken = operation.shape.partition("), ")  # ((operand ..), result, context)
        return _size(taken) + (_whole(taken) if _size(given) else 0.0)
    if kind.endswith("-start"):  # the result names both sides
        return _size(operation.shape)
    result = _size(operation.shape)
    if kind in SLICES:
        source = one.operations.get(operation.operands[0])
        return result + (_whole(operation.shape) if source and _size(source.shape) else 0.0)
    if kind == "dynamic-update-slice":
        update = one.operations.get(operation.operands[1])
        return 2.0 * _whole(update.shape) if update and result else 0.0
    inner = all_.get(operation.calls[0]) if kind == "fusion" and operation.calls else None
    if inner is not None:
        result = min(result, _written(inner, result))
    read = 0.0
    for at, name in enumerate(operation.operands):
        source = one.operations.get(name)
        if source is not None and (size := _size(source.shape)):
            read += size if inner is None else min(size, _read(inner, at, size))
    return result + read


def _started(operation: Operation, all_: dict[str, Computation]) -> str:
    """The kind of what goes on beside the rest: the name says it, or what is called."""
    called = all_.get(operation.calls[0]) if operation.calls else None
    if operation.kind == "async-start" and called is not None:
        return next((one.kind for one in called.operations.values() if one.root), "")
    return operation.kind.removesuffix("-start")


def _read(inner: Computation, number: int, size: float) -> float:
    """Bytes that a fusion reads of one operand: the slices that it takes, if it takes only such."""
    operations = inner.operations.values()
    known = {o.name for o in operations if o.kind == "parameter" and o.number == number}
    users = []
    for operation in operations:
        if known & set(operation.operands):
            if operation.kind == "bitcast":
                known.add(operation.name)
            else:
                users.append(operation)
    if not users:
        return 0.0
    total = 0.0
    for user in users:
        if user.kind in SLICES and user.operands[0] in known:
            total += _whole(user.shape)
        elif not (user.kind == "dynamic-update-slice" and user.operands[0] in known):
            return size
    return total


def _written(inner: Computation, size: float) -> float:
    """Bytes that a fusion writes: where its root puts a part into an operand, that part."""
    for operation in inner.operations.values():
        if operation.root and operation.kind == "dynamic-update-slice":
            update = inner.operations.get(operation.operands[1])
            return _whole(update.shape) if update else size
    return size


def _arrays(shape: str) -> Iterable[tuple[float, bool]]:
    """Bytes of every array of a shape, and whether it is in main memory."""
    for kind, dimensions, layout in _ARRAY.findall(shape):
        if kind in BYTES and dimensions:  # a single number is no traffic
            sizes = [int(n) for n in dimensions.split(",")]
            tiles = _TILES.match(layout)
            if tiles:  # an array takes whole tiles of its two minor dimensions
                order, height, width = tiles.groups()
                for at, tile in zip(order.split(","), (width, height), strict=False):
                    sizes[int(at)] = -(-sizes[int(at)] // int(tile)) * int(tile)
            yield float(BYTES[kind] * prod(sizes)), not re.search(r"S\([1-9]", layout)


def _size(shape: str) -> float:
    """Bytes in main memory."""
    return sum(size for size, main in _arrays(shape) if main)


def _whole(shape: str) -> float:
    """Bytes, wherever they are."""
    return sum(size for size, _ in _arrays(shape))

"""The optimised text of a TPU program: computations, their operations, and what runs of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_LINE = re.compile(r"\s*(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)")


@dataclass
class Operation:
    """One line of a computation."""

    name: str
    shape: str
    kind: str
    operands: list[str]
    calls: list[str]  # computations
    root: bool
    number: int = 0  # of a parameter
    attributes: str = ""


@dataclass
class Computation:
    """Operations by name, in order."""

    entry: bool
    operations: dict[str, Operation] = field(default_factory=dict)


def parse(text: str) -> dict[str, Computation]:
    """The computations of a program's text, by name."""
    found: dict[str, Computation] = {}
    current: Computation | None = None
    for line in text.splitlines():
        if line.startswith(("ENTRY ", "%")) and line.rstrip().endswith("{"):
            match = re.match(r"(ENTRY )?%?([\w.-]+)", line)
            assert match is not None
            current = found[match.group(2)] = Computation(bool(match.group(1)))
        elif line.rstrip() == "}":  # a kernel's description spans lines, one begins with a bracket
            current = None
        elif current is not None and (match := _LINE.match(line)):
            root, name, shape, kind, rest = match.groups()
            inside, after = _closed(rest)
            calls = re.findall(r"(?:calls|body|condition|to_apply)=%?([\w.-]+)", after)
            for several in re.findall(
                r"(?:branch_computations|called_computations)={([^}]*)}", after
            ):
                calls += re.findall(r"[\w.-]+", several)
            number = int(inside) if kind == "parameter" and inside.isdigit() else 0
            operands = re.findall(r"%([\w.-]+)", inside)
            current.operations[name] = Operation(
                name, shape, kind, operands, calls, bool(root), number, after
            )
    return found


def _closed(rest: str) -> tuple[str, str]:
    """What stands before the bracket that closes, and what after it."""
    depth = 1
    for at, letter in enumerate(rest):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if not depth:
            return rest[:at], rest[at + 1 :]
    return rest, ""


def running(computations: dict[str, Computation]) -> Iterator[Computation]:
    """The entry, and the bodies of loops, branches and calls that it reaches; not those inside
    fusions and reductions."""
    left = [one for one in computations.values() if one.entry]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        for operation in one.operations.values():
            if operation.kind in ("while", "conditional", "call"):
                left += [computations[name] for name in operation.calls if name in computations]

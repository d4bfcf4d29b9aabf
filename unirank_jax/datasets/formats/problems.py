"""What is wrong with data, gathered: "file:line: field: problem; remedy", many in one exception."""

from __future__ import annotations

from typing import Any

from unirank_jax.datasets.dataset import DatasetError
from unirank_jax.datasets.jsonl import JsonlError

MOST_PROBLEMS = 1000


class FormatError(JsonlError):
    """Files that cannot be used; `problems` holds them all, the message the first ones."""


class WriteError(DatasetError):
    """A dataset cannot be written in a format; the message names the place and the remedy."""


class Problems:
    """Collects problems. Raises FormatError by itself when there are `MOST_PROBLEMS`."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, where: str, field: str, problem: str, remedy: str) -> None:
        """One more; `where` is a file, with the line or row where there is one."""
        self.found.append(f"{where}: {field}: {problem}; {remedy}")
        if len(self.found) >= MOST_PROBLEMS:
            told = f"reading stopped after {MOST_PROBLEMS} problems"
            self.found.append(f"{where}: file: {told}; correct these first")
            raise FormatError(self.found)

    def raise_any(self) -> None:
        """Raises FormatError where there is a problem."""
        if self.found:
            raise FormatError(self.found)


def kind_of(value: Any) -> str:
    """What a value is, for a person."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true/false",
        bytes: "bytes",
        type(None): "null",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def shown(value: Any) -> str:
    """A value as a message shows it: short, on one line, nothing that could not be printed."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""Files of records, JSON lines or Parquet: streamed once, then read again record by record.

A record is a dict. Its place is an offset (bytes in a JSON file, rows in a Parquet file) and a
number from 1 that messages show; no record is kept in memory.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unirank_jax.datasets.dataset import DatasetError
from unirank_jax.datasets.formats.problems import FormatError, Problems, kind_of

BATCH_ROWS = 64


class Table(ABC):
    """One file of records; `name` is what messages call it. Can be pickled."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name

    def where(self, number: int) -> str:
        """The place of a record in messages."""
        return f"{self.name}:{number}"

    @abstractmethod
    def rows(self, problems: Problems) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """(offset, number, record) of all good records in order; what is bad goes to `problems`."""

    @abstractmethod
    def read(self, offset: int, number: int) -> dict[str, Any]:
        """One record again; FormatError where the file is not what it was."""

    def changed(self, number: int, *problems: str) -> FormatError:
        """The error for a file that is not what it was when it was opened."""
        told = f"{self.where(number)}: file: changed while it was in use; open it again"
        return FormatError([*problems, told])


class JsonTable(Table):
    """A file with one JSON object per line; blank lines are skipped."""

    def rows(self, problems: Problems) -> Iterator[tuple[int, int, dict[str, Any]]]:
        offset = 0
        try:
            with open(self.path, "rb") as file:
                for number, data in enumerate(file, start=1):
                    start, offset = offset, offset + len(data)
                    if data.strip():
                        record = json_object(data, self.where(number), problems)
                        if record is not None:
                            yield start, number, record
        except OSError as error:
            problems.add(
                self.name, "file", f"cannot be read ({error.strerror})", "make it readable"
            )

    def read(self, offset: int, number: int) -> dict[str, Any]:
        problems = Problems()
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                record = json_object(file.readline(), self.where(number), problems)
        except OSError:
            raise self.changed(number) from None
        if record is None:
            raise self.changed(number, *problems.found)
        return record


class ParquetTable(Table):
    """A Parquet file. `columns` are its columns; one group of rows is kept for the next read.

    Raises FormatError for a file that is not Parquet, DatasetError where pyarrow is missing.
    """

    def __init__(self, path: Path, name: str):
        super().__init__(path, name)
        self._open()
        self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)
        twice = {column for column in self.columns if self.columns.count(column) > 1}
        if twice:
            raise FormatError(
                [f"{name}: {sorted(twice)[0]}: the column is there twice; rename one of them"]
            )
        metadata = self._file.metadata
        counts = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        self._starts = [sum(counts[:n]) for n in range(len(counts))]

    def _open(self) -> None:
        arrow, parquet = _pyarrow()
        self._lock = threading.Lock()
        self._group: tuple[int, Any] = (-1, None)
        try:
            self._file = parquet.ParquetFile(self.path)
        except (arrow.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FormatError(
                [f"{self.name}: file: not a Parquet file ({reason}); write or download it again"]
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        kept = ("path", "name", "columns", "_starts")
        return {key: value for key, value in self.__dict__.items() if key in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def where(self, number: int) -> str:
        return f"{self.name}: row {number}"

    def rows(self, problems: Problems) -> Iterator[tuple[int, int, dict[str, Any]]]:
        arrow, _ = _pyarrow()
        number = 0
        try:
            for batch in self._file.iter_batches(batch_size=BATCH_ROWS):
                for row in range(batch.num_rows):
                    number += 1
                    record = self._record(batch, row, number, problems)
                    if record is not None:
                        yield number - 1, number, record
        except (arrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            remedy = "write or download the file again"
            problems.add(self.where(number + 1), "file", f"cannot be read ({reason})", remedy)

    def read(self, offset: int, number: int) -> dict[str, Any]:
        arrow, _ = _pyarrow()
        problems = Problems()
        group = bisect_right(self._starts, offset) - 1
        try:
            with self._lock:
                if self._group[0] != group:
                    self._group = (group, self._file.read_row_group(group))
                table = self._group[1]
            record = self._record(table, offset - self._starts[group], number, problems)
        except (arrow.ArrowException, OSError, IndexError):
            raise self.changed(number) from None
        if record is None:
            raise self.changed(number, *problems.found)
        return record

    def _record(
        self, table: Any, row: int, number: int, problems: Problems
    ) -> dict[str, Any] | None:
        try:
            return table.slice(row, 1).to_pylist()[0]
        except (ValueError, OverflowError, KeyError) as error:  # a text that is not UTF-8, a date
            reason = str(error).splitlines()[0][:100]
            problems.add(self.where(number), "row", f"cannot be read ({reason})", "correct the row")
            return None


def json_object(data: bytes, where: str, problems: Problems) -> dict[str, Any] | None:
    """One line as a JSON object, or None with its problem."""
    try:
        record = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unrepeated)
    except UnicodeDecodeError as error:
        problems.add(where, "line", f"not UTF-8 at byte {error.start}", "save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        problems.add(where, "line", f"not valid JSON ({error})", "write one JSON object per line")
    else:
        if isinstance(record, dict):
            return record
        problems.add(
            where, "line", f"{kind_of(record)}, not an object", "write {...} on every line"
        )
    return None


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} is there twice")
    return record


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DatasetError(
            "Parquet files need pyarrow, which is not installed; "
            "run: pip install 'unirank-jax[data]'"
        ) from None
    return pyarrow.lib, pyarrow.parquet

"""One way to read a dataset, whether it is an ArrayRecord folder or the user's own JSONL.

`Dataset.open(path)` decides by what lies at the path; `sample()` opens the data that ships
inside the package. Reading is lazy: nothing but ids and sizes is held in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from unirank_jax.datasets.records import (
    SPLITS,
    ContentSize,
    Example,
    Item,
    Query,
    RankList,
)

META_NAME = "meta.json"


class DatasetError(ValueError):
    """A dataset cannot be read; the message names the place and the remedy."""


class SourceError(RuntimeError):
    """A builder's source or tool is missing or not the expected one; names the remedy."""


class Dataset(ABC):
    """Items, queries and lists. Instances can be pickled: a worker process opens its own files."""

    path: Path

    @staticmethod
    def open(path: str | Path) -> Dataset:
        """Open an ArrayRecord folder, a JSONL file, or a folder of JSONL files.

        Raises DatasetError where nothing readable lies at `path`, and for JSONL where any line
        is not valid (file, line, field, problem and remedy of each, the first ones together).
        """
        from unirank_jax.datasets.arrayrecord import ArrayRecordDataset

        path = Path(path)
        if (path / META_NAME).is_file():
            return ArrayRecordDataset(path)
        from unirank_jax.datasets.jsonl import JsonlDataset, jsonl_files

        if jsonl_files(path):
            return JsonlDataset(path)
        raise DatasetError(
            f"{path}: no dataset here; give a folder with {META_NAME} (built by "
            "`python -m unirank_jax.datasets.build`), a .jsonl file, or a folder with "
            f"{', '.join(f'{split}.jsonl' for split in SPLITS)}"
        )

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the content: equal for equal data, whatever the file layout."""

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that have at least one list."""

    @abstractmethod
    def lists(self, split: str) -> Sequence[RankList]:
        """The lists of a split, read one at a time; an unknown split is a DatasetError."""

    @abstractmethod
    def query(self, qid: str) -> Query:
        """The query of that id; KeyError where there is none."""

    @abstractmethod
    def item(self, did: str) -> Item:
        """The item of that id; KeyError where there is none."""

    @abstractmethod
    def items_of(self, split: str) -> Sequence[Item]:
        """The items whose `split_id` falls in a split, read one at a time, in stored order."""

    @abstractmethod
    def size(self, did: str) -> ContentSize:
        """Text length and image sizes of an item, without reading its content."""

    def example(self, split: str, index: int) -> Example:
        """List `index` of a split with its query and items; image bytes are not decoded."""
        ranked = self.lists(split)[index]
        return Example(
            query=self.query(ranked.qid),
            candidates=tuple(self.item(did) for did in ranked.dids),
            grades=ranked.grades,
            neg_types=ranked.neg_types,
        )


def sample(name: str = "sci") -> Dataset:
    """The dataset that ships inside the package (real molecules and captioned figures)."""
    from unirank_jax.datasets.arrayrecord import ArrayRecordDataset

    root = Path(__file__).resolve().parent.parent / "assets" / "sample"
    if not (root / name / META_NAME).is_file():
        known = sorted(folder.parent.name for folder in root.glob(f"*/{META_NAME}"))
        raise DatasetError(f"no embedded sample {name!r}; there are: {', '.join(known) or 'none'}")
    return ArrayRecordDataset(root / name)


def open_source(source: str) -> Dataset:
    """What a configuration names: `sample:NAME` is an embedded sample, everything else a path."""
    kind, colon, name = source.partition(":")
    return sample(name) if colon and kind == "sample" else Dataset.open(source)

"""One way to read a dataset: an ArrayRecord folder, the user's own JSONL, or another format.

`Dataset.open(path)` decides by what lies at the path; `sample()` opens the data that ships
inside the package. Reading is lazy: nothing but ids and sizes is held in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path

from unirank_jax.content import ImagePart
from unirank_jax.datasets.records import (
    SPLITS,
    ContentSize,
    Example,
    Item,
    Query,
    RankList,
)
from unirank_jax.images import image_size

META_NAME = "meta.json"
MOUNT = (
    "addresses are not read; mount the bucket on every host (gcsfuse BUCKET /mnt/bucket) and give "
    "the path"
)


class DatasetError(ValueError):
    """A dataset cannot be read; the message names the place and the remedy."""


class SourceError(RuntimeError):
    """A builder's source or tool is missing or not the expected one; names the remedy."""


class Dataset(ABC):
    """Items, queries and lists. Instances can be pickled: a worker process opens its own files."""

    path: Path

    @staticmethod
    def open(path: str | Path, *, run: str | Path | None = None, depth: int = 100) -> Dataset:
        """Open an ArrayRecord folder, a JSONL file or folder, or data in another known format.

        The other formats are those of `formats.registry` (BEIR, Parquet tables, M-BEIR, columns
        of sentence-transformers, ms-swift and FlagEmbedding lines), told apart by file names and
        field names. `run` is a TREC run for data with a corpus: the candidates of a query are
        then its best `depth` documents.

        Raises DatasetError where nothing readable lies at `path`, and where any line is not valid
        (file, line, field, problem and remedy of each, the first ones together).
        """
        from unirank_jax.datasets.arrayrecord import ArrayRecordDataset

        path = Path(path)
        if depth < 1:
            raise DatasetError(f"a depth of {depth}; give at least 1 document for each query")
        if not (path / META_NAME).is_file():
            from unirank_jax.datasets.formats.registry import open_format
            from unirank_jax.datasets.formats.retrieval import Run

            found = open_format(path, Run(Path(run), depth) if run is not None else None)
            if found is not None:
                return found
        if run is not None:
            raise DatasetError(
                f"{run}: a run goes with a corpus and queries, and {path} has none; leave it out"
            )
        if (path / META_NAME).is_file():
            return ArrayRecordDataset(path)
        from unirank_jax.datasets.jsonl import JsonlDataset, jsonl_files

        if jsonl_files(path):
            return JsonlDataset(path)
        raise DatasetError(
            f"{path}: no dataset here; give a folder with {META_NAME} (built by "
            "`python -m unirank_jax.datasets.build`), a .jsonl file, or a folder with "
            f"{', '.join(f'{split}.jsonl' for split in SPLITS)} (or a known format: BEIR, Parquet "
            "tables, M-BEIR, sentence-transformers, ms-swift, FlagEmbedding)"
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

    def pool(self, split: str) -> Collection[str]:
        """Ids of the items that lists of a split may name, in stored order.

        Those of `items_of`; of data with one corpus for all splits, the whole corpus.
        """
        return tuple(item.did for item in self.items_of(split))

    def size(self, did: str) -> ContentSize:
        """Text length and image sizes of an item; of an image only the header is read."""
        parts = self.item(did).parts
        return ContentSize(
            sum(len(part.text) for part in parts if not isinstance(part, ImagePart)),
            tuple(image_size(part.source, did) for part in parts if isinstance(part, ImagePart)),
        )

    def example(self, split: str, index: int) -> Example:
        """List `index` of a split with its query and items; image bytes are not decoded."""
        ranked = self.lists(split)[index]
        return Example(
            query=self.query(ranked.qid),
            candidates=tuple(self.item(did) for did in ranked.dids),
            grades=ranked.grades,
            neg_types=ranked.neg_types,
            missing=ranked.missing,
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
    """What a configuration names: `sample:NAME` is an embedded sample, everything else a path;
    several with commas between them are joined (`union.Union`)."""
    from unirank_jax.datasets.union import Union

    if "," in source and not Path(source).exists():
        return Union([open_source(part) for part in sources(source)])
    if "://" in source:
        raise DatasetError(f"{source!r}: {MOUNT}")
    kind, colon, name = source.partition(":")
    return sample(name) if colon and kind == "sample" else Dataset.open(source)


def sources(source: str) -> list[str]:
    """The parts of what a configuration names."""
    if Path(source).exists():
        return [source]
    parts = [part.strip() for part in source.split(",")]
    if not all(parts):
        raise DatasetError(f"{source!r}: nothing before or after a comma; name a dataset there")
    return parts

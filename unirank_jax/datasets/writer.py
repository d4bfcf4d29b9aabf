"""Writes the stored form of a dataset: a folder of ArrayRecord files, an index and meta.json.

Records are msgpack maps. Content is stored once: a part is a text, encoded image bytes, or
a pair [item row, part number] that points at the same image in another item.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tqdm import tqdm

from unirank_jax.content import ImagePart, Part, TextPart
from unirank_jax.datasets import stand_ins
from unirank_jax.datasets.arrayrecord import FORMAT, INDEX_NAME, ITEM_FIELDS, QUERY_FIELDS
from unirank_jax.datasets.dataset import META_NAME, DatasetError
from unirank_jax.datasets.records import SPLITS, Item, Query, RankList, split_of

# Groups of 32 records are compressed together: a read decodes one group (about 20 kB).
WRITER_OPTIONS = "group_size:32,brotli:9"


def write_dataset(
    path: str | Path,
    items: Sequence[Item],
    queries: Sequence[Query],
    lists: Mapping[str, Sequence[RankList]],
    *,
    name: str,
    licences: Mapping[str, str],
    extra_files: Mapping[str, str] | None = None,
    stand_in_texts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write a dataset folder and return its meta.json as a dict.

    Everything goes to a folder beside `path` that is renamed at the end, so a crash leaves no
    half-written dataset. `licences` maps every item's `source` to its licence; `extra_files`
    are texts stored beside the data (licence notices); `stand_in_texts` (id of an item with an
    image -> text) go to a side file that the content hash leaves out. Raises DatasetError, before
    writing, for an id used twice, a list that names an unknown id, a list in the wrong split or a
    list without a relevant candidate.
    """
    path = Path(path)
    item_rows = {item.did: row for row, item in enumerate(items)}
    query_rows = {query.qid: row for row, query in enumerate(queries)}
    _check(items, queries, lists, item_rows, query_rows, licences)
    if path.exists() and not (path / META_NAME).is_file():
        raise DatasetError(f"{path} exists and is no dataset; give another folder or remove it")
    sources = sorted({(item.source, item.licence) for item in items})
    source_rows = {source: row for row, source in enumerate(sources)}
    neg_types = sorted({kind for split in lists.values() for x in split for kind in x.neg_types})
    neg_rows = {kind: row for row, kind in enumerate(neg_types)}

    digest = hashlib.sha256()
    shared: dict[bytes, tuple[int, int]] = {}
    meta = {
        "format": FORMAT,
        "name": name,
        "content_hash": "",
        "counts": _counts(items, queries, lists),
        "licences": dict(sorted(licences.items())),
        "sources": [list(source) for source in sources],
        "neg_types": neg_types,
    }
    with _new_folder(path) as folder:
        _write_records(
            folder / "items.array_record",
            digest,
            (
                {field: getattr(item, field) for field in ITEM_FIELDS}
                | {"source": source_rows[item.source, item.licence]}
                | {"parts": _pack_parts(item.parts, shared, row)}
                for row, item in enumerate(items)
            ),
        )
        _write_records(
            folder / "queries.array_record",
            digest,
            (
                {field: getattr(query, field) for field in QUERY_FIELDS}
                | {"parts": _pack_parts(query.parts, shared, None)}
                for query in queries
            ),
        )
        for split in SPLITS:
            _write_records(
                folder / f"lists-{split}.array_record",
                digest,
                (
                    {
                        "query": query_rows[ranked.qid],
                        "items": [item_rows[did] for did in ranked.dids],
                        "grades": list(ranked.grades),
                        "neg_types": bytes(neg_rows[kind] for kind in ranked.neg_types),
                    }
                    for ranked in lists.get(split, ())
                ),
            )
        digest.update(json.dumps([sources, neg_types], sort_keys=True).encode())
        meta["content_hash"] = digest.hexdigest()
        np.savez_compressed(folder / INDEX_NAME, **_index(items, queries))
        for file_name, text in (extra_files or {}).items():
            (folder / file_name).write_text(text, encoding="utf-8")
        if stand_in_texts:
            meta[stand_ins.META_KEY] = stand_ins.write(folder, stand_in_texts)
        (folder / META_NAME).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    return meta


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that takes its place when all went well and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.writing-{os.getpid()}"
    old = path.parent / f".{path.name}.old-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _pack_parts(
    parts: tuple[Part, ...], shared: dict[bytes, tuple[int, int]], row: int | None
) -> list[str | bytes | list[int]]:
    """Parts as stored; an image that an earlier item holds becomes a reference to it."""
    packed: list[str | bytes | list[int]] = []
    for number, part in enumerate(parts):
        if isinstance(part, TextPart):
            packed.append(part.text)
            continue
        if not isinstance(part.source, bytes):
            raise DatasetError("an image to be stored must be encoded bytes")
        known = shared.get(part.source)
        if known is not None:
            packed.append(list(known))
            continue
        packed.append(part.source)
        if row is not None:
            shared[part.source] = (row, number)
    return packed


def _write_records(path: Path, digest: Any, records: Iterable[dict[str, Any]]) -> None:
    digest.update(path.name.encode())
    writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
    for record in tqdm(records, desc=path.stem, unit=" records", mininterval=1.0, delay=2.0):
        data = msgpack.packb(record, use_bin_type=True)
        digest.update(len(data).to_bytes(8, "little") + data)
        writer.write(data)
    writer.close()


def _index(items: Sequence[Item], queries: Sequence[Query]) -> dict[str, Any]:
    """The arrays that make ids, splits and sizes known without reading a record."""
    characters, starts, sizes = [], [0], []
    for item in items:
        characters.append(sum(len(p.text) for p in item.parts if isinstance(p, TextPart)))
        for part in item.parts:
            if isinstance(part, ImagePart) and isinstance(part.source, bytes):
                with Image.open(io.BytesIO(part.source)) as image:
                    sizes.append((image.height, image.width))
        starts.append(len(sizes))
    return {
        "item_ids": np.array([item.did.encode() for item in items], dtype=np.bytes_),
        "item_splits": np.array([SPLITS.index(split_of(x.split_id)) for x in items], np.uint8),
        "text_characters": np.array(characters, np.int32),
        "image_starts": np.array(starts, np.int32),
        "image_sizes": np.array(sizes, np.int32).reshape(-1, 2),
        "query_ids": np.array([query.qid.encode() for query in queries], dtype=np.bytes_),
    }


def _counts(
    items: Sequence[Item], queries: Sequence[Query], lists: Mapping[str, Sequence[RankList]]
) -> dict[str, Any]:
    kinds = {query.qid: f"{query.domain}: {query.kind}" for query in queries}
    counts: dict[str, Any] = {}
    for split in SPLITS:
        chosen = [item for item in items if split_of(item.split_id) == split]
        listed = lists.get(split, ())
        counts[split] = {
            "items": len(chosen),
            "items_by_kind": dict(sorted(Counter(item.kind for item in chosen).items())),
            "lists": len(listed),
            "lists_by_kind": dict(sorted(Counter(kinds[x.qid] for x in listed).items())),
        }
    return counts


def _check(
    items: Sequence[Item],
    queries: Sequence[Query],
    lists: Mapping[str, Sequence[RankList]],
    item_rows: Mapping[str, int],
    query_rows: Mapping[str, int],
    licences: Mapping[str, str],
) -> None:
    if len(item_rows) != len(items) or len(query_rows) != len(queries):
        raise DatasetError("an item id or a query id is used twice; make ids unique")
    for item in items:
        if licences.get(item.source) != item.licence:
            raise DatasetError(f"item {item.did}: no licence {item.licence!r} for {item.source!r}")
    for split, listed in lists.items():
        if split not in SPLITS:
            raise DatasetError(f"no split {split!r}; there are: {', '.join(SPLITS)}")
        for ranked in listed:
            if ranked.qid not in query_rows:
                raise DatasetError(f"list {ranked.qid}: there is no such query")
            query = queries[query_rows[ranked.qid]]
            unknown = [did for did in ranked.dids if did not in item_rows]
            if unknown:
                raise DatasetError(f"list {ranked.qid}: unknown items {unknown[:3]}")
            if not len(ranked.dids) == len(ranked.grades) == len(ranked.neg_types):
                raise DatasetError(f"list {ranked.qid}: ids, grades and origins differ in number")
            if max(ranked.grades, default=-1) < query.rel_min:
                raise DatasetError(f"list {ranked.qid}: no candidate of grade {query.rel_min}")
            split_ids = [query.split_id] + [items[item_rows[did]].split_id for did in ranked.dids]
            if any(split_of(split_id) != split for split_id in split_ids):
                raise DatasetError(f"list {ranked.qid}: content of another split than {split}")

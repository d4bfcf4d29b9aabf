"""The end of every build: the folder of a dataset, its notices, a page to look at, and counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unirank_jax.datasets import stand_ins
from unirank_jax.datasets.notices import add_counts
from unirank_jax.datasets.records import SPLITS, Item, Query, RankList
from unirank_jax.datasets.sheet import sheet
from unirank_jax.datasets.writer import write_dataset


def finish(
    name: str,
    out: Path,
    items: Sequence[Item],
    queries: Sequence[Query],
    lists: Mapping[str, Sequence[RankList]],
    notices: str,
    by_unit: Mapping[str, str],
    with_sheet: bool = True,
) -> dict[str, Any]:
    """Write the dataset folder `out` and return its meta.json.

    `notices` becomes the file LICENSES, `by_unit` (unit_id -> text) the stand-ins of the items
    with an image; sheet.html is left out of what ships in the package.
    """
    extra_files = {"LICENSES": notices}
    if with_sheet:
        by_id = {query.qid: query for query in queries}
        made = [(by_id[ranked.qid], ranked) for split in SPLITS for ranked in lists.get(split, [])]
        extra_files["sheet.html"] = sheet(name, items, made)
    licences = {item.source: item.licence for item in items}
    meta = write_dataset(
        out,
        items,
        queries,
        lists,
        name=name,
        licences=licences,
        extra_files=extra_files,
        stand_in_texts=stand_ins.of_items(items, by_unit),
    )
    return add_counts(out, meta, items, lists)

"""Lists of what a first stage finds in the whole pool of a split: a hundred candidates a query.

Candidates are 50 texts and 50 items with an image (BM25 and a dual encoder, train/first_stage.py);
what has the query's own content is never among them. Grades are those of the dataset's lists, and
what equals a relevant item (same dup_id) is relevant too; relevant content that was not found is
`missing`, and metrics count it as missed. A pool also holds right answers that nobody judged for
this very query: the card of a molecule whose drawing is asked for by its name. Such items of the
query's own object have grade -1 and are dropped in metrics (train/judging.py). Queries with the
same content and the same relevant content stand once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from train.baselines import unit_vectors
from train.first_stage import FirstStage, Retrieved
from train.judging import Assessor, origins
from train.runs import Ranking
from unirank_jax.datasets.dataset import Dataset, DatasetError
from unirank_jax.datasets.formats.problems import Problems
from unirank_jax.datasets.formats.writing import json_line, write_lines
from unirank_jax.datasets.overlay import records, write_lists
from unirank_jax.datasets.records import Example, RankList
from unirank_jax.hub import fingerprint

FORMAT = 1
LISTS, ORDER = ".jsonl.gz", ".first-stage.jsonl.gz"


@dataclass(frozen=True)
class Sizes:
    """How many candidates of each form a query gets, and how many queries there are at most."""

    texts: int
    images: int
    limit: int | None


def top100(dataset: Dataset, split: str, encoder: Path, sizes: Sizes, folder: Path) -> Path:
    """The file of lists in `folder`; it is made where it is not there yet.

    Its name is a hash of the data, the dual encoder in the folder `encoder` and the sizes. Beside
    it lies the order of the first stage (`first_stage_of`).

    Raises:
        DatasetError: the split has no list.
    """
    key = {
        "format": FORMAT,
        "data": dataset.fingerprint,
        "split": split,
        "dual_encoder": fingerprint(encoder),
        **asdict(sizes),
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"top100-{split}-{name}{LISTS}"
    if path.exists():
        return path
    from train.dual import Embedder  # JAX: only when it is needed
    from unirank_jax.loading import load

    embedder = Embedder(load(encoder))
    items = [dataset.item(did) for did in dataset.pool(split)]
    stage = FirstStage(
        items,
        unit_vectors("items", embedder.items, items),
        texts=sizes.texts,
        images=sizes.images,
    )
    examples = distinct(dataset, split, sizes.limit)
    queries = [example.query for example in examples]
    found = stage.search(queries, unit_vectors("queries", embedder.queries, queries))
    folder.mkdir(parents=True, exist_ok=True)
    write_found(path, dataset, split, examples, stage, found)
    return path


def write_found(
    path: Path,
    dataset: Dataset,
    split: str,
    examples: Sequence[Example],
    stage: FirstStage,
    found: Iterable[Retrieved],
) -> None:
    """Write what was found for each example as lists, and the order of the first stage."""
    assessor = Assessor(dataset, split, stage.items)
    lists, orders = [], []
    for example, one in zip(examples, found, strict=True):
        lists.append(ranked(example, one, stage, assessor))
        fused = [float(f"{score:.9g}") for score in one.fused]
        orders.append({"qid": example.query.qid, "dids": lists[-1].dids, "scores": fused})
    write_lines(_order_of(path), map(json_line, orders))
    write_lists(path, lists)  # last: where the lists are, the order is


def ranked(example: Example, found: Retrieved, stage: FirstStage, assessor: Assessor) -> RankList:
    """What was found for a query, as its list."""
    items = [stage.items[int(place)] for place in found.places]
    grades = tuple(assessor.grades(example, items, by_content=True))
    listed = {item.dup_id for item in items}
    wanted = assessor.contents(example)
    wanted.pop(example.query.dup_id, None)  # the query itself cannot be found
    return RankList(
        qid=example.query.qid,
        dids=tuple(item.did for item in items),
        grades=grades,
        neg_types=origins(grades, example.query.rel_min),
        missing=tuple(grade for content, grade in wanted.items() if content not in listed),
    )


def distinct(dataset: Dataset, split: str, limit: int | None) -> list[Example]:
    """The examples of a split without those that ask the same, or `limit` of them evenly spaced.

    Two queries ask the same if their content and their relevant content are the same. A query
    whose only answer is itself is left out.
    """
    seen: set[tuple[str, frozenset[str]]] = set()
    kept = []
    for number, one in enumerate(dataset.lists(split)):
        query = dataset.query(one.qid)
        pairs = zip(one.dids, one.grades, strict=True)
        contents = (dataset.item(did).dup_id for did, grade in pairs if grade >= query.rel_min)
        relevant = frozenset(contents) - {query.dup_id}
        if relevant and (query.dup_id, relevant) not in seen:
            seen.add((query.dup_id, relevant))
            kept.append(number)
    if not kept:
        raise DatasetError(f"{dataset.path}: no query with an answer in split {split!r}")
    count = len(kept) if limit is None else min(limit, len(kept))
    return [dataset.example(split, kept[i * len(kept) // count]) for i in range(count)]


def first_stage_of(path: Path) -> Ranking | None:
    """The order of the first stage that made a file of lists; None where none lies beside it.

    Raises:
        FormatError: lines that cannot be read.
    """
    order = _order_of(path)
    if not order.is_file():
        return None
    problems = Problems()
    found: dict[str, dict[str, float]] = {}
    for number, record in records(order, problems):
        try:
            found[record["qid"]] = dict(zip(record["dids"], record["scores"], strict=True))
        except (KeyError, TypeError, ValueError):
            where, told = f"{order.name}:{number}", "not a qid with as many dids as scores"
            problems.add(where, "line", told, "remove the file of lists and this one")
    problems.raise_any()
    return found


def _order_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(LISTS).removesuffix(".jsonl") + ORDER)

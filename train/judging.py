"""What counts as relevant: lists as the metrics need them, and grades of what a search found.

A pool holds more right answers than a list names. Whoever asks for a drawing by its name finds the
card of the same molecule too: nobody judged it for this query, but it is no wrong answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.records import Example, Item, Query
from unirank_jax.metrics import UNJUDGED, Judged


def judged(example: Example) -> Judged:
    """What the metrics need to know about a list."""
    return Judged(
        qid=example.query.qid,
        grades=tuple(example.grades),
        rel_min=example.query.rel_min,
        kind=example.query.kind,
        modalities=tuple(item.modality for item in example.candidates),
        missing=tuple(example.missing),
    )


def cut(whole: Judged, places: Sequence[int]) -> Judged:
    """A list with only the candidates at `places`; those with a grade that fell out are missing."""
    kept = set(places)
    lost = [g for place, g in enumerate(whole.grades) if place not in kept and g > 0]
    return Judged(
        qid=whole.qid,
        grades=tuple(whole.grades[place] for place in places),
        rel_min=whole.rel_min,
        kind=whole.kind,
        modalities=tuple(whole.modalities[place] for place in places),
        missing=(*whole.missing, *lost),
    )


class Assessor:
    """Grades what a search over the pool of a split found.

    A query means its own object, every object that shares content with it (two isomers that are
    drawn alike), and every object about which a query with the same content asks (two articles
    named "Oak chair"); the builders of lists take no negatives from them either. Items of these
    objects that the query's list does not judge get -1: masked in losses, dropped in metrics.

    Args:
        dataset, split: whose queries count.
        items: the pool.
    """

    def __init__(self, dataset: Dataset, split: str, items: Iterable[Item]) -> None:
        self._objects: dict[str, set[str]] = defaultdict(set)  # content -> the objects that show it
        self._contents: dict[str, set[str]] = defaultdict(set)  # object -> what its items show
        for item in items:
            self._objects[item.dup_id].add(item.unit_id)
            self._contents[item.unit_id].add(item.dup_id)
        for ranked in dataset.lists(split):
            query = dataset.query(ranked.qid)
            self._objects[query.dup_id].add(query.unit_id)

    def grades(
        self, example: Example, found: Sequence[Item], *, by_content: bool = False
    ) -> list[int]:
        """The grade of each found item: as judged on the list of the query, -1, or 0.

        With `by_content`, what equals a relevant candidate (same dup_id) has its grade.
        """
        known = dict(zip((item.did for item in example.candidates), example.grades, strict=True))
        contents = self.contents(example) if by_content else {}
        meant = self._meant(example.query)

        def grade(item: Item) -> int:
            if item.did in known:
                return max(known[item.did], contents.get(item.dup_id, UNJUDGED))
            if item.dup_id in contents:
                return contents[item.dup_id]
            return UNJUDGED if item.unit_id in meant else 0

        return [grade(item) for item in found]

    @staticmethod
    def contents(example: Example) -> dict[str, int]:
        """Content (dup_id) of the candidates with a grade above 0 -> the highest such grade."""
        found: dict[str, int] = {}
        for item, grade in zip(example.candidates, example.grades, strict=True):
            if grade > 0:
                found[item.dup_id] = max(grade, found.get(item.dup_id, 0))
        return found

    def _meant(self, query: Query) -> set[str]:
        """The objects that the query may mean."""
        contents = {query.dup_id} | self._contents.get(query.unit_id, set())
        sets = (self._objects.get(content, set()) for content in contents)
        return {query.unit_id}.union(*sets)


def origins(grades: Sequence[int], rel_min: int) -> tuple[str, ...]:
    """How candidates that a search found came onto a list, by their grades."""
    return tuple(
        "unjudged" if grade < 0 else "positive" if grade >= rel_min else "retrieved"
        for grade in grades
    )

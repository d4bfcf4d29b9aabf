"""Which items of a pool count as relevant, wrong or unjudged for a query."""

from __future__ import annotations

from pathlib import Path

from train.judging import Assessor, cut, judged
from unirank_jax.content import ImagePart, TextPart, modality
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.records import Item, Query, RankList, dup_id_of
from unirank_jax.metrics import Judged, list_metrics


def item(unit: str, kind: str, content: str | bytes) -> Item:
    part = TextPart(content) if isinstance(content, str) else ImagePart(content)
    did, dup = f"{unit}.{kind}", dup_id_of(content)
    return Item(did, (part,), modality((part,)), unit, "f", kind, unit, dup, "made", "CC0-1.0")


ITEMS = [
    item("ethanol", "name", "ethanol"),
    item("ethanol", "drawing", b"ethanol"),
    item("ethanol", "card", "C2H6O, alcohol"),
    item("left", "name", "(S)-butanol"),
    item("left", "drawing", b"butanol"),  # drawn as the other hand
    item("left", "card", "C4H10O, left"),
    item("right", "name", "(R)-butanol"),
    item("right", "drawing", b"butanol"),
    item("right", "card", "C4H10O, right"),
    item("chair 1", "drawing", b"chair 1"),
    item("chair 2", "drawing", b"chair 2"),
]
ASKED = {  # qid: (unit, content, judged items with grades)
    "drawing": ("ethanol", "ethanol", {"ethanol.drawing": 1, "left.drawing": 0}),
    "left": ("left", "(S)-butanol", {"left.drawing": 1, "ethanol.drawing": 0}),
    "chair": ("chair 1", "oak chair", {"chair 1.drawing": 2, "ethanol.drawing": 0}),
    "other chair": ("chair 2", "Oak  Chair", {"chair 2.drawing": 2, "ethanol.card": 0}),
}


class Pool(Dataset):
    path, fingerprint, splits = Path("pool"), "0", ("test",)

    def lists(self, split):
        return [
            RankList(qid, tuple(known), tuple(known.values()), ("",) * len(known))
            for qid, (_, _, known) in ASKED.items()
        ]

    def query(self, qid):
        unit, text, _ = ASKED[qid]
        return Query(qid, (TextPart(text),), None, "d", "k", unit, unit, dup_id_of(text))

    def item(self, did):
        return next(one for one in ITEMS if one.did == did)

    def items_of(self, split):
        return ITEMS


def grades(qid: str, *, by_content: bool) -> dict[str, int]:
    data = Pool()
    example = data.example("test", list(ASKED).index(qid))
    found = Assessor(data, "test", ITEMS).grades(example, ITEMS, by_content=by_content)
    return {one.did: grade for one, grade in zip(ITEMS, found, strict=True)}


def test_unjudged_items_of_the_query_s_own_object_are_neither_right_nor_wrong() -> None:
    found = grades("drawing", by_content=True)
    assert found["ethanol.drawing"] == 1
    assert found["ethanol.card"] == found["ethanol.name"] == -1
    assert set(found.values()) == {1, -1, 0} and list(found.values()).count(0) == 8


def test_what_equals_a_relevant_item_is_relevant_where_asked_for() -> None:
    found = grades("left", by_content=True)
    assert found["left.drawing"] == found["right.drawing"] == 1
    assert found["right.card"] == -1, "the objects share content: lists never set them against"
    assert found["ethanol.card"] == 0
    assert grades("left", by_content=False)["right.drawing"] == -1


def test_an_object_about_which_the_same_is_asked_is_no_negative() -> None:
    found = grades("chair", by_content=True)
    assert found["chair 1.drawing"] == 2 and found["chair 2.drawing"] == -1
    assert found["ethanol.drawing"] == 0


def test_candidates_that_fall_off_a_list_are_missing() -> None:
    whole = Judged("q", (0, 2, 1, -1, 0, 1), 1, "k", ("text",) * 6, (1,))
    short = cut(whole, [1, 3, 0])
    assert short == Judged("q", (2, -1, 0), 1, "k", ("text",) * 3, (1, 1, 1))
    assert short.relevant == whole.relevant
    assert list_metrics([3.0, 2.0, 1.0], short, ("recall@1",)) == {"recall@1": 0.25}
    assert cut(whole, range(6)) == whole


def test_a_list_as_the_metrics_need_it() -> None:
    data = Pool()
    assert judged(data.example("test", 0)) == Judged("drawing", (1, 0), 1, "k", ("image", "image"))

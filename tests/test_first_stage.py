"""The first stage on a pool whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from train.first_stage import BM25, DENSE, FirstStage
from unirank_jax.content import ImagePart, TextPart, modality
from unirank_jax.datasets.records import Item, Query


def item(did: str, *contents: str | bytes) -> Item:
    parts = tuple(TextPart(c) if isinstance(c, str) else ImagePart(c) for c in contents)
    return Item(did, parts, modality(parts), did, "f", "k", did, f"dup {did}", "made", "CC0-1.0")


def query(text: str | None, dup_id: str = "none") -> Query:
    parts = (ImagePart(b"?"),) if text is None else (TextPart(text),)
    return Query("q", parts, None, "d", "k", "", "", dup_id)


POOL = [
    item("beta", "alpha beta"),
    item("gamma", "alpha gamma"),
    item("delta", "delta"),
    item("one", b"1"),
    item("two", b"2"),
    item("both", b"3", "alpha beta"),
]
# angles between the query at 0 and the items; dense alone prefers delta and two
VECTORS = np.array([[np.cos(a), np.sin(a)] for a in (1.0, 1.2, 0.1, 0.9, 0.2, 0.5)], np.float32)
AHEAD = np.array([[1.0, 0.0]], np.float32)


def search(stage: FirstStage, asked: Query) -> list[str]:
    (found,) = stage.search([asked], AHEAD)
    return [stage.items[place].did for place in found.places]


def test_texts_and_images_have_their_own_places() -> None:
    stage = FirstStage(POOL, VECTORS, texts=2, images=2)
    found = search(stage, query("alpha beta"))
    # By hand, 1 / (61 + place) for each retriever: beta 1/62 + 1/61, both (an image with words)
    # the same and later in the pool, gamma 1/63 + 1/62, two 1/61; delta has 1/61 and no word.
    assert found == ["beta", "both", "gamma", "two"]
    assert "one" not in found


def test_raw_scores_are_those_of_each_retriever() -> None:
    stage = FirstStage(POOL, VECTORS, texts=3, images=3)
    (found,) = stage.search([query("alpha")], AHEAD)
    dense = dict(zip(found.places.tolist(), found.raw[DENSE], strict=True))
    assert dense == pytest.approx({i: float(VECTORS[i, 0]) for i in range(6)})
    lexical = dict(zip(found.places.tolist(), found.raw[BM25], strict=True))
    assert np.isnan(lexical[3]) and np.isnan(lexical[4]), "an image alone has no words"
    assert lexical[0] > 0 and lexical[5] > 0 and lexical[2] == 0


def test_an_image_query_is_searched_by_the_dual_encoder_alone() -> None:
    stage = FirstStage(POOL, VECTORS, texts=1, images=1)
    (found,) = stage.search([query(None)], AHEAD)
    assert {stage.items[place].did for place in found.places} == {"delta", "two"}
    assert np.isnan(found.raw[BM25]).all()


def test_the_query_itself_is_never_found() -> None:
    stage = FirstStage(
        [*POOL, item("beta", "alpha beta")], np.vstack([VECTORS, AHEAD]), texts=9, images=9
    )
    assert "beta" not in search(stage, query("alpha beta", "dup beta"))
    assert len(search(stage, query("alpha beta"))) == 7


def test_many_queries_equal_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(7, 2)).astype(np.float32)
    asked = [query(word) for word in ("alpha", "beta", "gamma", "delta", "none", "x", "alpha")]
    stage = FirstStage(POOL, VECTORS, texts=2, images=2)
    together = list(stage.search(asked, vectors))
    monkeypatch.setattr("train.first_stage.CHUNK", 3)
    for found, again in zip(together, stage.search(asked, vectors), strict=True):
        np.testing.assert_array_equal(found.places, again.places)


def test_a_wrong_number_of_vectors_is_told() -> None:
    with pytest.raises(ValueError, match="2 vectors for 6 items"):
        FirstStage(POOL, VECTORS[:2], texts=1, images=1)

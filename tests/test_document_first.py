"""The prompt with the document first: scores of the whole string, and what is kept of a corpus."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_reranker
from flax import nnx
from tiny_reranker import QUERY, picture

from unirank_jax.batch import WHOLE, Batch
from unirank_jax.content import ContentError, parse
from unirank_jax.engine import MAX_PROGRAMS
from unirank_jax.layers import Compute
from unirank_jax.loading import load
from unirank_jax.model import score
from unirank_jax.packing import compact_needs, needs, pack
from unirank_jax.prompt import DOCUMENT_FIRST, Encoded
from unirank_jax.reranker import Reranker
from unirank_jax.scoring_config import ScoringConfig
from unirank_jax.store import StoreError, quantised

ASKED = [QUERY, {"text": "like this", "image": picture(48, 72, 7)}, "a longer one " * 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_reranker.save(tmp_path_factory.mktemp("model") / "m", DOCUMENT_FIRST, 320)


@pytest.fixture(scope="module")
def model(folder: Path) -> Reranker:
    return load(folder)


@pytest.fixture(scope="module")
def corpus() -> list[Any]:
    return tiny_reranker.candidates()


@pytest.fixture(scope="module")
def expected(model: Reranker, corpus: list[Any]) -> np.ndarray:
    """(3, 24): every pair as one sequence, nothing shared, through the plain forward pass."""
    graph, state = nnx.split(model.engine.model)
    rows = [joined(model, query, content) for query in ASKED for content in corpus]
    batch = plain(model, rows)
    found = jax.jit(
        lambda state, batch: score(
            nnx.merge(graph, state), batch, model.prompt.label_ids, Compute("float32")
        )
    )(state, batch)
    return np.asarray(found)[0].reshape(len(ASKED), len(corpus))


def plain(model: Reranker, rows: list[Encoded]) -> Batch:
    """Rows without prefixes."""
    nothing = [Encoded(np.zeros(0, np.int32), (), False, "")]
    return pack(model.engine.config, nothing, rows, [0] * len(rows), needs(nothing, rows))


def joined(model: Reranker, query: Any, content: Any) -> Encoded:
    prompt = model.prompt
    sides = [
        prompt.static(),
        prompt.candidate(parse(content, "c"), "c", 0),
        prompt.query(parse(query, "q")),
    ]
    tokens = np.concatenate([side.tokens for side in sides])
    return Encoded(tokens, tuple(i for side in sides for i in side.images), False, "")


def close(found: Any, expected: np.ndarray, share: float = 1e-4) -> None:
    assert expected.std() > 1.0
    np.testing.assert_allclose(np.stack(found), expected, rtol=0, atol=share * expected.std())


def test_scores_are_those_of_the_whole_string(
    model: Reranker, corpus: list[Any], expected: np.ndarray
) -> None:
    close([model.logits(query, corpus) for query in ASKED], expected)
    close(model.logits_many(ASKED, [corpus] * 3), expected)
    alone = [model.logits(ASKED[1], [content])[0] for content in corpus]
    close([alone], expected[1:2])


def test_a_store_gives_the_same_scores(
    folder: Path, corpus: list[Any], expected: np.ndarray, tmp_path: Path
) -> None:
    model = load(folder, scoring=ScoringConfig(token_budget=300, cache_bytes=0))
    memory = model.index(corpus)
    assert len(memory) == memory.kept == 24 and not memory.errors
    width = 2 * 4 * memory.shape.layers * memory.shape.heads * memory.shape.size
    assert memory.nbytes == width * sum(len(one) for one in memory)
    close([model.logits(query, memory) for query in ASKED], expected)
    some = [memory[5], corpus[7], memory[-1], *memory[2:4]]
    close([model.logits(ASKED[1], some)], expected[1:2, [5, 7, 23, 2, 3]])
    close(model.logits_many(ASKED, [memory] * 3), expected)
    ranked = model.rank(QUERY, memory)
    assert [one.index for one in ranked] == np.argsort(-expected[0], kind="stable").tolist()

    disk = model.index(corpus, folder=tmp_path / "store")
    assert disk.nbytes == memory.nbytes == (tmp_path / "store" / "shard-00000.bin").stat().st_size
    close([model.logits(query, disk) for query in ASKED], expected)
    other = load(folder)
    close([other.logits(query, other.open_store(tmp_path / "store")) for query in ASKED], expected)


def test_int8_keeps_a_quarter_of_the_bytes_and_nearly_the_scores(
    model: Reranker, corpus: list[Any], expected: np.ndarray, tmp_path: Path
) -> None:
    whole = model.index(corpus)
    store = model.index(corpus, int8=True)
    size = whole.shape.size
    assert store.nbytes * 4 * size == whole.nbytes * (size + 4)
    found = np.stack([model.logits(query, store) for query in ASKED])
    close(found, expected, 0.1)
    assert np.abs(found - expected).max() > 1e-4 * expected.std(), "it is rounded"
    assert len(np.unique(found)) == found.size, "no ties"
    disk = model.index(corpus, int8=True, folder=tmp_path / "store")
    np.testing.assert_array_equal(
        [model.logits(query, disk) for query in ASKED],
        [model.logits(query, store) for query in ASKED],
    )


def test_quantising_rounds_to_half_a_step_and_keeps_zeros() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 5, 2, 8)).astype(np.float32)
    values[0, 0, 0] = 0.0
    entry = quantised(values)
    assert entry.scales is not None and entry.values.dtype == np.int8
    back = entry.values * entry.scales[..., None]
    step = np.abs(values).max(-1, keepdims=True) / 127
    assert (np.abs(back - values) <= 0.5001 * step).all()
    assert (np.abs(entry.values).max(-1)[np.abs(values).max(-1) > 0] == 127).all()
    assert not back[0, 0, 0].any()


def test_indexing_goes_on_where_it_stopped(
    model: Reranker, corpus: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unirank_jax.indexing.SHARD", 10)
    monkeypatch.setattr("unirank_jax.store.SHARD", 10)
    computed: list[int] = []
    documents = model.engine.documents

    def counted(static: Any, items: Any) -> Any:
        computed.append(len(items))
        if len(computed) == 2:
            raise KeyboardInterrupt
        return documents(static, items)

    monkeypatch.setattr(model.engine, "documents", counted)
    with pytest.raises(KeyboardInterrupt):
        model.index(corpus, folder=tmp_path / "store")
    with pytest.raises(StoreError, match="shard 1 is missing; index the same items into it again"):
        model.open_store(tmp_path / "store")
    model.index(corpus, folder=tmp_path / "store")
    assert computed == [10, 10, 10, 4], "the first shard is not computed again"
    first = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    changed = [*corpus[:15], "another", *corpus[16:]]
    store = model.index(changed, folder=tmp_path / "store")
    assert computed[4:] == [10], "only the shard with the other item"
    assert len(store) == 24
    again = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    assert {name for name in first if first[name] != again[name]} == {
        "shard-00001.bin",
        "shard-00001.json",
    }


def test_what_exceeds_the_budget_is_computed_anew(
    model: Reranker, corpus: list[Any], expected: np.ndarray, tmp_path: Path
) -> None:
    whole = model.index(corpus).nbytes
    store = model.index(corpus, budget_bytes=whole // 3)
    assert 0 < store.kept < 24 and whole // 4 < store.nbytes <= whole // 3
    close([model.logits(QUERY, store)], expected[:1])
    model.index(corpus, budget_bytes=whole // 3, folder=tmp_path / "store")
    opened = model.open_store(tmp_path / "store")
    found = model.logits(QUERY, opened, on_error="nan")
    kept = ~np.isnan(found)
    assert kept.sum() == store.kept
    close([found[kept]], expected[:1, kept])
    with pytest.raises(ContentError, match=r"left out of the store.* larger budget_bytes"):
        model.logits(QUERY, opened)


def test_a_bad_item_has_its_own_error(model: Reranker, tmp_path: Path) -> None:
    given = ["good", b"no image", "also good"]
    with pytest.raises(ContentError, match=r"^items\[1\]"):
        model.index(given)
    store = model.index(given, on_error="nan", folder=tmp_path / "store")
    assert list(store.errors) == [1]
    ranked = model.rank(QUERY, store, on_error="nan")
    assert ranked[-1].index == 1 and "in the store: items[1]" in (ranked[-1].error or "")
    with pytest.raises(ContentError, match=r"^candidates\[1\]: in the store"):
        model.score(QUERY, store)
    cut = model.index(["word " * 500])
    assert model.rank(QUERY, cut)[0].truncated


def test_stores_of_other_models_are_refused(
    model: Reranker, corpus: list[Any], tmp_path: Path
) -> None:
    other = load(tiny_reranker.save(tmp_path / "other", DOCUMENT_FIRST, 320, seed=1))
    for store in (model.index(corpus[:2]), model.index(corpus[:2], folder=tmp_path / "store")):
        with pytest.raises(ContentError, match="another model's store"):
            other.score(QUERY, store)
    with pytest.raises(StoreError, match="another model"):
        other.open_store(tmp_path / "store")
    with pytest.raises(StoreError, match="model differ"):
        other.index(corpus[:2], folder=tmp_path / "store")
    with pytest.raises(StoreError, match=r"shape differ|count differ"):
        model.index(corpus[:2], folder=tmp_path / "store", int8=True)
    plain = load(tiny_reranker.save(tmp_path / "plain", "unirank-native-1"))
    with pytest.raises(StoreError, match=f"data.prompt_id={DOCUMENT_FIRST}"):
        plain.index(corpus[:2])
    with pytest.raises(ContentError, match="another model's store"):
        plain.score(QUERY, model.index(corpus[:2]))


def test_damaged_stores_are_refused(model: Reranker, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with pytest.raises(StoreError, match=r"no store.json; make it with Reranker.index"):
        model.open_store(folder)
    model.index(["a", "b"], folder=folder)
    data = folder / "shard-00000.bin"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(StoreError, match=r"shard-00000.bin: \d+ bytes instead of \d+"):
        model.open_store(folder)
    (folder / "shard-00000.json").write_text("[{]")
    with pytest.raises(StoreError, match=r"shard-00000.json: not the notes of a shard"):
        model.open_store(folder)
    (folder / "store.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(StoreError, match="format 99, this package reads 1"):
        model.open_store(folder)


def test_programs_are_few_over_mixed_sizes(folder: Path, corpus: list[Any]) -> None:
    model = load(folder)
    store = model.index(corpus)
    random = np.random.default_rng(0)
    for _ in range(12):
        count = int(random.integers(1, 24))
        chosen = random.permutation(24)[:count].tolist()
        asked = ASKED[int(random.integers(3))]
        model.logits(asked, [corpus[i] for i in chosen])
        model.logits(asked, [store[i] for i in chosen])
    assert model.engine.programs <= MAX_PROGRAMS


def test_rows_after_stored_documents_have_programs_of_their_own(
    folder: Path, corpus: list[Any]
) -> None:
    """They run in the sizes that they need, whatever ran after documents that were computed."""
    chosen = []
    for mixed in (False, True):
        model = load(folder)
        store = model.index(corpus)
        if mixed:
            model.logits(ASKED[2], corpus)
        before = Counter(model.engine.buckets)
        model.logits(QUERY, store)
        chosen.append(Counter(model.engine.buckets) - before)
    assert chosen[0] and chosen[0] == chosen[1]


def test_gradients_equal_those_of_whole_strings(model: Reranker, corpus: list[Any]) -> None:
    """The training batch with its three levels, without padding, against plain rows."""
    prompt, config = model.prompt, model.engine.config
    asked = [prompt.query(parse(query, "q")) for query in ASKED[:2]]
    found = [prompt.candidate(parse(content, "c"), "c", 0) for content in corpus[:6]]
    pairs = [(q, c) for q in range(2) for c in range(3 * q, 3 * q + 3)]
    prefixes, rows = [found[c] for _, c in pairs], [asked[q] for q, _ in pairs]
    need = compact_needs(prefixes, rows, lambda digest: 0)
    bucket = replace(
        need,
        cells=need.cells + 7,
        prefix_cells=need.prefix_cells + 9,
        rows=8,
        outer=64,
        second=WHOLE,
        third=WHOLE,
        fourth=WHOLE,
    )
    shared = pack(config, prefixes, rows, range(6), bucket, prompt.static())
    each = replace(bucket, prefixes=8)
    with pytest.raises(ValueError, match="row b continues prefix b, not"):
        pack(config, prefixes, rows, [0, *range(5)], each, prompt.static())
    whole = [joined(model, ASKED[q], corpus[c]) for q, c in pairs]
    graph, state = nnx.split(model.engine.model)
    weights = np.random.default_rng(0).normal(size=6).astype(np.float32)

    def loss(state: Any, batch: Any) -> jax.Array:
        logits = score(nnx.merge(graph, state), batch, prompt.label_ids, Compute("float32"))
        return jnp.tanh(logits[0, :6] / 10) @ weights

    other, second = jax.jit(jax.value_and_grad(loss))(state, plain(model, whole))
    for batch in (shared, pack(config, prefixes, rows, range(6), each, prompt.static())):
        one, first = jax.jit(jax.value_and_grad(loss))(state, batch)
        assert one == pytest.approx(float(other), rel=1e-5)
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
            largest = float(jnp.abs(b).max())
            assert largest > 0
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * largest)

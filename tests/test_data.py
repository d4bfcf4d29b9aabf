"""The data pipeline: a plan that is a pure function, buckets that hold, one integer of state."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run

from train import data, sizes
from train.batch_shapes import choose_buckets, fitting
from train.plan import EvaluationPlan, PlanSettings, TrainPlan, repeats, sample
from train.sizes import Index, PlanError, build_index, cached_index
from unirank_jax import sharding
from unirank_jax.batch import Bucket
from unirank_jax.config import ModelConfig, preset
from unirank_jax.content import ContentError
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.images import ImageSpec
from unirank_jax.prompt import Prompt
from unirank_jax.tokenizer import Tokenizer

SETTINGS = PlanSettings(
    seed=3,
    micro_batches=1,
    shards=1,
    lists=4,
    list_size=4,
    max_positives=1,
    min_other_modality=1,
    kind_power=1.0,
    length_window=2,
    max_tokens=320,
    buckets=2,
)


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return preset("tiny")


@pytest.fixture(scope="module")
def prompt(config: ModelConfig) -> Prompt:
    vision = config.vision
    spec = ImageSpec(vision.patch_size, vision.merge_size, 1, 6)
    return Prompt(Tokenizer.from_file(tiny_run.TOKENIZER), "unirank-native-1", spec, 320, 48)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(tiny_run.dataset_folder(tmp_path_factory.mktemp("data") / "d", lists=18))


@pytest.fixture(scope="module")
def index(dataset: Dataset, prompt: Prompt) -> Index:
    return build_index(dataset, "train", prompt)


def random_index(lists: int, seed: int = 0) -> Index:
    """Lists of 3 to 12 candidates with grades -1 to 2, images and widely different lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 13, lists)
    total, unique = int(lengths.sum()), 200
    is_image = rng.random(unique) < 0.4
    tokens = np.where(is_image, 24, rng.geometric(0.02, unique).clip(4, 280))
    return Index(
        queries=np.array([f"q{n}" for n in range(lists)]),
        kinds=np.array(["a"] * lists),
        query_sizes=np.stack(
            [rng.integers(60, 130, lists), np.zeros(lists, int), np.zeros(lists, int)], 1
        ).astype(np.int32),
        rel_min=rng.integers(1, 3, lists).astype(np.int32),
        starts=np.cumsum([0, *lengths]),
        items=rng.integers(0, unique, total).astype(np.int32),
        grades=rng.integers(-1, 3, total).astype(np.int32),
        missed=np.zeros(lists, np.int32),
        item_ids=np.array([f"d{n}" for n in range(unique)]),
        item_sizes=np.stack([tokens, is_image, is_image * 64], 1).astype(np.int32),
        item_modality=np.where(is_image, "image", "text"),
    )


def numbers(plan: TrainPlan, batch: int) -> list[int]:
    """The lists of a global batch in order."""
    return [c.number for micro in plan[batch].lists for shard in micro for c in shard]


# The plan -----------------------------------------------------------------------------------------


def test_the_plan_is_a_pure_function_of_the_seed_and_the_batch_number() -> None:
    index = random_index(50)
    one, other = TrainPlan(index, SETTINGS), TrainPlan(index, SETTINGS)
    wanted = [7, 0, 33, 12, 13, 7]
    for number in wanted:
        a, b = one[number], other[number]
        assert a.bucket == b.bucket
        assert str(a.lists) == str(b.lists)
    changed = TrainPlan(index, replace(SETTINGS, seed=4))
    assert [numbers(changed, n) for n in range(5)] != [numbers(one, n) for n in range(5)]


def test_an_epoch_takes_every_list_at_most_once_and_epochs_differ() -> None:
    plan = TrainPlan(random_index(50), SETTINGS)
    assert plan.per_epoch == 12
    epochs = [[n for b in range(12) for n in numbers(plan, e * 12 + b)] for e in range(3)]
    for taken in epochs:
        assert len(taken) == len(set(taken)) == 48
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(set(epochs[0]) | set(epochs[1]) | set(epochs[2])) == 50


def test_shards_and_micro_batches_cut_the_same_global_batch() -> None:
    index = random_index(50)
    whole = TrainPlan(index, SETTINGS)
    for micro_batches, shards, lists in ((1, 4, 1), (2, 2, 1), (4, 1, 1), (1, 2, 2)):
        cut = replace(SETTINGS, micro_batches=micro_batches, shards=shards, lists=lists)
        plan = TrainPlan(index, cut)
        for number in (0, 5, 17):
            assert numbers(plan, number) == numbers(whole, number)
            assert len(plan[number].lists) == micro_batches
            assert {len(shard) for micro in plan[number].lists for shard in micro} == {lists}


def test_a_dataset_smaller_than_a_batch_repeats_its_lists() -> None:
    plan = TrainPlan(random_index(3), SETTINGS)
    assert plan.per_epoch == 1
    assert set(numbers(plan, 0)) == {0, 1, 2} and len(numbers(plan, 0)) == 4


def test_sampled_candidates_follow_the_rules() -> None:
    index = random_index(200)
    settings = replace(SETTINGS, list_size=6, max_positives=2, min_other_modality=2)
    seen_two = mixed = 0
    for number in range(200):
        chosen = sample(index, number, 0, settings, draw=number)
        grades = index.grades[chosen.slots]
        relevant = grades >= index.rel_min[number]
        available = index.relevant(number).sum()
        assert (grades >= 0).all()  # an unjudged candidate is never used
        assert relevant.sum() == min(2, available)
        assert len(chosen.slots) == len(set(chosen.slots)) <= 6
        assert (chosen.slots >= index.starts[number]).all()
        assert (chosen.slots < index.starts[number + 1]).all()
        seen_two += relevant.sum() == 2
        if relevant.any():
            modality = index.item_modality[index.items]
            slots = np.arange(index.starts[number], index.starts[number + 1])
            others = slots[(index.grades[slots] >= 0) & ~index.relevant(number)]
            own = modality[chosen.slots[0]]
            room = 6 - relevant.sum()
            for kind in (True, False):
                have = ((modality[others] == own) == kind).sum()
                got = ((modality[chosen.slots[~relevant]] == own) == kind).sum()
                assert got >= min(2, have, room // 2)
                mixed += 0 < have
    assert seen_two > 20 and mixed > 100
    again = sample(index, 5, 1, settings, draw=5)
    assert any(
        set(sample(index, n, 0, settings, draw=n).slots)
        != set(sample(index, n, 1, settings, draw=n).slots)
        for n in range(20)
    ), again


def test_lists_without_any_relevant_candidate_in_the_whole_split_are_refused() -> None:
    index = random_index(10)
    with pytest.raises(PlanError, match="no list has a relevant candidate"):
        TrainPlan(replace(index, grades=np.zeros_like(index.grades)), SETTINGS)


# Buckets ------------------------------------------------------------------------------------------


def test_few_buckets_hold_every_batch() -> None:
    index = random_index(120)
    plan = TrainPlan(index, replace(SETTINGS, buckets=3))
    assert len(plan.buckets) <= 3
    used = {plan[number].bucket for number in range(90)}
    assert used <= {bucket.padded_where_full for bucket in plan.buckets} and len(used) > 1


def test_grouping_by_length_and_blocks_of_rows_narrow_attention() -> None:
    index = random_index(400)

    def cells(window: int, blocks: bool) -> int:
        plan = TrainPlan(index, replace(SETTINGS, length_window=window, buckets=4))
        buckets = [plan[number].bucket for number in range(100)]
        if not blocks:
            return sum(bucket.rows * bucket.tokens for bucket in buckets)
        return sum(rows * width for bucket in buckets for rows, width in bucket.blocks.sizes)

    assert cells(16, False) < 0.95 * cells(1, False)
    assert cells(16, True) < 0.6 * cells(16, False)
    assert cells(1, True) < 0.4 * cells(1, False), "blocks alone do more, in batches all alike"


def test_buckets_are_joined_where_it_costs_least() -> None:
    small, near, large = (Bucket(1, 32, 4, t, 0, 0) for t in (32, 48, 256))
    assert choose_buckets([small] * 9 + [near] * 2 + [large], None, 2) == (near, large)
    assert choose_buckets([small], large, 2) == (small, large)
    assert fitting(Bucket(1, 20, 4, 40, 0, 0), (near, large)) == near
    full = Bucket(1, 20, 4, 40, 2, 64, cells=160, patch_cells=128)
    assert fitting(full, (full,)) == replace(full, cells=0, patch_cells=0), "padding is computed"
    with pytest.raises(PlanError, match="no bucket holds"):
        fitting(Bucket(1, 20, 4, 300, 0, 0), (near, large))


def test_the_planned_bucket_holds_what_is_packed(
    dataset: Dataset, index: Index, prompt: Prompt, config: ModelConfig
) -> None:
    plan = TrainPlan(index, replace(SETTINGS, buckets=3))
    encoder = data.Encoder(dataset, index, prompt, config, SETTINGS)
    for number in range(8):
        planned = plan[number]
        ((lists,),) = planned.lists
        (micro,) = encoder.shard(lists, planned.bucket)  # raises when anything does not fit
        lengths, rows = micro.batch.rows.lengths[0], micro.targets.label_row[0]
        for g, chosen in enumerate(lists):
            grades = index.grades[chosen.slots]
            assert micro.targets.list_id[0, g] == chosen.number
            assert micro.targets.mask[0, g].sum() == len(grades) == 4
            assert micro.targets.grade[0, g].tolist() == grades.tolist()
            assert (lengths[rows[g]] > 0).all()
            assert (micro.batch.prefix_index[0, rows[g]] == g).all()


def test_long_texts_are_cut_and_still_fit(
    prompt: Prompt, config: ModelConfig, tmp_path: Path
) -> None:
    text = "compound with carbon and oxygen " * 60
    lines = [
        f'{{"qid": "{n}", "query": {{"text": "{text}"}}, "candidates": ['
        f'{{"text": "{text}", "grade": 1}}, {{"text": "short", "grade": 0}}]}}\n'
        for n in range(2)
    ]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    dataset = Dataset.open(tmp_path)
    index = build_index(dataset, "train", prompt)
    settings = replace(SETTINGS, lists=2, list_size=2)
    planned = TrainPlan(index, settings)[0]
    ((lists,),) = planned.lists
    (micro,) = data.Encoder(dataset, index, prompt, config, settings).shard(lists, planned.bucket)
    whole = micro.batch.prefix.lengths.max() + micro.batch.rows.lengths.max()
    assert whole == 320
    assert planned.bucket.tokens == 256  # what the query leaves of 320, rounded up


# The index ----------------------------------------------------------------------------------------


def test_the_index_is_read_once_per_data_prompt_and_budget(
    dataset: Dataset, prompt: Prompt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached_index(dataset, "train", prompt, tmp_path)
    calls: list[str] = []
    monkeypatch.setattr(sizes, "build_index", lambda *a, **k: calls.append(a[1]) or first)
    second = cached_index(dataset, "train", prompt, tmp_path)
    assert not calls
    for name in ("queries", "items", "grades", "starts", "item_sizes", "query_sizes"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    other = ImageSpec(prompt.spec.patch_size, prompt.spec.merge_size, 2, 4)
    cached_index(
        dataset, "train", Prompt(prompt.tokenizer, prompt.prompt_id, other, 320, 48), tmp_path
    )
    cached_index(dataset, "valid", prompt, tmp_path)
    monkeypatch.setenv(sizes.SHARED, str(tmp_path / "shared"))
    cached_index(dataset, "valid", prompt, tmp_path)
    assert calls == ["train", "valid", "valid"] and len(list((tmp_path / "shared").iterdir())) == 1


def test_a_picture_that_cannot_be_read_is_named_by_its_candidate(
    prompt: Prompt, tmp_path: Path
) -> None:
    folder = tiny_run.dataset_folder(tmp_path / "d", lists=4)
    (folder / "blue-circle.png").write_bytes(b"not a picture")
    with pytest.raises(ContentError, match=r"^candidate .*image"):
        build_index(Dataset.open(folder), "train", prompt)


def test_a_split_without_lists_is_refused(prompt: Prompt, dataset: Dataset) -> None:
    with pytest.raises(PlanError, match="'test' has no list"):
        build_index(dataset, "test", prompt)


# Evaluation ---------------------------------------------------------------------------------------


def test_evaluation_takes_whole_lists_evenly_and_keeps_the_relevant_ones() -> None:
    index = random_index(60)
    settings = replace(SETTINGS, lists=4, list_size=5)
    plan = EvaluationPlan(index, settings, 30)
    chosen = [c for n in range(len(plan)) for shard in plan[n].lists[0] for c in shard]
    usable = [n for n in range(60) if index.relevant(n).any()]
    assert len(chosen) == 30 and len({c.number for c in chosen}) == 30
    assert {c.number for c in chosen} <= set(usable)
    for c in chosen:
        everything = np.arange(index.starts[c.number], index.starts[c.number + 1])
        kept = index.relevant(c.number)[c.slots - index.starts[c.number]].sum()
        assert len(c.slots) == min(5, len(everything))
        assert kept == min(5, index.relevant(c.number).sum())
    assert str(EvaluationPlan(index, settings, 30).batches) == str(plan.batches)


# On the devices -----------------------------------------------------------------------------------


def test_the_state_is_one_integer(
    dataset: Dataset, index: Index, prompt: Prompt, config: ModelConfig
) -> None:
    mesh = sharding.mesh(1, 1, 1, jax.devices()[:1])
    plan = TrainPlan(index, SETTINGS)
    encoder = data.Encoder(dataset, index, prompt, config, SETTINGS)
    straight = list(islice(data.train_batches(plan, encoder, mesh, 0, 2, 2), 6))
    resumed = list(islice(data.train_batches(plan, encoder, mesh, 4, 1, 1), 2))
    assert [item.position for item in straight] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(straight[4:], resumed, strict=True):
        assert (a.position, a.ids) == (b.position, b.ids)
        jax.tree.map(np.testing.assert_array_equal, a.batch, b.batch)
    assert set(straight[0].ids) <= {f"train-{n}" for n in range(18)} and len(straight[0].ids) == 4


def test_shards_lie_where_the_mesh_wants_them(
    dataset: Dataset,
    index: Index,
    prompt: Prompt,
    config: ModelConfig,
    eight_devices: list[jax.Device],
) -> None:
    mesh = sharding.mesh(2, 2, 2, eight_devices)
    assert data.local_shards(mesh) == [0, 1, 2, 3]
    plan = TrainPlan(index, replace(SETTINGS, micro_batches=2, shards=4, lists=1))
    encoder = data.Encoder(dataset, index, prompt, config, SETTINGS)
    item = next(data.train_batches(plan, encoder, mesh, 0, 2, 2))
    tokens = item.batch.batch.rows.tokens
    assert tokens.shape[:2] == (2, 4)
    planned = plan[0]
    for m in range(2):
        for s in range(4):
            (alone,) = encoder.shard(planned.lists[m][s], planned.bucket)
            np.testing.assert_array_equal(tokens[m, s], alone.batch.rows.tokens[0])
    assert {shard.data.shape[1] for shard in tokens.addressable_shards} == {1}


def test_rare_kinds_are_repeated_as_told() -> None:
    index = random_index(200)
    kinds = np.array(["common"] * 160 + ["rare"] * 40)
    index = replace(index, kinds=kinds)
    assert set(repeats(index, 1.0).tolist()) == {1}
    assert repeats(index, 0.0)[[0, 199]].tolist() == [1, 4]
    assert repeats(index, 0.5)[[0, 199]].tolist() == [1, 2]
    plan = TrainPlan(index, replace(SETTINGS, kind_power=0.0))
    drawn = [n for number in range(plan.per_epoch) for n in numbers(plan, number)]
    assert 0.4 < np.mean(np.array(drawn) >= 160) < 0.6
    twice = [{tuple(sorted(sample(index, 199, 0, SETTINGS, draw=draw).slots)) for draw in range(8)}]
    assert len(twice[0]) > 1, "a repeated list gets other candidates"

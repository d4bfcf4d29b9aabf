"""Buckets: ladders hold what is asked, programs stay few, and one is compiled when it pays."""

from __future__ import annotations

import json
from dataclasses import astuple, replace

import numpy as np
import pytest

from unirank_jax.batch import Bucket, block_tokens
from unirank_jax.buckets import COMPILE_PRICE, Buckets, fits, roomy, round_up, rung, union


@pytest.mark.parametrize(
    "least, steps", [(32, 2), (64, 8), (8, 1), (1, 1), (64, 1), (8, 2), (4, 2)]
)
def test_a_rung_holds_its_size_with_bounded_waste(least: int, steps: int) -> None:
    assert rung(0, least, steps) == 0
    rungs = [rung(size, least, steps) for size in range(1, 5000)]
    assert all(found >= size for size, found in enumerate(rungs, 1))
    assert rungs == sorted(rungs), "a larger size never gets a smaller rung"
    assert all(rung(found, least, steps) == found for found in set(rungs))
    waste = max(found / size for size, found in enumerate(rungs, 1) if size > 4 * least)
    assert waste <= 1 + 1 / steps + 1e-9


def test_rungs_of_patches_keep_the_merge_blocks_whole() -> None:
    sizes = np.random.default_rng(0).integers(1, 3000, 200) * 4
    for size in sizes.tolist():
        need = Bucket(1, 1, 1, 1, 1, size, cells=1, patch_cells=size)
        assert round_up(need).patches % 4 == 0 and round_up(need).patch_cells % 4 == 0


def test_blocks_of_rows_hold_in_every_larger_bucket() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        lengths = sorted(rng.integers(1, 200, rng.integers(1, 30)).tolist(), reverse=True)
        need = Bucket(1, 8, len(lengths), **block_tokens(lengths), images=0, patches=0, cells=1)
        other = sorted(rng.integers(1, 200, rng.integers(1, 60)).tolist(), reverse=True)
        both = union([need, replace(need, rows=len(other), **block_tokens(other))])
        need = replace(need, cells=sum(lengths))
        both = union([need, replace(both, cells=max(sum(lengths), sum(other)))])
        for bucket in (need, both, round_up(both), roomy(both)):
            assert fits(need, bucket)
            widths = [width for rows, width in bucket.blocks.sizes for _ in range(rows)]
            assert len(widths) <= bucket.rows
            assert all(n <= width for n, width in zip(lengths, widths, strict=False))
            assert len(widths) >= len(lengths) and widths == sorted(widths, reverse=True)


def test_without_blocks_all_rows_are_as_wide_as_the_longest() -> None:
    whole = Bucket(1, 8, 6, 40, 0, 0, cells=100)
    assert whole.blocks.sizes == ((6, 40),)
    assert replace(whole, second=10, third=4, fourth=0).blocks.sizes == ((1, 40), (1, 10), (1, 4))
    assert str(whole) == "Bucket(prefixes=1, prefix_tokens=8, rows=6, tokens=40, cells=100)"
    padded = replace(whole, second=10, cells=0)
    assert padded.blocks.sizes == ((6, 40),), "where padding is computed there is one block"


def test_few_long_rows_and_many_short_ones_share_a_narrow_bucket() -> None:
    few = Bucket(1, 64, 8, **block_tokens([250] * 8), images=0, patches=0, cells=2000)
    many = Bucket(1, 64, 120, **block_tokens([16] * 120), images=0, patches=0, cells=1920)
    both = union([few, many])
    assert both.blocks.sizes == ((15, 250), (105, 16)) and fits(few, both) and fits(many, both)
    room = roomy(both)
    assert room.blocks.sizes == ((16, 256), (112, 32))
    assert fits(few, room) and fits(many, room)
    middle = Bucket(1, 64, 40, **block_tokens([50] * 40), images=0, patches=0, cells=2000)
    assert not fits(middle, room), "its row 16 is too long"
    assert roomy(union([both, middle])).third == 64, "no row 32 of 2,048 cells has over 62"


def multiply_adds_of_cells(bucket: Bucket) -> float:
    return COMPILE_PRICE * bucket.cells / 100_000


def random_need(rng: np.random.Generator) -> Bucket:
    need = Bucket(*(int(size) for size in rng.integers(1, 257, len(astuple(Bucket(*[0] * 6))))))
    widths = sorted([need.tokens, need.second, need.third, need.fourth], reverse=True)
    need = replace(need, **dict(zip(("tokens", "second", "third", "fourth"), widths, strict=True)))
    return replace(need, cells=sum(rows * width for rows, width in need.blocks.sizes))


def test_every_batch_fits_its_bucket_and_programs_are_bounded() -> None:
    rng = np.random.default_rng(1)
    buckets = Buckets("test", 5, lambda bucket: float(sum(astuple(bucket))))
    for _ in range(500):
        need = random_need(rng)
        assert fits(need, buckets.choose(need))
    assert len(buckets.chosen) <= 5 + 3  # one size after the other passes a power of two


def test_a_new_program_takes_over_what_a_similar_one_holds() -> None:
    buckets = Buckets("test", 8, lambda bucket: float(bucket.cells + bucket.tokens))
    first = buckets.choose(Bucket(1, 32, 8, 64, 0, 0, cells=4096))
    second = buckets.choose(Bucket(1, 32, 8, 96, 0, 0, cells=4000))
    assert fits(first, second) and len(buckets.chosen) == 2
    tiny = buckets.choose(Bucket(4, 32, 8, 32, 0, 0, cells=64))
    assert not fits(first, tiny), "not where it would cost much more"


def test_a_program_of_the_right_size_is_compiled_once_it_pays() -> None:
    large, small = Bucket(1, 64, 512, 64, 0, 0, cells=8192), Bucket(1, 64, 8, 64, 0, 0, cells=256)
    price = COMPILE_PRICE / 8192
    buckets = Buckets("test", 5, lambda bucket: price * bucket.cells / 10)  # 10 runs: one price
    assert buckets.choose(large) == round_up(large)
    uses = [buckets.choose(small) for _ in range(20)]
    reused = uses.count(round_up(large))
    assert 9 <= reused <= 12, "until the padding has cost a compilation"
    assert uses[-1] == round_up(small)


def test_many_sizes_share_a_better_program_once_it_pays() -> None:
    """No size by itself comes often enough to be worth one."""
    buckets = Buckets("test", 5, lambda bucket: COMPILE_PRICE * bucket.cells / 81920)
    large = buckets.choose(Bucket(1, 64, 512, 64, 0, 0, cells=8192))
    rng = np.random.default_rng(3)
    sizes = [Bucket(1, 64, 8, 64, 0, 0, cells=int(n)) for n in rng.integers(64, 2048, 60)]
    uses = [buckets.choose(size) for size in sizes]
    assert uses[0] == large and uses[-1] != large and len(buckets.chosen) <= 4
    assert uses[30:].count(large) <= 5, "the new one holds nearly all"


def test_near_the_limit_one_program_holds_everything() -> None:
    buckets = Buckets("test", 3, lambda bucket: float(bucket.cells))
    wide, tall = Bucket(1, 32, 8, 512, 0, 0, cells=64), Bucket(1, 32, 256, 32, 0, 0, cells=4096)
    buckets.choose(wide), buckets.choose(tall)
    many = Bucket(30, 64, 8, 32, 0, 0, cells=64)
    last = buckets.choose(many)
    assert all(fits(need, last) for need in (wide, tall, many))
    narrow = replace(wide, **block_tokens([512, 60, 40, 20, 20, 20, 20, 20]), cells=712)
    full = Buckets("test", 1, lambda bucket: float(bucket.cells))
    assert full.choose(narrow).blocks.sizes == ((1, 512), (3, 64), (4, 32)), "as wide as needed"
    assert buckets.choose(union([wide, tall, many])) == last


def test_padding_is_computed_where_there_is_next_to_none() -> None:
    full = Bucket(1, 8, 2, 100, 2, 1024, cells=200, patch_cells=2048, second=100, third=0, fourth=0)
    assert full.padded_where_full == replace(full, cells=0, patch_cells=0)
    ragged = replace(full, cells=180, patch_cells=1900)
    assert ragged.padded_where_full == ragged
    narrow = replace(full, rows=8, tokens=100, second=60, third=60, fourth=60, cells=800)
    assert narrow.padded_where_full.cells == 800, "blocks of unlike width are not padded to one"


def test_one_with_the_history_of_another_chooses_as_that_one_does() -> None:
    rng = np.random.default_rng(7)
    buckets = Buckets("test", 5, multiply_adds_of_cells)
    for _ in range(40):
        buckets.choose(random_need(rng))
    other = Buckets("test", 5, multiply_adds_of_cells)
    other.recall(json.loads(json.dumps(buckets.history())))
    assert other.history() == buckets.history()
    needs = [random_need(rng) for _ in range(200)]
    assert list(map(other.choose, needs)) == list(map(buckets.choose, needs))
    fresh = Buckets("test", 5, multiply_adds_of_cells)
    assert list(map(fresh.choose, needs)) != list(map(buckets.choose, needs))


def test_large_images_have_no_spare_slots() -> None:
    small = Bucket(1, 8, 8, 100, 3, 256, cells=300, patch_cells=700)
    assert round_up(small).images == 4
    assert round_up(replace(small, patches=4000, patch_cells=9000)).images == 3

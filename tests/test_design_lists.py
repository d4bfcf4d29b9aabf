"""Lists of the design dataset: grades, wrong views, and forms that do not give the answer away."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from made_up_design import lists_of, made_up_things

from unirank_jax.content import ImagePart
from unirank_jax.datasets import (
    design,
    design_lists,
    graded,
)
from unirank_jax.datasets.graded import item_maker


@pytest.mark.parametrize("domain", design.DRAFTS)
def test_lists_are_well_formed_and_no_kind_gives_the_answer_away(domain):
    things = made_up_things(domain)
    owners = {item.did: thing for thing in things for item in thing.items.values()}
    items = {item.did: item for thing in things for item in thing.items.values()}
    by_id = {thing.unit_id: thing for thing in things}
    made = lists_of(domain, things)
    assert made == lists_of(domain, things), "the same things give the same lists"
    common: Counter[tuple[str, str]] = Counter()
    relevant: Counter[tuple[str, str]] = Counter()
    origins: Counter[str] = Counter()
    for query, ranked in made:
        thing = by_id[query.unit_id]
        candidates = [items[did] for did in ranked.dids]
        assert len(candidates) == len(set(ranked.dids)) == 20
        assert len({item.dup_id for item in candidates}) == 20
        assert any(grade >= query.rel_min for grade in ranked.grades)
        for item, grade, origin in zip(candidates, ranked.grades, ranked.neg_types, strict=True):
            own = item.unit_id == query.unit_id
            assert own == (grade > 0) == (origin in ("positive", "wrong_view"))
            assert (origin == "positive") == (grade >= query.rel_min)
            assert item.dup_id != query.dup_id
            if not own and origin != "random":
                shared = owners[item.did].family == thing.family
                assert shared == (origin == design.STEPS[domain][0][0])
            if not own and "view" not in query.kind and query.kind != "drawing->drawing":
                assert not owners[item.did].labels & thing.labels, "not wrong, only another one"
            form = "+".join(
                "image" if isinstance(part, ImagePart) else "text" for part in item.parts
            )
            common[query.kind, form] += 1
            relevant[query.kind, form] += grade >= query.rel_min
            origins[origin] += 1
    assert {query.kind for query, _ in made} >= {"furniture": {"drawing+question->view"}}.get(
        domain, set()
    )
    for kind in {query.kind for query, _ in made}:
        shares = [relevant[pair] / common[pair] for pair in common if pair[0] == kind]
        assert max(shares) < 2.5 * min(shares), (kind, relevant, common)
    assert all(origins[name] for name, _ in design.STEPS[domain])
    places = {ranked.grades.index(max(ranked.grades)) for _, ranked in made}
    assert len(places) == 20, "relevant candidates stand at every position"


def test_a_wrong_view_has_grade_one_and_does_not_count():
    things = made_up_things("furniture")
    made = [pair for pair in lists_of("furniture", things) if pair[0].kind.endswith("->view")]
    assert made
    for query, ranked in made:
        kinds = {
            did.partition(".")[2]: grade
            for did, grade in zip(ranked.dids, ranked.grades, strict=True)
            if did.startswith(f"{query.unit_id}.")
        }
        assert query.rel_min == 2 and sorted(kinds.values()) == [1, 1, 2, 2]
        (asked,) = {kind.partition("+")[0] for kind, grade in kinds.items() if grade == 2}
        assert design_lists.VIEW_QUESTIONS[asked] == query.parts[-1].text
        assert isinstance(query.parts[0], ImagePart)


def test_views_that_look_alike_are_never_asked_for():
    (thing,) = made_up_things("furniture", 1)
    same = thing.items["rear"].parts
    items = thing.items | {
        "front": item_maker("f", "x", "y")("front", ("made up", "MIT"), same[0].source)
    }
    twin = replace(thing, items=items)
    assert "front" in design_lists.unlike(thing)["rear"]
    assert "front" not in design_lists.unlike(twin)["rear"]


def test_lists_that_cannot_be_filled_are_left_out():
    assert lists_of("furniture", made_up_things("furniture", 3)) == []


def test_content_of_another_split_is_dropped():
    train = made_up_things("emoji", 3, "train")
    test = [replace(x, items=dict(train[0].items)) for x in made_up_things("emoji", 1)]
    kept = graded.without_clashes([*train, *test])
    assert len(kept[0].items) == len(train[0].items) and not kept[-1].items


def test_a_limit_takes_a_part_of_the_same_things():
    names = [str(number) for number in range(50)]
    some = graded.chosen_by_hash(names, 10)
    assert len(some) == 10 and set(some) <= set(graded.chosen_by_hash(names, 20))
    assert graded.chosen_by_hash(reversed(names), None) == sorted(names)

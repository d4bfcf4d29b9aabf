"""Lists of molecules and figures: what they promise, and that they depend on ids alone."""

from __future__ import annotations

import random
from collections import Counter

from made_molecules import molecule_units, picture, skeletons

from unirank_jax.datasets import figures, sci
from unirank_jax.datasets.lists import (
    IMAGES_PER_LIST,
    LIST_LENGTH,
    Unit,
    by_kind,
    figure_neighbours,
    make_lists,
    molecule_neighbours,
    without_shared_content,
)


def all_lists(units):
    shares = sci.shares(sci.MOLECULE_KINDS, "sample", "test")
    return list(make_lists("molecule", "Find it.", shares, units, molecule_neighbours(units)))


def test_molecule_lists_hold_the_promised_candidates():
    units = molecule_units("test", 140)
    owners = {item.did: unit for unit in units for item in unit.items.values()}
    items = {item.did: item for unit in units for item in unit.items.values()}
    made = all_lists(units)
    assert {query.kind for query, _ in made} == {kind.name for kind in sci.MOLECULE_KINDS}
    isomers = Counter()
    for query, ranked in made:
        candidates = [items[did] for did in ranked.dids]
        assert len(candidates) == len(set(ranked.dids)) == LIST_LENGTH
        assert sum(item.modality != "text" for item in candidates) == IMAGES_PER_LIST
        assert 1 <= sum(ranked.grades) <= 2
        for item, grade, origin in zip(candidates, ranked.grades, ranked.neg_types, strict=True):
            own = item.unit_id == query.unit_id
            assert grade == own == (origin == "positive")
            assert item.parts != query.parts
            if not own:
                assert item.split_id != query.split_id, "a stereoisomer is no negative"
                same = owners[item.did].family == owners[f"{query.unit_id}.n"].family
                assert same == (origin == "isomer")
                isomers[origin] += 1
        kinds = Counter(item.kind for item in candidates)
        if query.kind == "name->mixed":
            assert (kinds["mixed"], kinds["drawing"]) == (5, 5), "rareness must not tell the answer"
        if query.kind == "drawing->name/card":
            assert (kinds["name"], kinds["card"]) == (5, 5)
        positives = {candidates[i].kind for i in range(LIST_LENGTH) if ranked.grades[i]}
        assert query.kind.split("->")[1] in ("+".join(sorted(positives, reverse=True)),) or (
            query.kind == "drawing->name/card" and positives < {"name", "card"}
        )
    assert isomers["isomer"] > len(made) * 3
    first = [ranked.grades.index(1) for _, ranked in made]
    assert len(set(first)) == LIST_LENGTH, "relevant candidates stand at every position"


def test_at_least_a_third_of_the_lists_have_one_relevant_candidate():
    made = all_lists(molecule_units("test", 140))
    assert sum(sum(ranked.grades) == 1 for _, ranked in made) > len(made) / 3


def test_lists_depend_on_ids_alone():
    units = molecule_units("test", 80)
    once = all_lists(units)
    random.seed(7)
    assert all_lists(units) == once


def test_figure_lists_prefer_the_document_and_avoid_shared_passages():
    units = []
    pages = skeletons("test", 12)
    for number in range(48):
        figure = figures.Figure(
            page=pages[number // 4],
            source="python-lmfit-doc",
            licence="Expat",
            image=picture(number),
            caption=f"caption {number}",
            passage="the passage of two figures" if number in (0, 20) else f"passage {number}",
            section="",
        )
        items = by_kind(figures.figure_items(figure))
        units.append(Unit(figure.unit_id, figure.page, figure.page, items))
    shares = sci.shares(sci.FIGURE_KINDS, "open", "test")
    made = list(make_lists("figure", "Find it.", shares, units, figure_neighbours(units)))
    assert {query.kind for query, _ in made} == {kind.name for kind in sci.FIGURE_KINDS}
    for query, ranked in made:
        assert ranked.neg_types.count("same_document") == 3
        if query.unit_id == units[0].unit_id:
            assert not any(did.startswith(units[20].unit_id) for did in ranked.dids)


def test_content_in_two_splits_is_dropped():
    train, test = molecule_units("train", 10), molecule_units("test", 10)
    kept = without_shared_content([*train, *test])  # all pictures are the same in both
    assert [unit.unit_id for unit in kept] == [unit.unit_id for unit in train]

"""The `design` dataset: furniture, emoji, icons and clip art as things, and lists about them.

Every list has 20 candidates of one split. A furniture design is its own split group; the
groups of the other sources that share a label are united, so that no label is in two splits.
Choices are made by hashes of ids, so the same sources give the same dataset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unirank_jax.datasets import clipart, emoji, furniture, icons
from unirank_jax.datasets.design_lists import (
    clip_drafts,
    emoji_drafts,
    furniture_drafts,
    icon_drafts,
)
from unirank_jax.datasets.finish import finish
from unirank_jax.datasets.furniture import Design
from unirank_jax.datasets.graded import (
    Drafter,
    Thing,
    chosen_by_hash,
    make_graded_lists,
    neighbours_by,
    without_clashes,
)
from unirank_jax.datasets.labels import Groups
from unirank_jax.datasets.notices import notices
from unirank_jax.datasets.records import SPLITS, Query, RankList, split_of
from unirank_jax.datasets.sources import preflight

PACKAGES = (furniture.PACKAGE, *emoji.PACKAGES, *icons.PACKAGES, clipart.PACKAGE)
INSTRUCTIONS = {
    "furniture": "Given a name or a drawing of an article, retrieve its drawings or its record.",
    "emoji": "Given a name or a drawing, retrieve drawings and descriptions of the same thing.",
    "icon": "Given keywords, a name or an icon, retrieve icons and names for the same thing.",
    "clipart": "Given a title, keywords or a picture, retrieve what belongs together.",
}
DRAFTS: dict[str, Drafter] = {
    "furniture": furniture_drafts,
    "emoji": emoji_drafts,
    "icon": icon_drafts,
    "clipart": clip_drafts,
}
# Where hard negatives come from: how their origin is called and how many there are at most,
# first things of the same family (head noun, subgroup, head word, folder), then of a category.
STEPS = {
    "furniture": (("same_noun", 5), ("same_category", 6)),
    "emoji": (("same_subgroup", 7), ("same_group", 4)),
    "icon": (("same_word", 8), ("same_category", 4)),
    "clipart": (("same_folder", 8), ("same_category", 4)),
}
CHANGES = """\
What this data was made from, and what was changed.

Furniture: names, tags, categories, sizes and part names are those of the catalogues in the
Debian package sweethome3d-furniture; the 3-D models were rendered as line drawings in seven
views. Some tags and words of part names were left out, and the sentences that ask for a view
were added. Emoji, icons and clip art: the drawings of the packages named below, made smaller,
put on white and reduced to 16 colours; text in them is not drawn. Names, tags, keywords and
titles are the packages' own; words that repeat the name were left out of tags, digits out of
titles. Emoji names and tags are Unicode's CLDR data as packed by emojibase-data.
Twemoji's drawings: Copyright Twitter, Inc and other contributors, CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/). OpenMoji's drawings: CC BY-SA 4.0, by the OpenMoji
project (https://openmoji.org); what is made from them may only be passed on under that licence.
Noto Emoji and Material Design Icons: Apache License 2.0
(https://www.apache.org/licenses/LICENSE-2.0). Game Icons: CC BY 3.0
(https://creativecommons.org/licenses/by/3.0/), by the authors named at https://game-icons.net.

"""


def build(out: Path, raw: Path, processes: int, limit: int | None) -> dict[str, Any]:
    """Build the dataset folder `out` and return its meta.json.

    `limit` keeps only that many things of each source, in the order of a hash and with the same
    splits, for quick trials. Raises SourceError where a source or a system tool is missing.
    """
    preflight(PACKAGES, raw)
    designs = furniture.read_designs(raw)
    things = {"furniture": furniture_things(designs, raw, processes, limit)}
    things |= labelled_things(raw, processes, limit)
    kept = without_clashes(thing for domain in DRAFTS for thing in things[domain])
    queries: list[Query] = []
    lists: dict[str, list[RankList]] = {split: [] for split in SPLITS}
    for domain, drafts in DRAFTS.items():
        wanted = {thing.unit_id for thing in things[domain]}
        for split in SPLITS:
            members = [x for x in kept if x.unit_id in wanted and split_of(x.split_id) == split]
            (near, most), (far, more) = STEPS[domain]
            nearest = neighbours_by(
                members,
                ((near, lambda x: x.family, most), (far, lambda x: x.category, more)),
            )
            made = make_graded_lists(domain, INSTRUCTIONS[domain], members, drafts, nearest)
            for query, ranked in made:
                queries.append(query)
                lists[split].append(ranked)
    items = [item for thing in kept for item in thing.items.values()]
    texts = {thing.unit_id: thing.stand_in for thing in kept}
    return finish("design", out, items, queries, lists, design_notices(designs, raw), texts)


def furniture_things(
    designs: Sequence[Design], raw: Path, processes: int, limit: int | None
) -> list[Thing]:
    """The designs whose models can be drawn."""
    by_name = {f"{design.source}/{design.key}": design for design in designs}
    names = chosen_by_hash(by_name, limit)
    drawn = furniture.draw_designs([by_name[name] for name in names], raw, processes)
    found = {name: picture for name, picture in drawn.items() if picture is not None}
    return [furniture.design_thing(by_name[name], found[name]) for name in names if name in found]


def labelled_things(raw: Path, processes: int, limit: int | None) -> dict[str, list[Thing]]:
    """Emoji, icons and clip art; groups of all three that share a label are one split group."""
    concepts = {concept.code: concept for concept in emoji.read_concepts(raw)}
    named = icons.same_names(icons.read_icons(raw))
    clips = {clip.path: clip for clip in clipart.read_clips(raw, processes)}
    groups = Groups()
    for concept in concepts.values():
        groups.join(concept.head, f"label:{concept.key}")
    for key, by_vendor in named.items():
        for icon in by_vendor.values():
            groups.join(icon.head, f"label:{key}")
    for clip in clips.values():
        groups.join(f"clipart:{clip.key}", f"label:{clip.key}")
    things: dict[str, list[Thing]] = {}

    chosen = [concepts[code] for code in chosen_by_hash(concepts, limit)]
    drawn = emoji.draw_concepts(chosen, raw, processes)
    things["emoji"] = [
        emoji.concept_thing(one, drawn[one.code], groups.group(one.head)) for one in chosen
    ]
    keys = chosen_by_hash(named, limit)
    shown = icons.draw_icons([x for key in keys for x in named[key].values()], raw, processes)
    made = (icons.icon_thing(x, named[x], shown, groups.group(f"label:{x}")) for x in keys)
    things["icon"] = [thing for thing in made if thing is not None]

    some = [clips[path] for path in chosen_by_hash(clips, limit)]
    pictures = clipart.draw_clips(some, raw, processes)
    things["clipart"] = [
        clipart.clip_thing(clip, picture, groups.group(f"label:{clip.key}"))
        for clip in some
        if (picture := pictures[clip.path]) is not None
    ]
    return things


def design_notices(designs: Sequence[Design], raw: Path) -> str:
    """Licence texts of all packages, and the creators of the furniture by library."""
    works: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for design in designs:
        works[design.source][design.creator or "unnamed"].append(design.key)
    credits = {
        f"{source}: creators of the models, {furniture.LIBRARIES[source.rpartition('/')[2]]}": (
            "\n".join(f"{who}: {', '.join(keys)}" for who, keys in sorted(makers.items()))
        )
        for source, makers in sorted(works.items())
    }
    return notices(CHANGES, PACKAGES, raw, credits)

"""The queries of the design dataset: what is asked about a thing, and which items answer it.

Where a query has answers of several kinds (a drawing, a text, both together), all kinds are
equally common among the candidates of its list: the form of a candidate says nothing.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import numpy as np
from PIL import Image

from unirank_jax.content import ImagePart, TextPart
from unirank_jax.datasets.emoji import VENDORS as EMOJI_VENDORS
from unirank_jax.datasets.furniture_views import VIEWS
from unirank_jax.datasets.graded import Draft, Thing, all_of, one_of, shares, text_of
from unirank_jax.datasets.icons import VENDORS as ICON_VENDORS
from unirank_jax.datasets.lists import even

# Views that differ by less than this share of their ink are the same to a reader.
MIN_DIFFERENCE = 0.3
VIEW_QUESTIONS = {
    "perspective": "The same article in perspective.",
    "front": "The same article seen from the front.",
    "rear": "The same article seen from the rear.",
    "left": "The same article seen from the left side.",
    "right": "The same article seen from the right side.",
    "top": "The same article seen from above.",
    "bottom": "The same article seen from below.",
}


def furniture_drafts(thing: Thing, rng: random.Random) -> Iterator[Draft]:
    """Name, name in another language, drawing, and drawing with a question for another view."""
    views = [view for view in VIEWS if view in thing.items]
    if "card" not in thing.items or len(views) < 2:
        return
    title = text_of(thing.asks["title"])
    yield all_of(thing, rng, "title->drawings+card", title, [*rng.sample(views, 2), "card"])
    both = rng.choice(views)
    forms = [rng.choice(views), "card", f"{both}+card"]
    yield one_of(thing, rng, "title->drawing/card/both", title, forms)
    languages = sorted(name for name in thing.asks if name.startswith("title-"))
    if languages:
        asked = text_of(thing.asks[rng.choice(languages)])
        forms = [rng.choice(views), "card"]
        yield one_of(thing, rng, "translation->drawing/card", asked, forms)
    telling = unlike(thing)
    for kind in ("drawing->drawing+text", "drawing->drawing", "drawing+question->view"):
        asking = rng.choice(views)
        others = telling[asking]
        if not others:
            continue
        drawing = thing.items[asking].parts
        shown = rng.choice(others)
        if kind == "drawing->drawing+text":
            yield all_of(thing, rng, kind, drawing, [shown, "description"])
        elif kind == "drawing->drawing":
            yield one_of(thing, rng, kind, drawing, [shown], by_words=False)
        else:
            wrong = [view for view in telling[shown] if view != asking]
            if wrong:
                yield view_draft(thing, kind, asking, shown, rng.choice(wrong))


def view_draft(thing: Thing, kind: str, asking: str, shown: str, wrong: str) -> Draft:
    """A drawing and a question for another view: that view has grade 2, a wrong one grade 1.

    Candidates are drawings and drawings with a card, half of them of either view, so that the
    right view of a wrong article competes with the wrong view of the right one.
    """
    names = [shown, f"{shown}+card", wrong, f"{wrong}+card"]
    present = [name for name in names if name in thing.items]
    return Draft(
        kind,
        (*thing.items[asking].parts, TextPart(VIEW_QUESTIONS[shown])),
        tuple((thing.items[name], 2 if name in names[:2] else 1) for name in present),
        even(*names),
        by_words=False,
        rel_min=2,
    )


def unlike(thing: Thing) -> dict[str, list[str]]:
    """For every view of a thing the other views that can be told from it."""
    inks = {view: _ink(thing, view) for view in VIEWS if view in thing.items}
    return {
        view: [
            other
            for other, seen in inks.items()
            if other != view and difference(own, seen) >= MIN_DIFFERENCE
        ]
        for view, own in inks.items()
    }


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """0 for equal amounts of ink in all cells, 1 where no cell has ink in both."""
    return float(np.abs(one - other).sum() / max(float((one + other).sum()), 1e-9))


def emoji_drafts(thing: Thing, rng: random.Random) -> Iterator[Draft]:
    """Name, name in another language, line drawing, and a drawing together with its tags."""
    vendors = [vendor for vendor in EMOJI_VENDORS if vendor in thing.items]
    if len(vendors) < 4 or "label" not in thing.items:
        return
    label = thing.items["label"].parts
    tags = "tags" in thing.items
    if tags:
        names = [*rng.sample(vendors, 2), "tags"]
        yield all_of(thing, rng, "label->drawings+tags", label, names)
    languages = sorted(name for name in thing.asks if name.startswith("label-"))
    if languages and tags:
        asked = text_of(thing.asks[rng.choice(languages)])
        forms = [
            rng.choice(vendors),
            "tags",
            *(["noto+tags"] if "noto+tags" in thing.items else []),
        ]
        yield one_of(thing, rng, "translation->drawing/tags/both", asked, forms)
    lines = rng.choice([v for v in vendors if v.endswith("-line")] or vendors)
    other_hands = [v for v in vendors if EMOJI_VENDORS[v][0] != EMOJI_VENDORS[lines][0]]
    other_hands = [v for v in other_hands if not (lines, v) == ("fluent-line", "fluent")]
    drawing = thing.items[lines].parts
    if len(other_hands) >= 2:
        names = [*rng.sample(other_hands, 2), "label"]
        yield all_of(thing, rng, "drawing->drawings+label", drawing, names)
        if tags:
            both = (*drawing, *thing.items["tags"].parts)
            names = [rng.choice(other_hands), "label"]
            yield one_of(thing, rng, "drawing+tags->drawing/label", both, names)


def icon_drafts(thing: Thing, rng: random.Random) -> Iterator[Draft]:
    """Tags, name, drawing, and drawing with tags; names without tags ask among drawings only."""
    vendors = [vendor for vendor in ICON_VENDORS if vendor in thing.items]
    if not vendors or "name" not in thing.items:
        return
    name = thing.items["name"].parts
    if "tags" in thing.items:
        tags = thing.items["tags"].parts
        yield all_of(thing, rng, "tags->drawing+name", tags, [rng.choice(vendors), "name"])
        if shares(thing, "name->drawing/tags", 2):
            yield one_of(thing, rng, "name->drawing/tags", name, [rng.choice(vendors), "tags"])
    if shares(thing, "name->drawing", 2 if "tags" not in thing.items else 6):
        yield one_of(thing, rng, "name->drawing", name, [rng.choice(vendors)])
    if len(vendors) >= 2:
        asking, other = rng.sample(vendors, 2)
        drawing = thing.items[asking].parts
        yield all_of(thing, rng, "drawing->drawing+name", drawing, [other, "name"])
        if "tags" in thing.items and shares(thing, "drawing+tags->drawing/name", 2):
            both = (*drawing, *thing.items["tags"].parts)
            yield one_of(thing, rng, "drawing+tags->drawing/name", both, [other, "name"])


def clip_drafts(thing: Thing, rng: random.Random) -> Iterator[Draft]:
    """Title, keywords, picture, and picture with keywords, half of them by hash."""
    if not {"picture", "title"} <= thing.items.keys():
        return
    title, picture = thing.items["title"].parts, thing.items["picture"].parts
    keywords = "keywords" in thing.items and "picture+keywords" in thing.items
    if keywords:
        forms = ["picture", "keywords", "picture+keywords"]
        if shares(thing, "title->picture/keywords/both", 2):
            yield one_of(thing, rng, "title->picture/keywords/both", title, forms)
        words = thing.items["keywords"].parts
        if shares(thing, "keywords->picture+title", 2):
            yield all_of(thing, rng, "keywords->picture+title", words, ["picture", "title"])
        if shares(thing, "picture+keywords->title", 4):
            yield one_of(thing, rng, "picture+keywords->title", (*picture, *words), ["title"])
    elif shares(thing, "title->picture", 2):
        yield one_of(thing, rng, "title->picture", title, ["picture"])
    if shares(thing, "picture->title", 2):
        yield one_of(thing, rng, "picture->title", picture, ["title"])


def _ink(thing: Thing, view: str) -> np.ndarray:
    """Mean darkness in cells of 4 x 4 pixels."""
    part = thing.items[view].parts[0]
    assert isinstance(part, ImagePart) and isinstance(part.source, bytes)
    with Image.open(io.BytesIO(part.source)) as image:
        dark = 255 - np.asarray(image.convert("L"), np.float32)
    return dark.reshape(dark.shape[0] // 4, 4, dark.shape[1] // 4, 4).mean(axis=(1, 3))

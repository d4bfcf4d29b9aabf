"""FlagEmbedding lines: query, pos, neg, and optional scores and prompt; texts only."""

from __future__ import annotations

import math
from collections.abc import Collection

from unirank_jax.content import Part
from unirank_jax.datasets.formats.fields import Fields
from unirank_jax.datasets.formats.problems import kind_of, shown
from unirank_jax.datasets.formats.rows import ParsedRow, RowFormat

NAME = "FlagEmbedding lines"
_MEANING = {
    "query": "query",
    "pos": "candidates of grade 1",
    "neg": "candidates of grade 0",
    "prompt": "instruction",
    "pos_scores": "checked; a teacher's scores are no part of a dataset",
    "neg_scores": "checked; a teacher's scores are no part of a dataset",
}


def detect(names: Collection[str]) -> bool:
    """True for records with pos or neg."""
    return "pos" in names or "neg" in names


def parse(fields: Fields) -> ParsedRow | None:
    """One line; None where something is wrong with it."""
    if fields.record.get("query") is None:
        fields.problem("query", "missing", "add a text")
        return None
    query = fields.text(fields.record["query"], "query")
    instruction = fields.plain_text("prompt")
    positives, negatives = _texts(fields, "pos"), _texts(fields, "neg")
    if fields.record.get("pos") in (None, []):
        fields.problem("pos", "no relevant text", "add a list with at least one text")
    _check_scores(fields, "pos")
    _check_scores(fields, "neg")
    if query is None or not positives:
        return None
    grades = (1,) * len(positives) + (0,) * len(negatives)
    return ParsedRow((query,), (*positives, *negatives), grades, instruction)


FORMAT = RowFormat(NAME, parse, _MEANING.get)


def _texts(fields: Fields, name: str) -> list[tuple[Part, ...]]:
    """The texts of a list; a bare text would be read letter by letter elsewhere: an error here."""
    if fields.record.get(name) is None:
        return []
    values = fields.listed(name) or []
    parts = [fields.text(value, f"{name}[{number}]") for number, value in enumerate(values)]
    return [(part,) for part in parts if part is not None]


def _check_scores(fields: Fields, side: str) -> None:
    name = f"{side}_scores"
    if fields.record.get(name) is None:
        return
    scores = fields.listed(name)
    if scores is None:
        return
    values = fields.record.get(side)
    count = len(values) if isinstance(values, list) else 0
    if len(scores) != count:
        told = f"{len(scores)} scores for {count} texts"
        fields.problem(name, told, "give one for each, or leave the field out")
    for number, score in enumerate(scores):
        numeric = isinstance(score, int | float) and not isinstance(score, bool)
        if not numeric or not math.isfinite(score):
            told = shown(score) if numeric else kind_of(score)
            fields.problem(f"{name}[{number}]", f"{told} is no score", "give a finite number")

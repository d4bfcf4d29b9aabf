"""sentence-transformers columns, from JSON lines or Parquet, by name (not by order).

Three layouts: query and documents and labels in lists; anchor, positive, negative (negative_1 ...),
each a content or a list; and pairs with a label. A content is a text, an image with bytes, or
{"text", "image"} with a path; a text is never taken for a path.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from unirank_jax.content import Part
from unirank_jax.datasets.dataset import Dataset
from unirank_jax.datasets.formats.fields import Fields
from unirank_jax.datasets.formats.rows import ParsedRow, RowFormat
from unirank_jax.datasets.formats.writing import (
    Losses,
    examples,
    json_line,
    new_folder,
    note_list_losses,
    text_and_image,
)

NAME = "sentence-transformers columns"
QUERIES = ("query", "anchor", "question", "sentence1", "sentence_A", "premise")
DOCUMENTS = ("docs", "documents")
LABELS = ("labels", "label", "score", "scores")
SECOND = ("document", "passage", "doc", "answer", "response", "sentence2", "sentence_B")
INSTRUCTION = "instruction"
_POSITIVE = re.compile(r"positives?(_\d+)?$")
_NEGATIVE = re.compile(r"negatives?(_\d+)?$")


def detect(names: Collection[str]) -> bool:
    """True for columns with a query beside documents, positives, or a second text and a label."""
    rest = {name for name in names if name in (*DOCUMENTS, *SECOND) or _POSITIVE.match(name)}
    return any(name in names for name in QUERIES) and bool(rest)


def meaning(name: str) -> str | None:
    """What a column is read as."""
    if _POSITIVE.match(name):
        return "candidates of grade 1 (or of the label)"
    if _NEGATIVE.match(name):
        return "candidates of grade 0"
    table: dict[str, str] = {name: "query" for name in QUERIES}
    table |= {name: "candidates" for name in (*DOCUMENTS, *SECOND)}
    table |= {name: "grades" for name in LABELS}
    return (table | {INSTRUCTION: "instruction"}).get(name)


def parse(fields: Fields) -> ParsedRow | None:
    """One record in any of the layouts; None where something is wrong with it."""
    query_name = fields.first(QUERIES)
    if query_name is None:
        fields.problem(QUERIES[0], "missing", f"add one of: {', '.join(QUERIES)}")
        return None
    query = fields.element(fields.record[query_name], query_name)
    instruction = fields.plain_text(INSTRUCTION)
    documents, label = fields.first(DOCUMENTS), fields.first(LABELS)
    if documents:
        found = _lists(fields, documents, label)
    else:
        found = _columns(fields, label)
    if not query or not found:
        return None
    contents, grades = zip(*found, strict=True)
    return ParsedRow(query, contents, grades, instruction, pair=bool(label) and not documents)


FORMAT = RowFormat(NAME, parse, meaning)


def _lists(fields: Fields, documents: str, label: str | None) -> list[tuple[tuple[Part, ...], int]]:
    contents = fields.listed(documents)
    if label is None:
        fields.problem(LABELS[0], "missing", f"give one label for each of {documents!r}")
        return []
    labels = fields.listed(label)
    if contents is None or labels is None:
        return []
    if len(contents) != len(labels):
        told = f"{len(labels)} labels for {len(contents)} {documents}"
        fields.problem(label, told, "give one label for each")
        return []
    if not contents:
        fields.problem(documents, "an empty list", "give at least one document")
    return [
        (fields.element(content, f"{documents}[{n}]"), _grade(fields, labels[n], f"{label}[{n}]"))
        for n, content in enumerate(contents)
    ]


def _columns(fields: Fields, label: str | None) -> list[tuple[tuple[Part, ...], int]]:
    """Positives and negatives, or one second column with its label."""
    found: list[tuple[tuple[Part, ...], int]] = []
    for name, value in fields.record.items():
        positive = bool(_POSITIVE.match(name)) or name in SECOND
        if value is None or not (positive or _NEGATIVE.match(name)):
            continue
        values = value if isinstance(value, list) else [value]
        for number, one in enumerate(values):
            field = f"{name}[{number}]" if isinstance(value, list) else name
            found.append((fields.element(one, field), int(positive)))
    if not found:
        fields.problem(
            "positive", "missing", "add positive (and negative), or documents and labels"
        )
    elif label and len(found) > 1:
        told = f"one label for {len(found)} candidates"
        fields.problem(label, told, "write a list of documents with a list of labels")
    elif label:
        found = [(found[0][0], _grade(fields, fields.record[label], label))]
    return found


def _grade(fields: Fields, value: Any, field: str) -> int:
    grade = fields.grade(value, field)
    return 0 if grade is None else grade


def write_sentence_transformers(dataset: Dataset, out: Path) -> tuple[str, ...]:
    """Write {split}.jsonl with query, docs and labels; return what the format cannot say.

    Images are files below `out`, in {"text", "image"}. Raises WriteError for content with several
    images.
    """
    losses = Losses()
    with new_folder(out) as folder:
        for split, example in examples(dataset):
            query, where = example.query, f"query {example.query.qid}"
            note_list_losses(example, losses, keeps_instruction=False)
            losses.add("ids of queries and candidates are not kept", where)
            if example.missing:
                losses.add("relevant documents missing from the list are not kept", where)
            docs, labels = [], []
            for item, grade in zip(example.candidates, example.grades, strict=True):
                if grade < 0:
                    losses.add("unjudged candidates are left out", where)
                    continue
                docs.append(_column(text_and_image(item.parts, folder, f"item {item.did}", losses)))
                labels.append(grade)
            if max(labels, default=0) < 1:
                losses.add("lists without a relevant candidate are left out", where)
                continue
            asked = _column(text_and_image(query.parts, folder, where, losses))
            with open(folder / f"{split}.jsonl", "a", encoding="utf-8") as file:
                file.write(json_line({"query": asked, "docs": docs, "labels": labels}))
    return losses.warnings()


def _column(content: dict[str, str]) -> str | dict[str, str]:
    return content if "image" in content else content["text"]

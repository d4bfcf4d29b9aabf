"""One line of the user's JSONL: the rules of its fields, and every violation as a message.

A message is "file:line: field: problem; remedy". Nothing is read but the line itself; of the
images only the paths are checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from unirank_jax.content import ContentError, ImagePart, Part, modality, parse
from unirank_jax.datasets.records import Item, Query, RankList, dup_id_of

LIST_FIELDS = ("qid", "query", "candidates", "instruction", "split_id", "rel_min", "domain", "kind")
CONTENT_FIELDS = ("text", "image", "parts")
CANDIDATE_FIELDS = (*CONTENT_FIELDS, "grade", "did", "split_id", "kind")
DEFAULT_DOMAIN, DEFAULT_SOURCE, DEFAULT_LICENCE = "user", "user", "not stated"


@dataclass(frozen=True)
class ParsedLine:
    """One line understood: the query, its candidates and their grades."""

    query: Query
    candidates: tuple[Item, ...]
    grades: tuple[int, ...]

    @property
    def ranked(self) -> RankList:
        """The line as a list of ids; origins are "positive", "negative" and "unjudged"."""
        names = tuple(
            "unjudged" if g < 0 else "positive" if g >= self.query.rel_min else "negative"
            for g in self.grades
        )
        dids = tuple(item.did for item in self.candidates)
        return RankList(self.query.qid, dids, self.grades, names)


def parse_line(data: bytes, where: str, root: Path) -> tuple[ParsedLine | None, list[str]]:
    """One line as a list, or None with its problems ("file:line: field: problem; remedy")."""
    reader = _LineReader(where, root)
    line = reader.read(data)
    return (None if reader.problems else line), reader.problems


class _LineReader:
    """Turns one line into records and collects every problem on the way."""

    def __init__(self, where: str, root: Path):
        self.where, self.root = where, root
        self.problems: list[str] = []

    def problem(self, field: str, problem: str, remedy: str) -> None:
        self.problems.append(f"{self.where}: {field}: {problem}; {remedy}")

    def read(self, data: bytes) -> ParsedLine | None:
        try:
            record = json.loads(
                data.decode("utf-8-sig"),
                parse_constant=_refuse_constant,
                object_pairs_hook=_refuse_repeated_keys,
            )
        except UnicodeDecodeError as error:
            self.problem("line", f"not UTF-8 at byte {error.start}", "save the file as UTF-8")
            return None
        except (ValueError, RecursionError) as error:
            self.problem("line", f"not valid JSON ({error})", "write one JSON object per line")
            return None
        if not isinstance(record, dict):
            self.problem("line", f"a {_kind(record)}, not an object", 'write {"qid": ...}')
            return None
        self._known_fields(record, LIST_FIELDS, "")
        qid = self._text_field(record, "qid", "", required=True) or ""
        split_id = self._text_field(record, "split_id", "") or qid
        instruction = self._text_field(record, "instruction", "")
        domain = self._text_field(record, "domain", "") or DEFAULT_DOMAIN
        kind = self._text_field(record, "kind", "")
        rel_min = self._integer(record.get("rel_min", 1), "rel_min", lowest=1)
        query_parts: tuple[Part, ...] = ()
        if "query" not in record:
            self.problem("query", "missing", 'add "query": {"text": ...} or {"image": ...}')
        else:
            query_parts = self._content(record["query"], "query", CONTENT_FIELDS)
        items, grades = self._candidates(record.get("candidates"), qid, split_id)
        judged = [grade for grade in grades if grade is not None]
        if items and len(judged) == len(grades) and rel_min is not None and max(judged) < rel_min:
            self.problem(
                "candidates",
                f"no candidate of grade {rel_min} or more",
                "add a relevant candidate, correct the grades, or leave the list out",
            )
        if self.problems or rel_min is None:
            return None
        query = Query(
            qid=qid,
            parts=query_parts,
            instruction=instruction,
            domain=domain,
            kind=kind or modality(query_parts),
            unit_id=qid,
            split_id=split_id,
            dup_id=self._dup_id(query_parts),
            rel_min=rel_min,
        )
        return ParsedLine(query, tuple(items), tuple(judged))

    def _candidates(
        self, value: Any, qid: str, split_id: str
    ) -> tuple[list[Item], list[int | None]]:
        items: list[Item] = []
        grades: list[int | None] = []
        if not isinstance(value, list) or not value:
            what = "missing" if value is None else "an empty list" if value == [] else _kind(value)
            self.problem("candidates", what, 'add "candidates": [{"text": ..., "grade": 1}, ...]')
            return items, grades
        seen: dict[str, int] = {}
        for number, candidate in enumerate(value):
            place = f"candidates[{number}]"
            parts = self._content(candidate, place, CANDIDATE_FIELDS)
            if not isinstance(candidate, dict):
                continue
            if "grade" not in candidate:
                self.problem(f"{place}.grade", "missing", "add an integer (0 = not relevant)")
                grades.append(None)
            else:
                grades.append(self._integer(candidate["grade"], f"{place}.grade", lowest=-1))
            did = self._text_field(candidate, "did", f"{place}.") or f"{qid}#{number}"
            if did in seen:
                self.problem(
                    f"{place}.did",
                    f"{did!r} is also candidates[{seen[did]}]",
                    "list every candidate once",
                )
            seen.setdefault(did, number)
            own_split = self._text_field(candidate, "split_id", f"{place}.") or split_id
            kind = self._text_field(candidate, "kind", f"{place}.")
            if parts:
                items.append(
                    Item(
                        did=did,
                        parts=parts,
                        modality=modality(parts),
                        unit_id=did,
                        family=own_split,
                        kind=kind or modality(parts),
                        split_id=own_split,
                        dup_id=self._dup_id(parts),
                        source=DEFAULT_SOURCE,
                        licence=DEFAULT_LICENCE,
                    )
                )
        return items, grades

    def _content(self, value: Any, place: str, fields: Sequence[str]) -> tuple[Part, ...]:
        """The parts of a query or candidate with image paths resolved; () after a problem."""
        if not isinstance(value, dict):
            self.problem(place, f"a {_kind(value)}, not an object", 'write {"text": ...}')
            return ()
        known = self._known_fields(value, fields, f"{place}.")
        content: Any = {key: value[key] for key in value if key in ("text", "image")}
        if "parts" in value:
            if content:
                self.problem(place, "both 'parts' and 'text' or 'image'", "put all into 'parts'")
                return ()
            content = value["parts"]
            place = f"{place}.parts"
            if not isinstance(content, list):
                self.problem(place, f"a {_kind(content)}, not a list", 'write [{"text": ...}]')
                return ()
        elif not content:
            if known:  # else the misspelt field was told, and is the content
                self.problem(place, "no content", "give 'text', 'image' or 'parts'")
            return ()
        try:
            parts = parse(content, place)
        except ContentError as error:
            self.problems.append(f"{self.where}: {error}")
            return ()
        resolved = [self._resolve(part, place) for part in parts]
        return tuple(part for part in resolved if part is not None)

    def _resolve(self, part: Part, place: str) -> Part | None:
        if not isinstance(part, ImagePart):
            return part
        field = place + part.place
        path, root = Path(str(part.source)), _real(self.root)
        if path.is_absolute():
            self.problem(field, f"{str(path)!r} is absolute", "give a path beside the .jsonl file")
            return None
        target = _real((root / path).parent) / path.name
        if path.name in ("", "..") or target.is_symlink():
            target = (root / path).resolve()
        if not target.is_relative_to(root):
            self.problem(
                field,
                f"{str(path)!r} leaves the folder of the file",
                "copy the image into that folder",
            )
            return None
        if not target.is_file():
            self.problem(field, f"no file {str(path)!r}", "correct the path or add the image")
            return None
        return ImagePart(str(target), part.place)

    def _dup_id(self, parts: Sequence[Part]) -> str:
        root = _real(self.root)
        return dup_id_of(
            *(
                Path(str(part.source)).relative_to(root).as_posix().encode()
                if isinstance(part, ImagePart)
                else part.text
                for part in parts
            )
        )

    def _known_fields(self, record: dict[str, Any], fields: Sequence[str], prefix: str) -> bool:
        unknown = [name for name in record if name not in fields]
        for name in unknown:
            near = get_close_matches(name, fields, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fields)}"
            self.problem(f"{prefix}{name}", "unknown field", remedy)
        return not unknown

    def _text_field(
        self, record: dict[str, Any], name: str, prefix: str, required: bool = False
    ) -> str | None:
        value = record.get(name)
        if value is None and not required:
            return None
        if value is None:
            self.problem(f"{prefix}{name}", "missing", "add a text")
        elif not isinstance(value, str):
            self.problem(f"{prefix}{name}", f"a {_kind(value)}, not a text", "put it in quotes")
        elif not value.strip():
            self.problem(f"{prefix}{name}", "empty", "write something or leave the field out")
        else:
            return value
        return None

    def _integer(self, value: Any, field: str, lowest: int) -> int | None:
        if isinstance(value, bool) or not isinstance(value, int):
            shown = json.dumps(value)[:40]
            self.problem(field, f"{shown} is not an integer", f"give {lowest}, ... as a number")
        elif not lowest <= value < 1000:
            self.problem(field, f"{value} is out of range", f"give an integer from {lowest} to 999")
        else:
            return value
        return None


@lru_cache(maxsize=4096)
def _real(folder: Path) -> Path:
    """A folder without symbolic links; kept, since thousands of pictures lie in one."""
    return folder.resolve()


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "true/false", type(None): "null"}
    return names.get(type(value), "number")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {repeated!r} is there twice")
    return record

"""Prompts as token ids, built from fixed pieces: what all pairs share, the query, the candidate.

With the query first, `static + query + candidate` is byte-exact the published Qwen3-VL-Reranker
prompt. With the document first it is `static + candidate + query`, for models trained on it: what
was computed for a candidate then serves every query. The cuts are after `<Query`, `<Document` and
`<Instruct`, where tokenising apart gives the ids of the whole text. No template engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from unirank_jax.compose import (
    Composer,
    Encoded,
    InputPart,
    Length,
    Piece,
    SizedImage,
    image_tokens,
)
from unirank_jax.content import content_error
from unirank_jax.images import ImageSpec
from unirank_jax.tokenizer import Tokenizer

__all__ = [
    "DEFAULT_INSTRUCTION",
    "DOCUMENT_FIRST",
    "PROMPT_IDS",
    "Encoded",
    "Length",
    "Prompt",
    "SizedImage",
    "Tokenizer",
]

DOCUMENT_FIRST = "unirank-docfirst-1"
PROMPT_IDS = ("qwen3vl-reranker-1", "unirank-native-1", DOCUMENT_FIRST)
DEFAULT_INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."

_SYSTEM = (
    "system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".'
)
_INSTRUCTION_LEAD = "user\n<Instruct>: "
_QUERY_LEAD = ">:"
_QUERY_TAIL = "\n<Document"
_CANDIDATE_LEAD = ">:"
_DOCUMENT_LEAD = "user\n<Document"  # the document first
_DOCUMENT_TAIL = "\n<Instruct"


class Prompt:
    """Builds prompts of one version for one tokenizer and one image specification.

    `max_tokens` bounds the whole prompt; `max_query_tokens` bounds the tokens of the query's text,
    and with the document first also those of its images: a candidate is encoded before any query is
    known, so the room that it has must not depend on one. Only text of queries and candidates is
    ever cut, later text first.

    Raises `ValueError` for an unknown `prompt_id`, a label word that is not one token, a special
    token that the tokenizer lacks, and bounds that leave no room for a candidate.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_id: str,
        spec: ImageSpec,
        max_tokens: int,
        max_query_tokens: int,
        label_tokens: tuple[str, str] = ("yes", "no"),
        instruction: str = DEFAULT_INSTRUCTION,
    ) -> None:
        if prompt_id not in PROMPT_IDS:
            raise ValueError(f"unknown prompt_id {prompt_id!r}; choose one of {PROMPT_IDS}")
        self.tokenizer, self.prompt_id, self.spec = tokenizer, prompt_id, spec
        self.max_tokens, self.max_query_tokens = max_tokens, max_query_tokens
        self.instruction, self.label_tokens = instruction, label_tokens
        yes, no = (tokenizer.single(word) for word in label_tokens)
        self.label_ids = (yes, no)
        if yes == no:
            raise ValueError(f"label_tokens {label_tokens} are the same token; choose two")
        start, end = tokenizer.special("<|im_start|>"), tokenizer.special("<|im_end|>")
        self._compose = Composer(tokenizer, spec, prompt_id == "qwen3vl-reranker-1")
        self.image_token_id = self._compose.image_token_id
        newline = tokenizer.encode("\n")
        self._head = [start, *tokenizer.encode(_SYSTEM), end, *newline, start]
        self._suffix = [end, *newline, start, *tokenizer.encode("assistant\n")]
        self._static_ids: dict[str, list[int]] = {}
        self.document_first = prompt_id == DOCUMENT_FIRST
        fixed = len(self._static(instruction, "instruction"))
        if self.document_first:
            fixed += len(tokenizer.encode(_question(instruction))) + len(self._suffix)
        else:
            fixed += self._query_frame
        self._fixed = fixed
        room = max_tokens - fixed - max_query_tokens - self._least_candidate
        if max_query_tokens < 1 or room < 0:
            raise ValueError(
                f"max_query_tokens is {max_query_tokens} and max_tokens is {max_tokens}, of which "
                f"the prompt itself takes {fixed + self._least_candidate}; give max_query_tokens "
                f"of at least 1 and max_tokens of at least {max_tokens - room}"
            )

    def with_visual_tokens(self, most: int) -> Prompt:
        """The same prompt for pictures of at most so many visual tokens."""
        least = min(self.spec.min_visual_tokens, most)
        most = min(self.spec.max_visual_tokens, most)
        return Prompt(
            self.tokenizer,
            self.prompt_id,
            replace(self.spec, min_visual_tokens=least, max_visual_tokens=most),
            self.max_tokens,
            self.max_query_tokens,
            self.label_tokens,
            self.instruction,
        )

    # ------------------------------------------------------------ encoding

    def query(
        self, parts: Sequence[InputPart], instruction: str | None = None, where: str = "query"
    ) -> Encoded:
        """The query's side of the prompt, between the static part and the candidate or after both.

        `Patches` may stand for an image that is decoded already. Raises `ContentError`: an image
        cannot be decoded, or images and instruction leave no room for a candidate.
        """
        items = self._compose.items(parts, where, decode_images=True)
        return self._compose.encoded(*self._query(items, self._chosen(instruction), where), where)

    def prefix(
        self, parts: Sequence[InputPart], instruction: str | None = None, where: str = "query"
    ) -> Encoded:
        """Everything before a candidate, up to and with `<Document`; for the query first only."""
        assert not self.document_first, "with the document first a query has no prefix"
        own = self.query(parts, instruction, where)
        tokens = np.concatenate([self.static(instruction).tokens, own.tokens])
        return Encoded(tokens, own.images, own.truncated, where)

    def candidate(self, parts: Sequence[InputPart], where: str, prefix_length: int) -> Encoded:
        """The candidate's side of the prompt, from `>:` on.

        `prefix_length` is the number of tokens of the prefix that it will follow: text is cut
        where both together would exceed `max_tokens`. With the document first it does not count.
        Raises `ContentError`: an image cannot be decoded, or the images alone do not fit.
        """
        items = self._compose.items(parts, where, decode_images=True)
        return self._compose.encoded(*self._candidate(items, where, prefix_length), where)

    def query_length(
        self, parts: Sequence[InputPart], instruction: str | None = None, where: str = "query"
    ) -> Length:
        """The sizes of `prefix`, or of `query` with the document first, from image headers or
        `SizedImage`; nothing is decoded."""
        items = self._compose.items(parts, where, decode_images=False)
        chosen = self._chosen(instruction)
        ids, kept, truncated = self._query(items, chosen, where)
        static = [] if self.document_first else self._static(chosen, where)
        return self._compose.length(static + ids, kept, truncated)

    def candidate_length(
        self, parts: Sequence[InputPart], where: str, prefix_length: int
    ) -> Length:
        """Exactly the sizes of `candidate`; nothing is decoded."""
        items = self._compose.items(parts, where, decode_images=False)
        return self._compose.length(*self._candidate(items, where, prefix_length))

    # ------------------------------------------------------------ pieces

    def static(self, instruction: str | None = None) -> Encoded:
        """What all pairs share: up to and with `<Query`, or with the document first `<Document`,
        which no instruction changes."""
        ids = self._static(self._chosen(instruction), "instruction")
        return self._compose.encoded(ids, [], False, "instruction")

    @property
    def suffix_length(self) -> int:
        """Tokens after the content of what comes last."""
        return len(self._suffix)

    @cached_property
    def _query_frame(self) -> int:
        """Tokens around the content of a query that comes first."""
        return sum(len(self.tokenizer.encode(text)) for text in (_QUERY_LEAD, _QUERY_TAIL))

    @property
    def _least_candidate(self) -> int:
        """Tokens of the shortest candidate: lead, one token of text, what follows it."""
        after = self.tokenizer.encode(_DOCUMENT_TAIL) if self.document_first else self._suffix
        return len(self.tokenizer.encode(_CANDIDATE_LEAD)) + 1 + len(after)

    def _chosen(self, instruction: str | None) -> str:
        return self.instruction if instruction is None else instruction

    def _static(self, instruction: str, where: str) -> list[int]:
        """Ids of the static part; the last instructions are remembered."""
        key = "" if self.document_first else instruction
        ids = self._static_ids.get(key)
        if ids is None:
            lead = _INSTRUCTION_LEAD + instruction + "<Query"
            text = self._spoken(_DOCUMENT_LEAD if self.document_first else lead, where)
            if len(self._static_ids) >= 256:
                self._static_ids.clear()
            ids = self._static_ids[key] = self._head + text
        return ids

    def _spoken(self, text: str, where: str) -> list[int]:
        """Ids of a text with an instruction in it."""
        try:
            return self.tokenizer.encode(text)
        except (TypeError, UnicodeEncodeError) as error:
            raise content_error(
                where, "the instruction is not valid text", "give a str of valid Unicode"
            ) from error

    def _query(
        self, items: list[Piece], instruction: str, where: str
    ) -> tuple[list[int], list[Piece], bool]:
        if self.document_first:
            return self._last_query(items, instruction, where)
        static = self._static(instruction, f"{where}.instruction")
        limit = self.max_query_tokens + self._query_frame + image_tokens(items)
        ids, kept, truncated = self._compose.fit(_QUERY_LEAD, items, _QUERY_TAIL, limit)
        if not kept:
            raise content_error(
                where,
                f"its first character takes more than {self.max_query_tokens} tokens",
                "raise max_query_tokens",
            )
        if len(static) + len(ids) + self._least_candidate > self.max_tokens:
            raise content_error(
                where,
                f"the query's prompt takes {len(static) + len(ids)} of {self.max_tokens} tokens "
                f"({image_tokens(items)} for images, {len(static)} up to the instruction's end) "
                "and leaves no room for a candidate",
                "use fewer or smaller images, shorten the instruction or raise max_tokens",
            )
        return ids, kept, truncated

    def _last_query(
        self, items: list[Piece], instruction: str, where: str
    ) -> tuple[list[int], list[Piece], bool]:
        """The query after the document, with the instruction before it and the suffix behind."""
        lead = _question(instruction)
        frame = len(self._spoken(lead, f"{where}.instruction"))
        limit = self.max_query_tokens + len(self.tokenizer.encode(_question(self.instruction)))
        ids, kept, truncated = self._compose.fit(lead, items, "", limit)
        if not kept or len(ids) > limit:
            raise content_error(
                where,
                f"with its text cut it still takes {len(ids)} of the {limit} tokens that a query "
                f"has ({image_tokens(items)} for images, {frame} for the instruction)",
                "use fewer or smaller images, shorten the instruction or raise max_query_tokens",
            )
        return ids + self._suffix, kept, truncated

    def _candidate(
        self, items: list[Piece], where: str, prefix_length: int
    ) -> tuple[list[int], list[Piece], bool]:
        if self.document_first:
            tail, after, before = _DOCUMENT_TAIL, [], self._fixed + self.max_query_tokens
        else:
            tail, after, before = "", self._suffix, prefix_length + len(self._suffix)
        limit = self.max_tokens - before
        ids, kept, truncated = self._compose.fit(_CANDIDATE_LEAD, items, tail, limit)
        if not kept or len(ids) > limit:
            raise content_error(
                where,
                f"beside the {before} tokens of the query and the prompt it does not fit "
                f"{self.max_tokens} tokens, even with its text cut ({image_tokens(items)} tokens "
                "are for images)",
                "use fewer or smaller images, a shorter query or a larger max_tokens",
            )
        return ids + after, kept, truncated


def _question(instruction: str) -> str:
    """What stands between a document that comes first and the query."""
    return f">: {instruction}\n<Query>:"

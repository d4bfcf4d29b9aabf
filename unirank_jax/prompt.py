"""Prompts as token ids, built from fixed pieces: the query's prefix and the candidate's rest.

`prefix.tokens + candidate.tokens` is byte-exact the published Qwen3-VL-Reranker prompt. The cut is
after `<Document`, where tokenising apart gives the ids of the whole text. No template engine.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from unirank_jax.content import ContentError, ImagePart, TextPart, content_error
from unirank_jax.images import ImageSpec, Patches, decode, image_size, smart_resize, to_patches
from unirank_jax.tokenizer import Tokenizer

__all__ = [
    "DEFAULT_INSTRUCTION",
    "PROMPT_IDS",
    "Encoded",
    "Length",
    "Prompt",
    "SizedImage",
    "Tokenizer",
]

PROMPT_IDS = ("qwen3vl-reranker-1", "unirank-native-1")
DEFAULT_INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."

_SYSTEM = (
    "system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".'
)
_INSTRUCTION_LEAD = "user\n<Instruct>: "
_QUERY_LEAD = ">:"
_QUERY_TAIL = "\n<Document"
_CANDIDATE_LEAD = ">:"


@dataclass(frozen=True)
class SizedImage:
    """Stands for an image of this size in pixels, upright, where only lengths are asked for."""

    height: int
    width: int
    place: str = ".image"


@dataclass(frozen=True, eq=False)
class Encoded:
    """One side of a prompt. `tokens`: int32 (n,); `images`: in the order of their image tokens.

    `truncated` tells that text was cut off; `where` is the place, for messages.
    """

    tokens: np.ndarray
    images: tuple[Patches, ...]
    truncated: bool
    where: str


@dataclass(frozen=True)
class Length:
    """Size of the `Encoded` that the same call would give: tokens, and patches of each image."""

    tokens: int
    patches: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True)
class _Slot:
    """An image inside a prompt: its grid in patches, its visual tokens, its pixels if decoded."""

    grid: tuple[int, int]
    tokens: int
    patches: Patches | None


InputPart = TextPart | ImagePart | Patches | SizedImage
_Item = str | _Slot


class Prompt:
    """Builds prompts of one version for one tokenizer and one image specification.

    `max_tokens` bounds prefix and candidate together; `max_query_tokens` bounds the tokens of the
    query's text. Only text of queries and candidates is ever cut, later text first.

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
        self.instruction = instruction
        yes, no = (tokenizer.single(word) for word in label_tokens)
        self.label_ids = (yes, no)
        if yes == no:
            raise ValueError(f"label_tokens {label_tokens} are the same token; choose two")
        start, end = tokenizer.special("<|im_start|>"), tokenizer.special("<|im_end|>")
        self.image_token_id = tokenizer.special("<|image_pad|>")
        self._vision_start = tokenizer.special("<|vision_start|>")
        self._vision_end = tokenizer.special("<|vision_end|>")
        newline = tokenizer.encode("\n")
        self._head = [start, *tokenizer.encode(_SYSTEM), end, *newline, start]
        self._suffix = [end, *newline, start, *tokenizer.encode("assistant\n")]
        self._query_frame = sum(len(tokenizer.encode(text)) for text in (_QUERY_LEAD, _QUERY_TAIL))
        self._instruction_ids: dict[str, list[int]] = {}
        fixed = len(self._static(instruction, "instruction")) + self._query_frame
        room = max_tokens - fixed - max_query_tokens - self._least_candidate
        if max_query_tokens < 1 or room < 0:
            raise ValueError(
                f"max_query_tokens is {max_query_tokens} and max_tokens is {max_tokens}, of which "
                f"the prompt itself takes {fixed + self._least_candidate}; give max_query_tokens "
                f"of at least 1 and max_tokens of at least {max_tokens - room}"
            )

    # ------------------------------------------------------------ encoding

    def prefix(
        self, query: Sequence[InputPart], instruction: str | None = None, where: str = "query"
    ) -> Encoded:
        """Everything up to and with `<Document`, for a query's parts.

        `Patches` may stand for an image that is decoded already. Raises `ContentError`: an image
        cannot be decoded, or images and instruction leave no room for a candidate.
        """
        items = self._items(query, where, decode_images=True)
        return self._encoded(*self._prefix(items, instruction, where), where)

    def candidate(self, parts: Sequence[InputPart], where: str, prefix_length: int) -> Encoded:
        """The rest of the prompt, from `>:` on, for a candidate's parts.

        `prefix_length` is the number of tokens of the prefix that it will follow: text is cut
        where both together would exceed `max_tokens`. Raises `ContentError`: an image cannot be
        decoded, or the images alone do not fit.
        """
        items = self._items(parts, where, decode_images=True)
        return self._encoded(*self._candidate(items, where, prefix_length), where)

    def prefix_length(
        self, query: Sequence[InputPart], instruction: str | None = None, where: str = "query"
    ) -> Length:
        """Exactly the sizes of `prefix`, from image headers or `SizedImage`; nothing is decoded."""
        items = self._items(query, where, decode_images=False)
        return self._length(*self._prefix(items, instruction, where))

    def candidate_length(
        self, parts: Sequence[InputPart], where: str, prefix_length: int
    ) -> Length:
        """Exactly the sizes of `candidate`, as `prefix_length` does for `prefix`."""
        items = self._items(parts, where, decode_images=False)
        return self._length(*self._candidate(items, where, prefix_length))

    # ------------------------------------------------------------ pieces

    def static(self, instruction: str | None = None) -> Encoded:
        """The part of a prefix before the query, up to and with `<Query`."""
        chosen = self.instruction if instruction is None else instruction
        return self._encoded(self._static(chosen, "instruction"), [], False, "instruction")

    def query_part(self, prefix: Encoded, instruction: str | None = None) -> Encoded:
        """What follows the static part in a `prefix` that was made with this instruction."""
        chosen = self.instruction if instruction is None else instruction
        tokens = prefix.tokens[len(self._static(chosen, "instruction")) :]
        return Encoded(tokens, prefix.images, prefix.truncated, prefix.where)

    @property
    def suffix_length(self) -> int:
        """Tokens of a candidate after its content."""
        return len(self._suffix)

    @property
    def _least_candidate(self) -> int:
        """Tokens of the shortest candidate: lead, one token of text, suffix."""
        return len(self.tokenizer.encode(_CANDIDATE_LEAD)) + 1 + len(self._suffix)

    def _static(self, instruction: str, where: str) -> list[int]:
        """Ids up to and with `<Query`; the last instructions are remembered."""
        ids = self._instruction_ids.get(instruction)
        if ids is None:
            try:
                text = self.tokenizer.encode(_INSTRUCTION_LEAD + instruction + "<Query")
            except (TypeError, UnicodeEncodeError) as error:
                raise content_error(
                    where, "the instruction is not valid text", "give a str of valid Unicode"
                ) from error
            if len(self._instruction_ids) >= 256:
                self._instruction_ids.clear()
            ids = self._instruction_ids[instruction] = self._head + text
        return ids

    def _prefix(
        self, items: list[_Item], instruction: str | None, where: str
    ) -> tuple[list[int], list[_Item], bool]:
        chosen = self.instruction if instruction is None else instruction
        static = self._static(chosen, f"{where}.instruction")
        limit = self.max_query_tokens + self._query_frame + _image_tokens(items)
        ids, kept, truncated = self._fit(_QUERY_LEAD, items, _QUERY_TAIL, limit)
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
                f"({_image_tokens(items)} for images, {len(static)} up to the instruction's end) "
                "and leaves no room for a candidate",
                "use fewer or smaller images, shorten the instruction or raise max_tokens",
            )
        return static + ids, kept, truncated

    def _candidate(
        self, items: list[_Item], where: str, prefix_length: int
    ) -> tuple[list[int], list[_Item], bool]:
        limit = self.max_tokens - prefix_length - len(self._suffix)
        ids, kept, truncated = self._fit(_CANDIDATE_LEAD, items, "", limit)
        if not kept or len(ids) > limit:
            raise content_error(
                where,
                f"after the query's {prefix_length} tokens it does not fit {self.max_tokens} "
                f"tokens, even with its text cut ({_image_tokens(items)} tokens are for images)",
                "use fewer or smaller images, a shorter query or a larger max_tokens",
            )
        return ids + self._suffix, kept, truncated

    def _items(self, parts: Sequence[InputPart], where: str, decode_images: bool) -> list[_Item]:
        """Texts and images in the order of this prompt version."""
        items: list[_Item] = [
            part.text if isinstance(part, TextPart) else self._slot(part, where, decode_images)
            for part in parts
        ]
        if self.prompt_id == "qwen3vl-reranker-1":
            items.sort(key=lambda item: isinstance(item, str))
        return items

    def _slot(
        self, part: ImagePart | Patches | SizedImage, where: str, decode_images: bool
    ) -> _Slot:
        patch = self.spec.patch_size
        if isinstance(part, Patches):
            return _Slot(part.grid, part.grid[0] * part.grid[1] // self.spec.merge_size**2, part)
        place = where + part.place
        try:
            if isinstance(part, SizedImage):
                height, width = smart_resize(part.height, part.width, self.spec)
            elif decode_images:
                return self._slot(to_patches(decode(part.source, place), self.spec), where, True)
            else:
                height, width = smart_resize(*image_size(part.source, place), self.spec)
        except ContentError:
            raise
        except ValueError as error:
            raise content_error(place, str(error), "crop the image or pad it") from error
        grid = (height // patch, width // patch)
        return _Slot(grid, grid[0] * grid[1] // self.spec.merge_size**2, None)

    def _ids(self, lead: str, items: Iterable[_Item], tail: str) -> list[int]:
        """Ids of lead, items, tail; neighbouring texts are one text."""
        ids: list[int] = []
        text = lead
        for item in items:
            if isinstance(item, str):
                text += item
                continue
            ids += self.tokenizer.encode(text)
            ids += [self._vision_start, *[self.image_token_id] * item.tokens, self._vision_end]
            text = ""
        return ids + self.tokenizer.encode(text + tail)

    def _fit(
        self, lead: str, items: list[_Item], tail: str, limit: int
    ) -> tuple[list[int], list[_Item], bool]:
        """Ids, at most `limit` if cutting text can do it; what is left of the items; any cut?

        Later text is cut first, at the characters where tokens end; then the rest is encoded anew,
        because a token at a cut may encode differently, until it fits.
        """
        kept = list(items)
        ids = self._ids(lead, kept, tail)
        for at in reversed(range(len(kept))):
            text = kept[at]
            while isinstance(text, str) and text and len(ids) > limit:
                excess = len(ids) - limit
                offsets = self.tokenizer.offsets(text)
                start = offsets[-excess][0] if excess < len(offsets) else 0
                kept[at] = text = text[: min(start, len(text) - 1)]
                ids = self._ids(lead, kept, tail)
        return ids, [item for item in kept if item != ""], kept != items

    # ------------------------------------------------------------ results

    def _encoded(self, ids: list[int], items: list[_Item], truncated: bool, where: str) -> Encoded:
        images = tuple(
            item.patches for item in items if isinstance(item, _Slot) and item.patches is not None
        )
        tokens = np.array(ids, np.int32)
        assert np.count_nonzero(tokens == self.image_token_id) == sum(
            len(image.pixels) // self.spec.merge_size**2 for image in images
        )
        return Encoded(tokens, images, truncated, where)

    def _length(self, ids: list[int], items: list[_Item], truncated: bool) -> Length:
        slots = [item for item in items if isinstance(item, _Slot)]
        return Length(len(ids), tuple(slot.grid[0] * slot.grid[1] for slot in slots), truncated)


def _image_tokens(items: Iterable[_Item]) -> int:
    """Tokens of all images, with the two that enclose each."""
    return sum(item.tokens + 2 for item in items if isinstance(item, _Slot))

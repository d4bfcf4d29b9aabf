"""Texts and images of one side of a prompt as token ids, cut to a limit where texts allow it.

Special tokens are put in by id and everything else is tokenised as plain text, so that a content
cannot say what the prompt says.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from unirank_jax.content import ContentError, ImagePart, TextPart, content_error
from unirank_jax.images import ImageSpec, Patches, decode, image_size, smart_resize, to_patches
from unirank_jax.tokenizer import Tokenizer


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

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Length:
    """Size of the `Encoded` that the same call would give: tokens, and patches of each image."""

    tokens: int
    patches: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True)
class Slot:
    """An image inside a prompt: its grid in patches, its visual tokens, its pixels if decoded."""

    grid: tuple[int, int]
    tokens: int
    patches: Patches | None


InputPart = TextPart | ImagePart | Patches | SizedImage
Piece = str | Slot


class Composer:
    """Makes token ids of contents for one tokenizer and one image specification.

    `images_first`: images stand before texts, whatever their order in the content.
    """

    def __init__(self, tokenizer: Tokenizer, spec: ImageSpec, images_first: bool) -> None:
        self.tokenizer, self.spec, self.images_first = tokenizer, spec, images_first
        self.image_token_id = tokenizer.special("<|image_pad|>")
        self._vision_start = tokenizer.special("<|vision_start|>")
        self._vision_end = tokenizer.special("<|vision_end|>")

    def items(self, parts: Sequence[InputPart], where: str, decode_images: bool) -> list[Piece]:
        """Texts and images in the order of this prompt version."""
        items: list[Piece] = [
            part.text if isinstance(part, TextPart) else self._slot(part, where, decode_images)
            for part in parts
        ]
        if self.images_first:
            items.sort(key=lambda item: isinstance(item, str))
        return items

    def _slot(
        self, part: ImagePart | Patches | SizedImage, where: str, decode_images: bool
    ) -> Slot:
        patch = self.spec.patch_size
        if isinstance(part, Patches):
            return Slot(part.grid, part.grid[0] * part.grid[1] // self.spec.merge_size**2, part)
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
        return Slot(grid, grid[0] * grid[1] // self.spec.merge_size**2, None)

    def _ids(self, lead: str, items: Iterable[Piece], tail: str) -> list[int]:
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

    def fit(
        self, lead: str, items: list[Piece], tail: str, limit: int
    ) -> tuple[list[int], list[Piece], bool]:
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

    def encoded(self, ids: list[int], items: list[Piece], truncated: bool, where: str) -> Encoded:
        images = tuple(
            item.patches for item in items if isinstance(item, Slot) and item.patches is not None
        )
        tokens = np.array(ids, np.int32)
        assert np.count_nonzero(tokens == self.image_token_id) == sum(
            len(image.pixels) // self.spec.merge_size**2 for image in images
        )
        return Encoded(tokens, images, truncated, where)

    def length(self, ids: list[int], items: list[Piece], truncated: bool) -> Length:
        slots = [item for item in items if isinstance(item, Slot)]
        return Length(len(ids), tuple(slot.grid[0] * slot.grid[1] for slot in slots), truncated)


def image_tokens(items: Iterable[Piece]) -> int:
    """Tokens of all images, with the two that enclose each."""
    return sum(item.tokens + 2 for item in items if isinstance(item, Slot))

"""An HTML page as a sequence of blocks: headings, paragraphs and images in reading order.

Written for the manuals that Sphinx makes; code, navigation and buttons are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser

_BOILERPLATE = re.compile(
    r"^(Total running time|Click here|Download|Gallery generated|Note$|Out:|Home$|Navigation$)"
)


@dataclass
class Block:
    kind: str  # "heading", "paragraph" or "image"
    text: str = ""
    source: str = ""
    alternative: str = ""


def page_blocks(text: str) -> list[Block]:
    """The blocks of a page's HTML source; an image carries its caption as text."""
    parser = _PageParser()
    parser.feed(text)
    parser.close()
    return parser.blocks


class _PageParser(HTMLParser):
    """Headings, paragraphs and images of a page in reading order, captions joined to images."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._open: list[str] | None = None
        self._kind = ""
        self._figure: list[Block] = []
        self._skip = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in ("pre", "script", "style", "nav", "footer"):
            self._skip += 1
        elif self._skip:
            return
        elif tag == "img":
            alternative = values.get("alt", "")
            block = Block("image", "", values.get("src", ""), _clean(alternative))
            self.blocks.append(block)
            self._figure.append(block)
        elif tag == "figure":
            self._figure = []
        elif tag == "figcaption":
            self._open, self._kind = [], "caption"
        elif re.fullmatch(r"h[1-6]", tag):
            self._open, self._kind = [], "heading"
        elif tag == "p" and self._kind != "caption":
            self._open, self._kind = [], "paragraph"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("pre", "script", "style", "nav", "footer"):
            self._skip = max(0, self._skip - 1)
            return
        closes = {"caption": "figcaption", "paragraph": "p", "heading": tag}.get(self._kind)
        if self._open is None or tag != closes:
            return
        if self._kind == "heading" and not re.fullmatch(r"h[1-6]", tag):
            return
        text = _clean("".join(self._open))
        if self._kind == "caption":
            for block in self._figure[-1:]:
                block.text = text
        elif text and not _BOILERPLATE.match(text):
            level = tag if self._kind == "heading" else ""
            self.blocks.append(Block(self._kind, text, alternative=level))
        self._open, self._kind = None, ""

    def handle_data(self, data: str) -> None:
        if self._open is not None and not self._skip:
            self._open.append(data)


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("¶", " ")).strip()

"""An HTML page as a sequence of blocks: headings, paragraphs and images in reading order.

Captions are joined to their images, in the ways of Sphinx and HTML5 (`figcaption`), DocBook (a
title above, captions below), doxygen and Texinfo (a `div` of class caption) and of pages written
by hand (text centred with the image, paragraphs without tags). Code, navigation and buttons are
left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

_BOILERPLATE = re.compile(
    r"^(Total running time|Click here|Download|Gallery generated|Note$|Out:|Home$|Navigation$)"
)
_BARE_NAVIGATION = re.compile(r"^(Next|Previous|Up|Contents|Main index|Available at|©)\b")
_SKIPPED = ("pre", "script", "style", "nav", "footer")
_HEADING = re.compile(r"h[1-6]")
# Elements that may hold an image with its caption, and those that end an unclosed paragraph.
_FIGURES = {"figure", "informalfigure", "mediaobject", "screenshot", "image", "doxyfig", "float"}
_CAPTIONS = {"caption", "float-caption", "caption-text", "figure-title"}
_BOXES = ("figure", "div", "center", "td", "p")
_BLOCKS = {"div", "ul", "ol", "dl", "li", "dt", "dd", "table", "tr", "td", "th", "hr", "pre"}
_BLOCKS |= {"p", "center", "figure", "blockquote", "body"}
MIN_CENTRED, MAX_CENTRED = 12, 500


@dataclass
class Block:
    kind: str  # "heading", "paragraph" or "image"
    text: str = ""
    source: str = ""
    alternative: str = ""


@dataclass
class _Element:
    """An open element: `place` is "figure" or "centred" where it may hold a captioned image."""

    tag: str
    place: str
    start: int
    images: list[Block] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    title: str = ""


def page_blocks(text: str, bare_text: bool = False) -> list[Block]:
    """The blocks of a page's HTML source; an image carries its caption as text.

    With `bare_text`, text below a heading that stands in no paragraph makes one, too.
    """
    parser = _PageParser(bare_text)
    parser.feed(text)
    parser.close()
    return parser.blocks


class _PageParser(HTMLParser):
    """Headings, paragraphs and images of a page in reading order, captions joined to images."""

    def __init__(self, bare_text: bool) -> None:
        super().__init__(convert_charrefs=True)
        self._bare_text = bare_text
        self.blocks: list[Block] = []
        self._open: list[str] | None = None
        self._kind = ""
        self._tag = ""  # the tag that ends what is open, and how often it is open inside
        self._inside = 0
        self._elements: list[_Element] = []
        self._skip = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if self._kind == "paragraph" and (tag in _BLOCKS or _HEADING.fullmatch(tag)):
            self._finish()
        if tag in _SKIPPED:
            self._skip += 1
        if self._skip:
            return
        if tag in _BOXES:
            self._enter(tag, values)
        if tag == "img":
            alternative = _clean(values.get("alt", ""))
            block = Block("image", "", values.get("src", ""), alternative)
            self.blocks.append(block)
            for element in self._elements:
                element.images.append(block)
        elif self._kind == "caption":
            self._inside += tag == self._tag
        elif tag == "figcaption" or self._is_caption(tag, values):
            self._begin("caption", tag)
        elif _HEADING.fullmatch(tag):
            self._begin("heading", tag)
        elif tag == "p":
            self._begin("paragraph", tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED:
            self._skip = max(0, self._skip - 1)
            return
        if self._open is not None and tag == self._tag:
            if self._inside:
                self._inside -= 1
            else:
                self._finish()
        elif self._kind == "paragraph" and tag in _BLOCKS:
            self._finish()
        if tag in _BOXES:
            self._leave(tag)

    def handle_data(self, data: str) -> None:
        if self._skip:
            return
        if self._bare_text and self._open is None and self.blocks and data.strip():
            self._begin("paragraph", "")
        if self._open is not None:
            self._open.append(data)
        for element in self._elements:
            if element.place == "centred":
                element.words.append(data)

    def _begin(self, kind: str, tag: str) -> None:
        self._open, self._kind, self._tag, self._inside = [], kind, tag, 0

    def _finish(self) -> None:
        """End the heading, paragraph or caption that is open."""
        text = _clean("".join(self._open or ()))
        if self._kind == "caption":
            self._caption(text)
        elif text and not _BOILERPLATE.match(text) and not self._is_navigation(text):
            level = self._tag if self._kind == "heading" else ""
            self.blocks.append(Block(self._kind, text, alternative=level))
        self._open, self._kind, self._tag = None, "", ""

    def _is_navigation(self, text: str) -> bool:
        return self._tag == "" and _BARE_NAVIGATION.match(text) is not None

    def _enter(self, tag: str, values: dict[str, str]) -> None:
        classes = set(values.get("class", "").split())
        if tag == "figure" or (tag == "div" and classes & _FIGURES):
            place = "figure"
        elif tag == "center" or values.get("align", "").lower() == "center":
            place = "centred"
        else:
            place = ""
        if tag == "p":  # paragraphs do not nest: a new one ends one that was left open
            self._leave("p")
        self._elements.append(_Element(tag, place, len(self.blocks)))

    def _leave(self, tag: str) -> None:
        """Close the innermost open element of this tag and what is still open inside it."""
        if tag == "p" and self._elements and self._elements[-1].tag != "p":
            return
        if all(element.tag != tag for element in self._elements):
            return
        while True:
            element = self._elements.pop()
            if element.place == "centred":
                self._close_centred(element)
            elif element.title:
                for image in element.images:
                    image.text = f"{element.title}: {image.text}" if image.text else element.title
            if element.tag == tag:
                return

    def _is_caption(self, tag: str, values: dict[str, str]) -> bool:
        classes = set(values.get("class", "").split())
        if all(element.place != "figure" for element in self._elements):
            return False
        return bool(
            (tag in ("div", "p") and classes & _CAPTIONS) or (tag == "p" and "title" in classes)
        )

    def _caption(self, text: str) -> None:
        """Give a caption to the last image of the innermost figure, or keep it as its title."""
        for element in reversed(self._elements):
            if element.place == "figure":
                if element.images and not element.images[-1].text:
                    element.images[-1].text = text
                elif not element.images:
                    element.title = text
                return

    def _close_centred(self, element: _Element) -> None:
        """Text centred together with images is their caption, and no paragraph."""
        images = [image for image in element.images if not image.text]
        text = _clean("".join(element.words))
        if images and MIN_CENTRED <= len(text) <= MAX_CENTRED:
            for image in images:
                image.text = text
            self.blocks[element.start :] = [
                block for block in self.blocks[element.start :] if block.kind != "paragraph"
            ]


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("¶", " ")).strip()

"""Passages: the part of a paragraph that speaks of a figure, without naming it by its number.

A passage asks for its figure or answers to it, so "(see Figure 3)" would give the answer away
to whoever finds "Figure 3:" in a caption, and means nothing to whoever does not.
"""

from __future__ import annotations

import re

MIN_PASSAGE, MAX_TEXT = 60, 600

_NUMBERS = r"(?:\d+|[A-Z]\.\d+)(?:[.-]\d+)*(?:[a-z]|\s?\([a-z]\))?"
_LIST = rf"{_NUMBERS}(?:\s*(?:,\s*and|,|and|to|&|–|-)\s*{_NUMBERS})*"
_REFERENCE = re.compile(rf"\b(Figures?|Figs?\.?|Tables?)[\s~]*({_LIST})(?![\w.]*\d)", re.IGNORECASE)
_ASIDE = re.compile(
    rf"\s*[(\[]\s*(?:as in|as shown in|shown in|compare|cf\.?|e\.g\.,?|see also|see)?\s*"
    rf"(?:Figures?|Figs?\.?|Tables?)[\s~]*{_LIST}\s*[)\]]",
    re.IGNORECASE,
)


def mentions(text: str) -> list[tuple[str, str, int]]:
    """Every figure and table that a text names: ("figure" or "table", number, position)."""
    found: list[tuple[str, str, int]] = []
    for match in _REFERENCE.finditer(text):
        kind = "table" if match[1].lower().startswith("t") else "figure"
        for number in re.findall(_NUMBERS, match[2]):
            bare = re.sub(r"([a-z]|\s?\([a-z]\))$", "", number)  # "Figure 3a" is about Figure 3
            found.append((kind, bare, match.start()))
    return found


def without_references(text: str) -> str:
    """The text without "(see Figure 3)"; elsewhere "Figure 3" becomes "the figure"."""

    def nameless(match: re.Match[str]) -> str:
        noun = "table" if match[1].lower().startswith("t") else "figure"
        many = re.fullmatch(_NUMBERS, match[2]) is None
        before = match.string[: match.start()].rstrip()
        first = not before or before[-1] in ".:!?"
        return f"{'The' if first else 'the'} {noun}{'s' if many else ''}"

    plain = _REFERENCE.sub(nameless, _ASIDE.sub("", text))
    plain = re.sub(r"\b[Tt]he (?=the (?:figure|table))", "", plain)
    return re.sub(r"\s+([.,;:)])", r"\1", plain).strip()


def around(text: str, position: int, length: int = MAX_TEXT) -> str:
    """At most `length` characters of whole sentences: the one at `position` and what follows it.

    A sentence before it comes along where there is room; a longer sentence is cut at a word. The
    end of a sentence that began elsewhere is left out, unless `position` is in it.
    """
    starts = [0] + [match.end() for match in re.finditer(r"(?<=[.!?])\s+(?=[A-Z(])", text)]
    number = max(place for place, start in enumerate(starts) if start <= position)
    ends = [*starts[1:], len(text)]
    if len(text) <= length:
        number = min(number, 1 if text[:1].islower() else 0)
    elif number > text[:1].islower() and ends[number] - starts[number - 1] <= length:
        number -= 1
    start = starts[number]
    whole = [end for end in ends if start < end <= start + length]
    if whole:
        return text[start : whole[-1]].strip()
    return text[start : start + length].rsplit(" ", 1)[0].strip()

"""A self-contained HTML page of ranked lists: text and image candidates with their scores.

Text is escaped, images are inlined as PNG thumbnails; the page loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

from unirank_jax.content import ContentError, Part, TextPart
from unirank_jax.images import decode

THUMBNAIL = 112  # pixels

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1f24; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { max-width: 62rem; } section h2 { font-size: 1.05rem; margin: 0; }
nav { columns: 18rem; font-size: .9rem; } nav a { display: block; color: #1f5fbf; }
summary { cursor: pointer; color: #1f5fbf; }
pre { background: #f4f5f7; padding: .8rem; overflow-x: auto; font-size: 12.5px; }
section { border: 1px solid #d5d9e0; border-radius: 8px; padding: 1rem; margin: 1.2rem 0; }
.query { display: flex; gap: .8rem; align-items: center; margin-bottom: .8rem; }
.kind { color: #5a6472; font-size: .85rem; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .6rem;
     list-style: none; padding: 0; margin: 0; }
li { border: 1px solid #d5d9e0; border-radius: 6px; padding: .5rem; overflow-wrap: anywhere; }
li.relevant { border: 2px solid #18794e; background: #effaf3; }
table { border-collapse: collapse; font-size: 12.5px; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #e5e8ee; padding: .2rem .5rem; text-align: left;
         white-space: nowrap; } .number { text-align: right; }
td.number { font-variant-numeric: tabular-nums; } tr.model { background: #eef4fd; }
.plots { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; margin: .8rem 0; }
svg text { font: 10.5px system-ui, sans-serif; }
.mid { text-anchor: middle; } .end { text-anchor: end; } .frame { fill: none; stroke: #d5d9e0; }
.guide { stroke: #9aa3af; stroke-dasharray: 4; fill: none; }
.score { font-weight: 600; } .place { color: #5a6472; } img { max-width: 100%; }
"""


@dataclass(frozen=True)
class Candidate:
    """One candidate in rank order."""

    parts: tuple[Part, ...]
    score: float
    relevant: bool


@dataclass(frozen=True)
class RankedList:
    """One query with its candidates from best to worst."""

    kind: str
    query: tuple[Part, ...]
    candidates: tuple[Candidate, ...]


def render(title: str, introduction: str, table: str, lists: Sequence[RankedList]) -> str:
    """The page. `table` is shown as it is, in a fixed-width font."""
    sections = "\n".join(section(ranked) for ranked in lists)
    return document(
        title,
        f"<h1>{html.escape(title)}</h1><p>{html.escape(introduction)}</p>\n"
        f"<pre>{html.escape(table)}</pre>\n{sections}",
    )


def document(title: str, body: str) -> str:
    """A whole page around `body`, which is HTML."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>
<body>{body}
</body></html>
"""


def section(ranked: RankedList, first: int | None = None) -> str:
    """One query with its candidates, the relevant ones framed.

    With `first` only so many are shown, and the relevant ones wherever they are.
    """
    shown = [
        (place, one)
        for place, one in enumerate(ranked.candidates, 1)
        if first is None or place <= first or one.relevant
    ]
    items = "\n".join(
        f'<li class="{"relevant" if one.relevant else ""}"><span class="place">{place}.</span> '
        f'<span class="score">{one.score:.3f}</span><br>{_parts(one.parts)}</li>'
        for place, one in shown
    )
    hidden = len(ranked.candidates) - len(shown)
    more = f"; {hidden} more that are not relevant are not shown" if hidden else ""
    return (
        f'<section><div class="query"><div><h2>{_parts(ranked.query)}</h2>'
        f'<span class="kind">{html.escape(ranked.kind)}; the relevant ones are framed{more}</span>'
        f"</div></div><ol>{items}</ol></section>"
    )


def _parts(parts: Sequence[Part]) -> str:
    return " ".join(
        html.escape(part.text) if isinstance(part, TextPart) else _thumbnail(part.source)
        for part in parts
    )


def _thumbnail(source: object) -> str:
    try:
        image = decode(source, "image")  # type: ignore[arg-type]
    except ContentError as error:
        return f"<em>{html.escape(str(error))}</em>"
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="image" src="data:image/png;base64,{data}">'

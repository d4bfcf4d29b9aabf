"""A page to look at a dataset: a few lists of every kind, in one file without other files."""

from __future__ import annotations

import base64
import html
from collections import defaultdict
from collections.abc import Iterable, Sequence

from unirank_jax.content import ImagePart, Part
from unirank_jax.datasets.records import Item, Query, RankList, hash_number

_STYLE = """\
body { font: 14px sans-serif; margin: 1em auto; max-width: 1180px; color: #222 }
h2 { margin: 1.6em 0 .3em; font-size: 17px } h3 { font-size: 14px; margin: .6em 0 .2em }
.row { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 1em }
.box { width: 104px; border: 2px solid #ddd; padding: 3px; font-size: 11px }
.box { overflow-wrap: anywhere }
.query { border-color: #36c } .g1 { border-color: #7a3 } .g2 { border-color: #171 }
.box img { width: 100% } .note { color: #777; display: block }
"""


def sheet(
    name: str, items: Iterable[Item], made: Sequence[tuple[Query, RankList]], per_kind: int = 4
) -> str:
    """The page: `per_kind` lists of each kind of query, chosen by hash."""
    by_id = {item.did: item for item in items}
    kinds: dict[str, list[tuple[Query, RankList]]] = defaultdict(list)
    for query, ranked in made:
        kinds[f"{query.domain}: {query.kind}"].append((query, ranked))
    body = [f"<h1>{html.escape(name)}: some lists of every kind</h1>"]
    body.append(
        "<p>Blue: the query. Green: relevant (dark: grade 2). Under a candidate: its grade, how "
        "it came into the list, and its kind.</p>"
    )
    for kind in sorted(kinds):
        ordered = sorted(kinds[kind], key=lambda pair: hash_number("sheet", pair[0].qid))
        body.append(f"<h2>{html.escape(kind)} <small>({len(ordered)} lists)</small></h2>")
        for query, ranked in ordered[:per_kind]:
            body.append(f"<div class=row>{_box(query.parts, 'query', query.qid)}")
            for did, grade, origin in zip(
                ranked.dids, ranked.grades, ranked.neg_types, strict=True
            ):
                item = by_id[did]
                note = f"{grade} {origin}, {item.kind}"
                body.append(_box(item.parts, f"g{grade}", note))
            body.append("</div>")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(name)}</title>"
        f"<style>{_STYLE}</style><body>" + "\n".join(body) + "</body></html>\n"
    )


def _box(parts: Sequence[Part], style: str, note: str) -> str:
    shown = []
    for part in parts:
        if isinstance(part, ImagePart):
            assert isinstance(part.source, bytes)
            data = base64.b64encode(part.source).decode("ascii")
            shown.append(f'<img alt="" src="data:image/png;base64,{data}">')
        else:
            shown.append(html.escape(part.text))
    content = "<br>".join(shown)
    return f'<div class="box {style}">{content}<span class=note>{html.escape(note)}</span></div>'

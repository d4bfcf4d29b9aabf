"""What accompanies a dataset: licence notices with what was changed, and counts in meta.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unirank_jax.datasets.dataset import META_NAME, SourceError
from unirank_jax.datasets.records import Item, RankList, split_of
from unirank_jax.datasets.sources import lock, unpack

_RULE = "=" * 78
# Icon sets repacked for npm without a licence file: the text of MIT, for the named holder.
_MIT = """\
MIT License

Copyright (c) {holder}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software
and associated documentation files (the "Software"), to deal in the Software without
restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING
BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def notices(
    changes: str, packages: Iterable[str], raw: Path, credits: Mapping[str, str] | None = None
) -> str:
    """The LICENSES file: what was changed, then one section per package, then credits.

    Raises SourceError where a package carries no notice that could be passed on.
    """
    sections = [(f"{name} {lock()[name].version}", package_notice(name, raw)) for name in packages]
    sections += list((credits or {}).items())
    return changes + "\n".join(
        f"{_RULE}\n{title}\n{_RULE}\n{text.strip()}\n" for title, text in sections
    )


def package_notice(name: str, raw: Path) -> str:
    """The licence file of a package, or for a repacked icon set its stated author and licence."""
    folder = unpack(name, raw)
    if lock()[name].registry == "debian":
        return (folder / f"usr/share/doc/{name}/copyright").read_text(encoding="utf-8")
    files = [path for path in sorted(folder.iterdir()) if path.stem.lower() == "license"]
    if files:
        return files[0].read_text(encoding="utf-8")
    if not (folder / "info.json").is_file():
        raise SourceError(f"{folder}: no licence file; remove the folder and build again")
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    author, licence = info["author"], info["license"]
    text = (
        f"{info['name']} by {author['name']} ({author['url']}), "
        f"licence {licence['title']} ({licence['url']})\n"
    )
    if licence["spdx"] == "MIT":
        text += "\n" + _MIT.format(holder=author["name"])
    return text


def add_counts(
    path: Path,
    meta: dict[str, Any],
    items: Sequence[Item],
    lists: Mapping[str, Sequence[RankList]],
) -> dict[str, Any]:
    """meta.json with more counts per split: items and candidates by modality, origins, grades.

    The content hash stays: it is that of the records.
    """
    modality = {item.did: item.modality for item in items}
    for split, counts in meta["counts"].items():
        chosen = [item for item in items if split_of(item.split_id) == split]
        counts["items_by_modality"] = _sorted(item.modality for item in chosen)
        counts["items_by_source"] = _sorted(item.source for item in chosen)
        listed = lists.get(split, ())
        counts["candidates_by_modality"] = _sorted(modality[x] for one in listed for x in one.dids)
        counts["candidates_by_origin"] = _sorted(x for one in listed for x in one.neg_types)
        counts["candidates_by_grade"] = _sorted(str(x) for one in listed for x in one.grades)
    temporary = path / f".{META_NAME}.writing"
    temporary.write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path / META_NAME)
    return meta


def _sorted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))

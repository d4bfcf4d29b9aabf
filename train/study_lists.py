"""The files of lists that the commands of a study read: mined, with the dataset's own candidates
beside, and the few whose labels may be seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from train.pool_scores import read
from unirank_jax.datasets.dataset import open_source
from unirank_jax.datasets.formats.writing import json_line, write_lines
from unirank_jax.datasets.overlay import overlaid, write_lists

if TYPE_CHECKING:
    from train.study import StudyConfig

FILES = {"lists": "mined.jsonl.gz", "preferences": "preferences.jsonl.gz"}
MINED, JOINED = "mined", "joined"


def mining(config: StudyConfig, workdir: Path, split: str) -> Path:
    """The folder of what was mined."""
    return Path(config.mined or workdir) / f"mine-{split}"


def list_file(config: StudyConfig, workdir: Path, *, own: bool, labelled: bool) -> Path:
    """The training lists; own: with the dataset's candidates where the study asks for them.

    labelled: of those lists alone whose labels may be seen.
    """
    name = JOINED if own and config.own else MINED
    if labelled and config.labelled:
        return _labelled(workdir, name)
    return _joined(workdir) if name == JOINED else _mined(config, workdir)


def write_list_files(config: StudyConfig, workdir: Path) -> None:
    """What `list_file` names and mining has not written."""
    whole = {MINED: _mined(config, workdir)}
    if config.own:
        whole[JOINED] = _joined(workdir)
        if not whole[JOINED].exists():
            joined = overlaid(open_source(config.source), "train", whole[MINED], own=True)
            write_lists(whole[JOINED], joined.lists("train"))
    for name, path in whole.items() if config.labelled else ():
        if not _labelled(workdir, name).exists():
            lists = list(read(path))
            count = min(config.labelled, len(lists))
            chosen = (lists[n * len(lists) // count] for n in range(count))
            write_lines(_labelled(workdir, name), map(json_line, chosen))


def _mined(config: StudyConfig, workdir: Path) -> Path:
    return mining(config, workdir, "train") / FILES["lists"]


def _joined(workdir: Path) -> Path:
    return workdir / f"{JOINED}.jsonl.gz"


def _labelled(workdir: Path, name: str) -> Path:
    return workdir / f"{name}-labelled.jsonl.gz"

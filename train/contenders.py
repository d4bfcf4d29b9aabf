"""What an evaluation compares, by the names that a command gave: models and the dual encoder.

A model is `[NAME=]PATH[:FORM]`: an exported folder, a hub id or a workdir of `train.sft`, and the
form in which it sees all candidates. Each is loaded when its turn to score comes, so only one is in
memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import unirank_jax
from train.baselines import Scorer, Scores
from train.config import ConfigError
from train.evaluation import DUAL, reranker_scorer
from train.forms import Shown, form_of_run, split_form
from unirank_jax.datasets.forms import Form
from unirank_jax.datasets.records import Example
from unirank_jax.hub import resolve

if TYPE_CHECKING:
    from unirank_jax.reranker import Reranker

BASE = Path(unirank_jax.__file__).parent / "assets" / "base"
Paths = dict[str, str | None]  # name -> folder of a model or a run; None: the embedded default


def named(specs: Sequence[str], *, default: bool = True) -> tuple[Paths, dict[str, Form]]:
    """The models of `[NAME=]PATH[:FORM]` and their forms: name -> path, name -> form.

    Without a form it is that of the run, or native. No spec is the embedded default, if `default`.

    Raises:
        ConfigError, WeightsError: a name given twice, or no such model.
    """
    if not specs and default:
        return {"default": None}, {"default": "native"}
    split = [split_form(spec) for spec in specs]
    paths: Paths = {}
    forms: dict[str, Form] = {}
    found = named_paths("--model", [spec for spec, _ in split])
    for (name, path), (_, form) in zip(found.items(), split, strict=True):
        # Now, not when the first models have scored for hours.
        paths[name] = path if _is_run(path) else str(resolve(path))
        forms[name] = form or (form_of_run(path) if _is_run(path) else "native")
    return paths, forms


def named_paths(option: str, specs: Sequence[str]) -> dict[str, str]:
    """name -> path of `NAME=PATH` or `PATH`, which is named by its last part, in their order.

    Raises:
        ConfigError: a name given twice.
    """
    found: dict[str, str] = {}
    for spec in specs:
        name, equals, path = spec.partition("=")
        if not equals:
            name, path = Path(spec).name.removesuffix(".trec"), spec
        if name in found:
            raise ConfigError(f"{option} {spec}: the name {name!r} is taken; write NAME={path}")
        found[name] = path
    return found


def _is_run(path: str) -> bool:
    return (Path(path) / "checkpoints").is_dir()


def model_scorer(name: str, path: str | None, step: str, on_error: str, shown: Shown) -> Scorer:
    """The scorer of a model (None: the embedded default), which sees candidates in its form."""

    def score(examples: Sequence[Example]) -> Scores:
        from unirank_jax.loading import default, load  # JAX: only when it is needed

        def scores(reranker: Reranker) -> Scores:
            seen = shown.to(name, examples, reranker.prompt)
            return reranker_scorer(reranker, on_error=on_error, progress=name)(seen)

        if path is None:
            return scores(default())
        with exported(path, step) as folder:
            return scores(load(folder))

    return score


def require_steps(paths: Iterable[str | None], step: str) -> None:
    """Look for the step in every training run among `paths`, before anything is scored.

    Raises:
        ConfigError: a run that has no such step; the message lists those it has.
    """
    for path in paths:
        if path is None or not _is_run(path):
            continue
        from train.checkpoint import CheckpointError  # JAX: only when it is needed
        from train.initial import find_step

        try:
            find_step(Path(path), step)
        except CheckpointError as error:
            raise ConfigError(f"--model {path}, --step {step}: {error}") from None


@contextmanager
def exported(path: str, step: str) -> Iterator[str]:
    """A model folder as it is; a training run's checkpoint, exported for the time being."""
    if not _is_run(path):
        yield path
        return
    require_steps([path], step)
    from train.export import export

    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        export(Path(path), step, folder, "merged", None)
        yield str(folder)


def dual_folder(path: str | None, source: str) -> Path | None:
    """The folder at `path`; without one, that of the embedded base on the embedded data."""
    if path is None and source.startswith("sample:") and (BASE / "config.json").is_file():
        path = str(BASE)
    return None if path is None else resolve(path)


def dual_encoder(folder: Path | None) -> dict[str, Scorer]:
    """The cosine of the pretrained folder as a baseline; none without a folder."""
    if folder is None:
        return {}

    def score(examples: Sequence[Example]) -> Scores:
        from train.dual import dual_encoder  # JAX: only when it is needed
        from unirank_jax.loading import load

        return dual_encoder(load(folder))(examples)

    return {DUAL: score}

"""Run configurations, typed (train/settings.py): loaded from a Python file, overridden by `--set`.

`load("configs/sci.py:2b", ["optimizer.lr=1e-5"])` runs `get_config("2b")` of that file and applies
the overrides through the field types. Every problem is collected and raised at once. No JAX here.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import hashlib
import json
import runpy
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from unirank_jax.datasets.dataset import MOUNT

# Fields that change how a run goes, not what it computes: a resumed run may change them.
OPERATIONAL = ("mesh", "checkpoint", "evaluation", "log", "data.workers", "data.prefetch")

# A resumed run may change this, too, and says so: the learning rate follows a new curve.
EXTENDED = "schedule.steps"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message lists every problem."""


Config = TypeVar("Config")


def load(spec: str, overrides: Sequence[str] = ()) -> Any:
    """The configuration of `path.py[:argument]` with `a.b=value` overrides applied.

    Raises:
        ConfigError: missing file, no `get_config`, or any bad override; all of them are listed.
    """
    path, argument = split_spec(spec)
    if not Path(path).is_file():
        near = sorted(str(p) for p in Path(path).parent.glob("*.py")) or ["none"]
        raise ConfigError(f"--config: {path} is not a file; found beside it: {', '.join(near)}")
    get_config = _run(Path(path)).get("get_config")
    if not callable(get_config):
        raise ConfigError(f"--config: {path} defines no get_config(argument); add one")
    config = get_config(argument)
    if not dataclasses.is_dataclass(config):
        raise ConfigError(f"--config: get_config of {path} must return a dataclass")
    return override(config, overrides)


def _run(path: Path) -> dict[str, Any]:
    """The names that a config file defines; it may import its neighbours, as `configs.sci`."""
    folder = str(path.resolve().parent.parent)
    sys.path.insert(0, folder)
    try:
        return runpy.run_path(str(path))
    except ImportError as error:
        raise ConfigError(
            f"--config: {path}: {error}; keep a copied file beside those it imports"
        ) from None
    finally:
        sys.path.remove(folder)


def split_spec(spec: str) -> tuple[str, str | None]:
    """`configs/sci.py:2b` -> ("configs/sci.py", "2b"); no argument gives None."""
    path, colon, argument = spec.rpartition(":")
    return (path, argument) if colon and path.endswith(".py") else (spec, None)


def choose(argument: str | None, options: dict[str, Callable[[], Config]], default: str) -> Config:
    """Helper of config files: build the named variant.

    Raises:
        ConfigError: an unknown name, with the list of names.
    """
    name = argument or default
    if name not in options:
        raise ConfigError(f"--config: size {name!r} is unknown{_hint(name, list(options))}")
    return options[name]()


def require_size(spec: str, accelerators: int) -> None:
    """Refuse a run on several accelerators that did not say which size it means.

    Raises:
        ConfigError: the configuration has no size and there is more than one accelerator.
    """
    path, argument = split_spec(spec)
    if argument is None and accelerators > 1:
        raise ConfigError(
            f"--config: {accelerators} accelerator devices are present, and {path} without a size "
            f"is the tiny model; say {path}:2b, or {path}:tiny when the tiny one is meant"
        )


def override(config: Config, overrides: Sequence[str]) -> Config:
    """A copy of `config` with `a.b=value` strings applied, each parsed by its field's type.

    Raises:
        ConfigError: unknown fields (with the nearest name and the list) and unparsable values.
    """
    problems: list[str] = []
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            problems.append(f"--set {text}: write it as field=value")
            continue
        try:
            config = _replace(config, name.strip().split("."), value.strip(), "")
        except ConfigError as error:
            problems.append(f"--set {text}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values (tuples become lists), as they are stored in config.json."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type[Config], values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`; a field with a default may be absent (older files lack it).

    Raises:
        ConfigError: missing or unknown fields, by their full names.
    """
    problems: list[str] = []
    config = _build(kind, completed(kind, values), "", problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def completed(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Stored values with the defaults of the fields that the version which wrote them lacked."""
    hints, filled = typing.get_type_hints(kind), dict(values)
    for one in dataclasses.fields(kind):
        if one.name not in filled and one.default is not dataclasses.MISSING:
            filled[one.name] = one.default
        elif dataclasses.is_dataclass(hints[one.name]) and isinstance(filled.get(one.name), dict):
            filled[one.name] = completed(hints[one.name], filled[one.name])
    return filled


def digest(config: Any) -> str:
    """12 hexadecimal digits that name a configuration."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def name_of(told: Any) -> str:
    """16 hexadecimal digits that name plain values: a file made of what depends on them."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def differences(
    old: dict[str, Any], new: dict[str, Any], ignore: Sequence[str] = OPERATIONAL
) -> list[str]:
    """Fields that differ between two stored configurations, as `a.b: old -> new`."""
    before, after = _flatten(old), _flatten(new)
    return [
        f"{name}: {before.get(name, 'absent')!r} -> {after.get(name, 'absent')!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
        and not any(name == skip or name.startswith(skip + ".") for skip in ignore)
    ]


def keep(path: Path, told: dict[str, Any], what: str) -> None:
    """Write what the results in a folder depend on, or compare it with what is there.

    Raises:
        ConfigError: the folder holds `what`; every difference is named.
    """
    if not path.exists():
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
        return
    changed = differences(json.loads(path.read_text("utf-8")), told, ignore=())
    if changed:
        raise ConfigError(
            f"--workdir: {path.parent} holds {what}; choose another --workdir, or undo these "
            "changes:\n  " + "\n  ".join(changed)
        )


def parse(
    command: str,
    description: str,
    default: str,
    argv: Sequence[str] | None,
    *,
    compiles: bool = False,
    jobs: bool = False,
) -> Any:
    """The arguments that every training command shares: config (a spec), set, workdir.

    compiles: also `--compile-only`; jobs: also `--jobs`.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m train.{command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"""examples:
  python -m train.{command} --config {default}
  python -m train.{command} --config {default} --set optimizer.lr=1e-5 schedule.steps=200
  python -m train.{command} --config {default}:2b --workdir runs/first

Running the same command again resumes the run, bit for bit on the same devices; with a larger
schedule.steps it goes on for longer.""",
    )
    parser.add_argument("--config", default=default, help="path.py[:size] (default: %(default)s)")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="typed overrides, e.g. optimizer.lr=1e-5 loss.bce=0.5 mesh.fsdp=4",
    )
    parser.add_argument("--workdir", help="folder of the run (default: runs/COMMAND-CONFIG-SIZE)")
    if compiles:
        parser.add_argument(
            "--compile-only",
            metavar="TOPOLOGY",
            help="compile the step for this TPU topology, e.g. v6e:16x16, say whether it fits and "
            "estimate its speed; nothing is read or run (needs libtpu)",
        )
    if jobs:
        parser.add_argument(
            "--jobs",
            type=int,
            default=1,
            help="so many commands at once, each on its share of the CPU cores (default: 1); what "
            "they print goes to WORKDIR/logs",
        )
    arguments = parser.parse_args(argv)
    if jobs and arguments.jobs < 1:
        parser.error(f"--jobs {arguments.jobs}: must be at least 1")
    if "://" in (arguments.workdir or ""):
        parser.error(f"--workdir {arguments.workdir}: {MOUNT}")
    if arguments.workdir is None:
        path, size = split_spec(arguments.config)
        arguments.workdir = f"runs/{command}-{Path(path).stem}-{size or 'tiny'}"
    return arguments


def _hint(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    suggestion = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{suggestion} choose one of: {', '.join(names)}"


def _replace(config: Any, path: list[str], text: str, where: str) -> Any:
    """A copy of a dataclass or dictionary with the value at `path` parsed from `text`."""
    name, rest = path[0], path[1:]
    full = f"{where}{name}"
    hints = typing.get_type_hints(type(config))
    if name not in hints:
        raise ConfigError(f"{full!r} is unknown{_hint(name, list(hints))}")
    current = getattr(config, name)
    if dataclasses.is_dataclass(current):
        if not rest:
            names = ", ".join(f"{full}.{f.name}" for f in dataclasses.fields(current))
            raise ConfigError(f"{full!r} is a group; set one of its fields: {names}")
        return _copy(config, name, _replace(current, rest, text, full + "."))
    if isinstance(current, dict) and len(rest) == 1:
        keys = _dict_keys(config, name)
        if keys and rest[0] not in keys:
            raise ConfigError(f"'{full}.{rest[0]}' is unknown{_hint(rest[0], keys)}")
        kind = typing.get_args(hints[name])[1]
        return _copy(config, name, {**current, rest[0]: _parse(text, kind)})
    if isinstance(current, dict) or rest:
        raise ConfigError(f"{'.'.join([full, *rest])!r} is not a field; {full} has {current!r}")
    return _copy(config, name, _parse(text, hints[name]))


def _copy(config: Any, name: str, value: Any) -> Any:
    return dataclasses.replace(config, **{name: value})


def _dict_keys(config: Any, name: str) -> list[str]:
    (found,) = (f for f in dataclasses.fields(config) if f.name == name)
    return list(found.metadata.get("keys", ()))


def _parse(text: str, kind: Any) -> Any:
    """`text` as a value of an annotated type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    try:
        if origin is Literal:
            if text not in arguments:
                raise ConfigError(f"{text!r} is not allowed{_hint(text, list(arguments))}")
            return text
        if origin in (typing.Union, types.UnionType):
            if text.lower() == "none" and type(None) in arguments:
                return None
            return _parse(text, next(a for a in arguments if a is not type(None)))
        if origin is tuple:
            parts = _items(text)
            kinds = arguments[:1] * len(parts) if arguments[-1] is ... else arguments
            if len(kinds) != len(parts):
                raise ConfigError(f"needs {len(kinds)} values separated by commas, not {text!r}")
            return tuple(_parse(p, k) for p, k in zip(parts, kinds, strict=True))
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind in (int, float, str):
            return kind(text)
    except (ValueError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{text!r} is not a {kind.__name__}") from None
    raise ConfigError(f"a value of type {kind} cannot be set from the command line")


def _items(text: str) -> list[str]:
    """What stands between the commas of `a,b`, `(a, b)` or `["a", "b"]`."""
    if text[:1] in ("(", "[") and _closes(text) == len(text) - 1:
        text = text[1:-1]
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return [p[1:-1] if len(p) > 1 and p[0] == p[-1] and p[0] in "\"'" else p for p in parts]


def _closes(text: str) -> int:
    """Where the bracket that a text begins with is closed; -1 = nowhere."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if depth == 0:
            return place
    return -1


def _build(kind: Any, values: Any, where: str, problems: list[str]) -> Any:
    if not dataclasses.is_dataclass(kind):
        return tuple(values) if typing.get_origin(kind) is tuple else values
    hints = typing.get_type_hints(kind)
    problems += [f"{where}{name}: missing" for name in hints if name not in values]
    problems += [
        f"{where}{name}: unknown{_hint(name, list(hints))}" for name in values if name not in hints
    ]
    known = {
        name: _build(hints[name], value, f"{where}{name}.", problems)
        for name, value in values.items()
        if name in hints
    }
    return None if problems else kind(**known)  # type: ignore[operator]


def _flatten(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{where}{name}."))
        else:
            flat[where + name] = value
    return flat

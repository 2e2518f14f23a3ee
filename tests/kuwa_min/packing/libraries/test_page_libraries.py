"""The libraries of the chat page: what is taken out of npm packages, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import tarfile
from pathlib import Path

import pytest

from kuwa_min.bundle.sbom import is_license_file
from kuwa_min.errors import UsageError
from kuwa_min.packing.libraries import page_libraries
from kuwa_min.packing.libraries.page_libraries import (
    PACKAGES,
    ZIP_FOLDER,
    NpmPackage,
    Unavailable,
    find_page_libraries,
)
from tests.support.programs import ROOT

FILES = {"LICENSE": b"Do what you like.", "lib/one.js": b"export default 1;", "more.js": b"2"}


def packed(cache: Path) -> NpmPackage:
    """Write a package into the cache, as `npm pack` does; return its pin."""
    cache.mkdir(exist_ok=True)
    one = NpmPackage("@we/one", "1.2.3", "", "MIT", "lib/one.js", "one.js", ("LICENSE",))
    with tarfile.open(cache / one.archive, "w:gz") as tar:
        for name, content in FILES.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    digest = hashlib.sha512((cache / one.archive).read_bytes()).digest()
    return one._replace(integrity=f"sha512-{base64.b64encode(digest).decode()}")


def test_a_module_and_its_licence_travel_unchanged(tmp_path: Path) -> None:
    """From the cache, without npm."""
    one, lines = packed(tmp_path), list[str]()
    found = find_page_libraries(tmp_path, no_index=True, log_step=lines.append, packages=(one,))
    assert found.entries == {
        f"{ZIP_FOLDER}/one.js": FILES["lib/one.js"],
        f"{ZIP_FOLDER}/one.LICENSE.txt": FILES["LICENSE"],
    }
    archive = tmp_path / "we-one-1.2.3.tgz"
    assert found.packages == [
        {
            "name": "@we/one",
            "version": "1.2.3",
            "wheel": archive.name,
            "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
            "license": "MIT",
            "spdx": True,
        }
    ]
    assert [name for name in found.entries if is_license_file(name)] == [
        f"{ZIP_FOLDER}/one.LICENSE.txt"
    ]
    assert lines == []


def test_another_content_is_refused(tmp_path: Path) -> None:
    """By name, and with what to do."""
    one = packed(tmp_path)
    (tmp_path / one.archive).write_bytes((tmp_path / one.archive).read_bytes() + b"\0")
    with pytest.raises(UsageError, match=r"not @we/one 1.2.3 as it was pinned.*remove it"):
        find_page_libraries(tmp_path, no_index=True, log_step=print, packages=(one,))


def test_without_npm_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor offline, unless the cache has them."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="npm is missing"):
        find_page_libraries(tmp_path / "npm", no_index=False, log_step=print)
    with pytest.raises(Unavailable, match=r"lacks marked-.*--no_index"):
        find_page_libraries(tmp_path / "npm", no_index=True, log_step=print)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'npm error code E404' >&2; exit 1", "npm failed: code E404"),
        ("sleep 9", "than 0.2 s"),
        ("echo marked.tgz", r"npm wrote no marked-.*\.tgz"),
    ],
)
def test_an_npm_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    """Its own reason, or that it takes too long."""
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(page_libraries, "TIMEOUT", 0.2 if "sleep" in script else 20)
    with pytest.raises(Unavailable, match=said):
        find_page_libraries(tmp_path / "cache", no_index=False, log_step=print)


def test_the_page_imports_what_travels() -> None:
    """Its imports name the same files as the table."""
    folder = ROOT / "kuwa_min/kernel/page/markdown"
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.js"))
    found = re.findall(r'import\("\.\./libraries/(\S+\.js)"\)', source)
    assert set(found) == {one.file for one in PACKAGES}
    assert all(re.fullmatch(r"sha512-[\w+/]{86}==", one.integrity) for one in PACKAGES)

"""The manifest: read from the archive the code runs from, described for a person."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

from kuwa_min import manifest

PACKAGE = Path(manifest.__file__).parent
EXAMPLE: manifest.Manifest = {
    "name": "kuwa-min",
    "version": "0.1.0",
    "backend": "debug",
    "built_for": {
        "python": ">=3.10",
        "implementation": "cpython",
        "bytecode": "3.11",
        "platform": "any",
    },
    "packages": [
        {"name": "kuwa-min", "version": "0.1.0", "sha256": "a" * 64},
        {"name": "some-library", "version": "10.20.30", "sha256": "b" * 64},
    ],
    "shiv_version": "1.0.8",
    "built_at": "1980-01-01 00:00:00",
}
READ = (
    "from kuwa_min.manifest import read_manifest; import json; print(json.dumps(read_manifest()))"
)


def read_inside(archive: Path) -> object:
    """Return what read_manifest finds when this module is imported from the archive."""
    program = f"import sys; sys.path.insert(0, {f'{archive}/site-packages'!r}); {READ}"
    done = subprocess.run([sys.executable, "-Ic", program], capture_output=True, check=True)
    return json.loads(done.stdout)


def make_archive(path: Path, entries: dict[str, str]) -> Path:
    """Zip these entries and a kuwa_min of nothing but the module under test."""
    source = (PACKAGE / "manifest.py").read_text(encoding="utf-8")
    package = {"__init__.py": "", "manifest.py": source}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in package.items():
            archive.writestr(f"site-packages/kuwa_min/{name}", text)
        for name, text in entries.items():
            archive.writestr(name, text)
    return path


def test_a_checkout_has_no_manifest() -> None:
    """Code that runs from a directory says None."""
    assert manifest.read_manifest() is None


def test_an_archive_gives_its_own_manifest(tmp_path: Path) -> None:
    """The manifest at the root of the archive comes back, also from a path with odd characters."""
    path = tmp_path / "a file é 檔.pyz"
    assert read_inside(make_archive(path, {"manifest.json": json.dumps(EXAMPLE)})) == EXAMPLE


def test_a_foreign_archive_has_no_manifest(tmp_path: Path) -> None:
    """Somebody else's zip of this package says None instead of failing."""
    assert read_inside(make_archive(tmp_path / "foreign.zip", {})) is None


def test_a_manifest_in_the_current_directory_is_not_ours(tmp_path: Path, monkeypatch) -> None:
    """A file of that name where the program happens to run is not read."""
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert manifest.read_manifest() is None


def test_the_description_is_aligned_and_complete() -> None:
    """The first line is name and version; every other line is a title and a fact."""
    assert manifest.describe(EXAMPLE).splitlines() == [
        "kuwa-min 0.1.0",
        "backend     debug",
        "built for   Python >=3.10, platform any",
        "bytecode    cpython 3.11",
        "built at    1980-01-01 00:00:00 UTC",
        "built with  shiv 1.0.8",
        "package     kuwa-min      0.1.0     sha256:" + "a" * 64,
        "package     some-library  10.20.30  sha256:" + "b" * 64,
    ]

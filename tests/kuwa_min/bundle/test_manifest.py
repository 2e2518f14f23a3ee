"""The manifest: read from the archive the code runs from, described as text."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kuwa_min.bundle import manifest
from tests.support.manifests import EXAMPLE, HEAVY

PACKAGE = Path(manifest.__file__).parent
MODULES = ("__init__.py", "manifest.py", "versions.py")
READ = (
    "from kuwa_min.bundle import manifest as m; import json; print(json.dumps(m.read_manifest()))"
)


def read_inside(archive: Path) -> object:
    """Return what read_manifest finds when this module is imported from the archive."""
    program = f"import sys; sys.path.insert(0, {f'{archive}/site-packages'!r}); {READ}"
    done = subprocess.run([sys.executable, "-Ic", program], capture_output=True, check=True)
    return json.loads(done.stdout)


def make_archive(path: Path, entries: dict[str, str]) -> Path:
    """Zip these entries and a kuwa_min of nothing but the module under test and its imports."""
    sources = {name: (PACKAGE / name).read_text(encoding="utf-8") for name in MODULES}
    package = {"__init__.py": "", **{f"bundle/{name}": text for name, text in sources.items()}}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in package.items():
            archive.writestr(f"site-packages/kuwa_min/{name}", text)
        for name, text in entries.items():
            archive.writestr(name, text)
    return path


def test_a_checkout_has_no_manifest() -> None:
    """Code that runs from a folder gets None."""
    assert manifest.read_manifest() is None


def test_an_archive_gives_its_own_manifest(tmp_path: Path) -> None:
    """The manifest at the root of the archive comes back, also from a path with odd characters."""
    path = tmp_path / "a file é 檔.pyz"
    assert read_inside(make_archive(path, {"manifest.json": json.dumps(EXAMPLE)})) == EXAMPLE


def test_a_foreign_archive_has_no_manifest(tmp_path: Path) -> None:
    """A zip of this package that another tool made gets None instead of an error."""
    assert read_inside(make_archive(tmp_path / "foreign.zip", {})) is None


def test_a_manifest_in_the_current_directory_is_not_ours(tmp_path: Path, monkeypatch) -> None:
    """A file of that name where the program happens to run is not read."""
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert manifest.read_manifest() is None


PLAIN = [
    "kuwa-min 0.1.0",
    "backend     debug",
    "built for   Python >=3.10, platform any",
    "bytecode    cpython 3.11",
    "built at    1980-01-01 00:00:00 UTC",
    "built with  shiv 1.0.8",
    "package     kuwa-min  0.1.0  sha256:" + "a" * 64,
]
FACTS = [
    "kuwa-min 0.1.0",
    "backend     huggingface",
    "built for   Python 3.12 (cp312), platform manylinux_2_28_x86_64",
    "bytecode    cpython 3.12",
    "built at    1980-01-01 00:00:00 UTC",
    "built with  shiv 1.0.8",
    "libraries   2 packages, 21,169 files, 4.7 GB unpacked (id 0123456789abcdef0123)",
    "model       1 file, 448 KB unpacked (id 3210fedcba9876543210)",
    "needs       glibc 2.28 or newer",
    "needs       system libraries libgomp.so.1, libstdc++.so.6 (CXXABI_1.3, GLIBCXX_3.4.29)",
    "needs       a CPU with avx2, fma",
    "needs       CUDA 13.0 with NVIDIA driver 580.65 or newer",
    "needs       libvulkan.so.1 for graphics cards",
]


def test_the_description_is_aligned_and_complete() -> None:
    """The first line is name and version; every other line is a title and a fact."""
    assert manifest.describe(EXAMPLE).splitlines() == PLAIN


def test_a_file_without_bytecode_has_no_line_on_it() -> None:
    """A title without a text is left out."""
    bare: manifest.Manifest = {**EXAMPLE, "built_for": {**EXAMPLE["built_for"], "bytecode": ""}}
    assert manifest.describe(bare).splitlines() == [*PLAIN[:3], *PLAIN[4:]]


def test_the_full_description_of_a_plain_file_adds_the_license() -> None:
    """Nothing else is known of it."""
    assert manifest.describe_fully(EXAMPLE).splitlines() == [*PLAIN[:-1], f"{PLAIN[-1]}  MIT"]


def test_the_description_counts_payloads_and_names_requirements() -> None:
    """Libraries by number and size, not by name; of symbol versions the newest of each family."""
    own = "package     kuwa-min  0.1.0  sha256:" + "a" * 64
    assert manifest.describe(HEAVY).splitlines() == [*FACTS, own]


def test_the_full_description_names_every_package() -> None:
    """One aligned line for each, with the wheel's hash and the license; then the host's part."""
    lines = manifest.describe_fully(HEAVY).splitlines()
    assert [line.split() for line in lines[: len(FACTS)]] == [line.split() for line in FACTS]
    assert lines[len(FACTS) :] == [
        "package       kuwa-min       0.1.0   sha256:" + "a" * 64 + "  MIT",
        "package       nvidia-cublas  13.1    sha256:" + "b" * 64,
        "package       torch          2.13.0  sha256:" + "c" * 64 + "  BSD-3-Clause",
        "host package  numpy>=2",
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 KB"),
        (9_949, "9.9 KB"),
        (9_950, "10 KB"),
        (144_000, "144 KB"),
        (999_499, "999 KB"),
        (999_500, "1.0 MB"),
        (26_700_000, "27 MB"),
        (1_300_000_000, "1.3 GB"),
        (4_700_000_000, "4.7 GB"),
        (2 * 10**15, "2000 TB"),
    ],
)
def test_sizes_are_rounded(size: int, text: str) -> None:
    """Decimal units, two digits of what matters, never 1000 of anything but the largest."""
    assert manifest.size_text(size) == text

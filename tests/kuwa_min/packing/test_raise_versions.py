"""Raising the versions: real uv, a small index; the tests that are run are `true` or `false`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing import raise_versions
from kuwa_min.packing.wheels.lock import Pin, SourcePin
from kuwa_min.registry import BackendInfo
from tests.support.fake_wheels import leave_the_internet, make_wheel, served

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
PROJECT = """\
[project.optional-dependencies]
build = ["shared<2"]
test = ["kuwa-min[build]"]
heavy = ["pack"]
cloud = []
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the constraints file a temporary one."""
    path = tmp_path / "constraints.txt"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(raise_versions, "FILE", path)
    return path


@pytest.mark.parametrize(
    ("command", "code", "kept", "said"),
    [
        (["true"], 0, "new", "constraints.txt: raised"),
        (["false"], 1, "old", "constraints.txt: the old versions are back"),
    ],
)
def test_versions_are_kept_only_if_the_tests_pass(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    code: int,
    kept: str,
    said: str,
) -> None:
    """And while they run, the new ones are in the file."""
    monkeypatch.setattr(raise_versions, "constraints_text", lambda: "new")
    assert raise_versions.main(["grep", "-q", "new", str(file)]) == 0
    file.write_text("old", encoding="utf-8")
    assert raise_versions.main(command) == code
    assert file.read_text(encoding="utf-8") == kept
    assert capsys.readouterr().err.endswith(f"raise_versions: {said}\n")


def test_what_cannot_be_resolved_changes_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says why."""

    def fail() -> str:
        raise UsageError("nothing fits")

    monkeypatch.setattr(raise_versions, "constraints_text", fail)
    assert raise_versions.main(["true"]) == 1
    assert file.read_text(encoding="utf-8") == "old"
    assert "raise_versions: error: nothing fits\n" in capsys.readouterr().err


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve what the one backend requires; pack 2 wants a new Python."""
    leave_the_internet(monkeypatch, tmp_path)
    root = tmp_path / "index"
    make_wheel(root / "pack", "pack", "1", "shared")
    make_wheel(
        root / "pack", "pack", "2", "shared", 'never; python_version < "3.8"', tag="cp311-none-any"
    )
    for version in ("1", "2"):
        make_wheel(root / "shared", "shared", version)
    make_wheel(root / "dep", "dep", "7")
    with served(root) as url:
        monkeypatch.setenv("UV_DEFAULT_INDEX", url)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("index")
def test_one_version_serves_all_backends_and_the_tests_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what compiles llama.cpp; a version that older Pythons lack is for newer ones only."""
    wheel = make_wheel(tmp_path / "own", "llama_cpp_python", "0.3.40", "dep")
    tools = (Pin("cmake", "4", ()), Pin("shared", "1", ()))
    source = SourcePin(Pin("llama-cpp-python", "0.3.40", ()), tools)
    requires = {"pack": "pack>=1", "llama_cpp": "llama-cpp-python>=0.3"}
    monkeypatch.setattr(raise_versions, "pin_source", lambda *_: source)
    monkeypatch.setattr(raise_versions, "build_llama_wheel", lambda *_: wheel)
    infos = {"some": BackendInfo("some", "", requires)}
    monkeypatch.setattr(raise_versions, "backend_infos", lambda: infos)
    project = tmp_path / "pyproject.toml"
    project.write_text(PROJECT, encoding="utf-8")
    monkeypatch.setattr(raise_versions, "PROJECT", project)
    here = raise_versions.TargetPython.of_this_machine()._replace(python="3.11")
    monkeypatch.setattr(raise_versions.TargetPython, "of_this_machine", lambda: here)
    lines = raise_versions.constraints_text().splitlines()
    assert lines[2].startswith("# raised: 20") and lines[2].endswith(f"3.11 on {here.machine}")
    assert lines[3:] == [
        "cmake==4",
        "dep==7",
        "llama-cpp-python==0.3.40",
        'pack==2 ; python_version >= "3.11"',
        "shared==1",
    ]

"""The wheel of llama-cpp-python: its arguments, its reuse and its failures, with a tiny sdist.

The sdist brings its own build backend, so that the real pip builds it without any index.
"""

from __future__ import annotations

import importlib.util
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels import llama_wheel
from kuwa_min.packing.wheels.llama_wheel import build_llama_wheel, cmake_args
from tests.support.fake_wheels import leave_the_internet

PORTABLE = (
    "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DCMAKE_INSTALL_BINDIR=llama_cpp/lib "
    "-DCMAKE_INSTALL_LIBDIR=llama_cpp/lib -DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON"
)
VARIANTS = "-DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON"
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
METADATA = "Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: {version}\n"
BACKEND = """
import os, pathlib, zipfile
def build_wheel(folder, settings=None, metadata=None):
    arguments = os.environ["CMAKE_ARGS"]
    if "-DBROKEN=ON" in arguments:
        print("all is well so far")
        raise SystemExit("ggml.c:1: error: it does not compile")
    name = "llama_cpp_python-{version}-py3-none-linux_x86_64.whl"
    info = "llama_cpp_python-{version}.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as archive:
        archive.writestr("llama_cpp/arguments", arguments)
        archive.writestr(info + "/METADATA", pathlib.Path("PKG-INFO").read_text())
        archive.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-linux_x86_64\\n")
        archive.writestr(info + "/RECORD", "")
    return name
"""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let pip find two versions of the sources, and nothing else."""
    leave_the_internet(monkeypatch, tmp_path)
    for version in ("0.3.35", "0.3.36"):
        make_sdist(tmp_path / "sources", version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "sources"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def make_sdist(folder: Path, version: str) -> None:
    """Make sources that pip can build."""
    root = f"llama_cpp_python-{version}"
    folder.mkdir(exist_ok=True)
    texts = {"pyproject.toml": PROJECT, "PKG-INFO": METADATA, "backend.py": BACKEND}
    with tarfile.open(folder / f"{root}.tar.gz", "w:gz") as archive:
        for name, text in texts.items():
            content = text.replace("{version}", version).encode()
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def arguments_of(wheel: Path) -> str:
    """Return the CMAKE_ARGS that a wheel was built with."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read("llama_cpp/arguments").decode()


@pytest.mark.parametrize(
    ("machine", "own", "arguments"),
    [
        ("x86_64", None, f"{PORTABLE} {VARIANTS}"),
        ("x86_64", " -DGGML_CUDA=on  -DX=1 ", f"{PORTABLE} {VARIANTS} -DGGML_CUDA=on -DX=1"),
        ("aarch64", "-DGGML_NATIVE=ON", f"{PORTABLE} -DGGML_NATIVE=ON"),
    ],
)
def test_portable_first_and_the_users_last(machine: str, own: str | None, arguments: str) -> None:
    """The last of two settings is the one that CMake takes."""
    environment = {} if own is None else {"CMAKE_ARGS": own}
    assert cmake_args(environment, machine) == arguments


@pytest.mark.slow
def test_a_wheel_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other arguments or another version make another one."""
    monkeypatch.setattr(llama_wheel, "PROGRESS_INTERVAL", 0.01)
    house, said = tmp_path / "house", list[str]()
    first = build_llama_wheel("llama-cpp-python==0.3.35", house, said.append)
    assert arguments_of(first) == f"{PORTABLE} {VARIANTS}"
    assert said[0].startswith("compiling llama-cpp-python==0.3.35 with CMAKE_ARGS='-DGGML_NATIVE")
    assert said[1] == "compiling for 0 min 0 s"

    said.clear()
    monkeypatch.setattr("subprocess.Popen", None)
    assert build_llama_wheel("llama-cpp-python>=0.3", house, said.append) == first
    assert said == [f"{first.name} was compiled before, with the same CMAKE_ARGS"]


@pytest.mark.slow
def test_other_arguments_make_another_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each version and each set of arguments in a folder of its own, fit for --wheels."""
    house = tmp_path / "house"
    old = build_llama_wheel("llama-cpp-python<0.3.36", house, lambda line: None)
    new = build_llama_wheel("llama-cpp-python==0.3.36", house, lambda line: None)
    assert (old.parent.name, new.parent.name) == ("0.3.35", "0.3.36")
    assert old.parent.parent == new.parent.parent
    assert build_llama_wheel("llama-cpp-python", house, lambda line: None) == new
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")
    cuda = build_llama_wheel("llama-cpp-python==0.3.36", house, lambda line: None)
    assert cuda.parent.parent != new.parent.parent and cuda.name == new.name
    assert arguments_of(cuda).endswith(" -DGGML_CUDA=on")
    left = sorted(path.name for path in new.parent.parent.iterdir())
    assert left == ["0.3.35", "0.3.36", "build.log"]


@pytest.mark.slow
def test_what_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the reason and the log's name; no half wheel is left for the next build."""
    monkeypatch.setenv("CMAKE_ARGS", "-DBROKEN=ON")
    with pytest.raises(UsageError) as caught:
        build_llama_wheel("llama-cpp-python", tmp_path, lambda line: None)
    assert "ggml.c:1: error: it does not compile" in str(caught.value)
    assert "\n" not in str(caught.value)
    (log,) = tmp_path.glob("llama-cpp-python-*/*")
    assert str(caught.value).endswith(f"the whole output is in {log}")
    assert "all is well so far" in log.read_text()


@pytest.mark.slow
def test_a_version_that_does_not_exist(tmp_path: Path) -> None:
    """Pip's own words say so."""
    with pytest.raises(UsageError, match=r"Could not find a version .*llama-cpp-python>=9"):
        build_llama_wheel("llama-cpp-python>=9", tmp_path, lambda line: None)


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what to install, or to bring a wheel."""
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(UsageError, match=r"no C\+\+ compiler .*\(no-such-compiler\).*--wheels DIR"):
        build_llama_wheel("llama-cpp-python", tmp_path, lambda line: None)
    monkeypatch.delenv("CXX")
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"\(c\+\+, g\+\+, clang\+\+\).*apt-get install g\+\+"):
        build_llama_wheel("llama-cpp-python", tmp_path, lambda line: None)


def test_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says how to get it."""
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"has no pip: .* -m ensurepip"):
        build_llama_wheel("llama-cpp-python", tmp_path, lambda line: None)

"""The wheel of llama-cpp-python: its arguments, its reuse and its failures, with a tiny sdist.

Its build backend is a tiny wheel, so that the real uv and pip build it without any index. Hostile
sources and tools leave a file behind if anything of them runs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.llama_cpp import compiling, llama_wheel
from kuwa_min.packing.llama_cpp.llama_wheel import (
    RECORD,
    build_llama_wheel,
    cmake_args,
    compiled_before,
    pin_source,
)
from kuwa_min.packing.wheels.lock import Pin, SourcePin
from kuwa_min.packing.wheels.resolve import WheelSources
from tests.support.fake_wheels import digest, leave_the_internet, make_wheel

PORTABLE = (
    "-DGGML_NATIVE=OFF -DLLAVA_BUILD=ON -DCMAKE_INSTALL_BINDIR=llama_cpp/lib "
    "-DCMAKE_INSTALL_LIBDIR=llama_cpp/lib -DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON"
)
VARIANTS = "-DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON"
NAME = "llama-cpp-python"
PACKAGING = importlib.metadata.version("packaging")  # which pip sees where it lies itself
PROJECT = (
    '[build-system]\nrequires = ["builder"]\nbuild-backend = "{backend}"\nbackend-path = [{path}]\n'
)
METADATA = "Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: {version}\n"
BUILDER = """
import importlib.util, os, pathlib, shlex, sys, zipfile
def build_wheel(folder, settings=None, metadata=None):
    *arguments, last = shlex.split(os.environ["CMAKE_ARGS"])
    name, included = last.split("=")
    assert name == "-DCMAKE_PROJECT_llama_cpp_INCLUDE", name
    if "-DBROKEN=ON" in arguments:
        print("all is well so far")
        raise SystemExit("ggml.c:1: error: it does not compile")
    if importlib.util.find_spec("pytest") or importlib.util.find_spec("planted"):
        raise SystemExit("error: other packages are seen")
    import packaging
    version = pathlib.Path("PKG-INFO").read_text().split()[-1]
    name = f"llama_cpp_python-{version}-py3-none-linux_x86_64.whl"
    info = f"llama_cpp_python-{version}.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as archive:
        archive.writestr("llama_cpp/arguments", " ".join(arguments))
        archive.writestr("llama_cpp/included", pathlib.Path(included).read_text())
        archive.writestr(info + "/METADATA", pathlib.Path("PKG-INFO").read_text())
        archive.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-linux_x86_64\\n")
        archive.writestr(info + "/RECORD", "")
    return name
"""


@pytest.fixture(autouse=True)
def sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> WheelSources:
    """Let uv and pip find two versions of the sources and a build backend, and nothing else."""
    leave_the_internet(monkeypatch, tmp_path)
    links = tmp_path / "links"
    for version in ("0.3.35", "0.3.36"):
        make_sdist(links, version)
    make_wheel(links, "builder", "1.0", "packaging", extra=BUILDER)
    make_wheel(links, "packaging", PACKAGING)
    monkeypatch.setattr(llama_wheel, "TOOLS", ("builder",))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return WheelSources(find_links=(str(links),), no_index=True)


def make_sdist(folder: Path, version: str, hostile: str = "") -> Path:
    """Make sources that pip can build, or that run this when anything is asked of them."""
    root = f"llama_cpp_python-{version}"
    folder.mkdir(exist_ok=True)
    backend, path = ("hostile", '"."') if hostile else ("builder", "")
    texts = {"pyproject.toml": PROJECT.replace("{backend}", backend).replace("{path}", path)}
    texts |= {"PKG-INFO": METADATA.replace("{version}", version), "hostile.py": hostile}
    with tarfile.open(folder / f"{root}.tar.gz", "w:gz") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return folder / f"{root}.tar.gz"


def ignore(line: str) -> None:
    """Take a line about a step."""


def pinned(links: Path, version: str = "0.3.36") -> SourcePin:
    """Pin what lies in a folder."""
    sdist = Pin(NAME, version, (digest(links / f"llama_cpp_python-{version}.tar.gz"),))
    tools = (("builder", "1.0"), ("packaging", PACKAGING))
    wheels = (links / f"{name}-{version}-py3-none-any.whl" for name, version in tools)
    pins = (Pin(*tool, (digest(wheel),)) for tool, wheel in zip(tools, wheels, strict=True))
    return SourcePin(sdist, tuple(pins))


def arguments_of(wheel: Path) -> str:
    """Return the CMAKE_ARGS that a wheel was built with, without what is left out."""
    with zipfile.ZipFile(wheel) as archive:
        assert b"\nset(LLAMA_BUILD_COMMON OFF) " in archive.read("llama_cpp/included")
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
def test_the_newest_source_is_pinned_and_nothing_of_it_runs(
    tmp_path: Path, sources: WheelSources
) -> None:
    """With the wheels of its tools; by their sha256."""
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')"
    sdist = make_sdist(tmp_path / "links", "0.3.37", trap)
    found = pin_source(f"{NAME}>=0.3", sources, tmp_path / "house", ignore)
    assert found == SourcePin(Pin(NAME, "0.3.37", (digest(sdist),)), pinned(sdist.parent).tools)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_wheel_is_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: WheelSources
) -> None:
    """Of this source and with these tools, whatever came since; nothing of the newer ones runs."""
    monkeypatch.setattr(compiling, "PROGRESS_INTERVAL", 0.01)
    planted = make_wheel(tmp_path / "planted", "planted", "1")
    monkeypatch.setenv("PYTHONPATH", str(planted))
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')"
    make_sdist(tmp_path / "links", "0.3.37", trap)
    make_wheel(tmp_path / "links", "builder", "2.0", extra=trap)
    house, said, source = tmp_path / "a house", list[str](), pinned(tmp_path / "links")
    first = build_llama_wheel(source, sources, house, said.append)
    assert arguments_of(first) == f"{PORTABLE} {VARIANTS}"
    assert said[0].startswith("compiling llama-cpp-python==0.3.36 with CMAKE_ARGS='-DGGML_NATIVE")
    assert said[1] == "compiling for 0 min 0 s"
    assert not (tmp_path / "ran").exists()

    said.clear()
    monkeypatch.setattr("subprocess.Popen", None)
    assert build_llama_wheel(source, sources, house, said.append) == first
    assert said == [f"{first.name} was compiled before, of the same source and CMAKE_ARGS"]
    assert compiled_before(f"{NAME}>=0.3", house) == (first, source)


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["source", "tool"])
def test_what_is_not_what_was_pinned_never_runs(
    changed: str, tmp_path: Path, sources: WheelSources
) -> None:
    """Its sha256 is compared before anything of it is unpacked or imported."""
    links, trap = tmp_path / "links", f"open({str(tmp_path / 'ran')!r}, 'w')"
    source = pinned(links)
    if changed == "source":
        make_sdist(links, "0.3.36", trap)
    else:
        make_wheel(links, "builder", "1.0", extra=trap)
    with pytest.raises(UsageError, match=r"DO NOT MATCH THE HASHES|not the file of the lock"):
        build_llama_wheel(source, sources, tmp_path / "house", ignore)
    assert not (tmp_path / "ran").exists()
    assert not [*(tmp_path / "house").rglob("*.whl")]
    with pytest.raises(UsageError, match="was not compiled"):
        build_llama_wheel(pinned(links), sources, tmp_path / "house", ignore)
    assert (tmp_path / "ran").exists()  # so the trap works


@pytest.mark.slow
def test_other_arguments_or_another_source_make_another_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: WheelSources
) -> None:
    """Each version and each set of arguments in a folder of its own, fit for --wheels."""
    house, links = tmp_path / "house", tmp_path / "links"
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")
    first = build_llama_wheel(pinned(links), sources, house, ignore)
    assert arguments_of(first).endswith(" -DGGML_CUDA=on")
    assert {path.name for path in first.parent.iterdir()} == {first.name, RECORD}
    make_sdist(links, "0.3.36", "# another\nfrom builder import *")
    again = build_llama_wheel(pinned(links), sources, house, ignore)
    assert compiled_before(NAME, house) == (again, pinned(links))
    assert again == first
    make_wheel(first.parent.with_name("0.3.35"), "llama_cpp_python", "0.3.35")
    assert compiled_before(NAME, house) == (again, pinned(links))
    left = sorted(path.name for path in first.parent.parent.iterdir())
    assert left == ["0.3.35", "0.3.36", "build.log"]
    monkeypatch.delenv("CMAKE_ARGS")
    assert compiled_before(NAME, house) is None


def test_a_wheel_of_an_unknown_source_is_none_of_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: WheelSources
) -> None:
    """It was compiled before sources were recorded, or of another one: it is compiled again."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    source = pinned(tmp_path / "links")
    folder = llama_wheel._folder(NAME, tmp_path)
    wheel = make_wheel(folder / "0.3.36", "llama_cpp_python", "0.3.36")
    assert compiled_before(NAME, tmp_path) == (wheel, None)
    with pytest.raises(UsageError, match="no C"):
        build_llama_wheel(source, sources, tmp_path, ignore)
    other = source._replace(sdist=source.sdist._replace(hashes=("0" * 64,)))
    llama_wheel._write_record(wheel, other)
    assert compiled_before(NAME, tmp_path) == (wheel, other)
    with pytest.raises(UsageError, match="no C"):
        build_llama_wheel(source, sources, tmp_path, ignore)
    llama_wheel._write_record(wheel, source)
    assert build_llama_wheel(source, sources, tmp_path, ignore) == wheel


@pytest.mark.slow
def test_what_does_not_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: WheelSources
) -> None:
    """The line has the reason and the log's name; no half wheel is left for the next build."""
    monkeypatch.setenv("CMAKE_ARGS", "-DBROKEN=ON")
    house = tmp_path / "house"
    with pytest.raises(UsageError) as caught:
        build_llama_wheel(pinned(tmp_path / "links"), sources, house, ignore)
    assert "ggml.c:1: error: it does not compile" in str(caught.value)
    assert "\n" not in str(caught.value)
    (log,) = house.glob("llama-cpp-python-*/*")
    assert str(caught.value).endswith(f"the whole output is in {log}")
    assert "all is well so far" in log.read_text()


@pytest.mark.slow
def test_a_version_that_does_not_exist(tmp_path: Path, sources: WheelSources) -> None:
    """Uv's own words say so."""
    with pytest.raises(UsageError, match=r"uv finds no packages .*llama-cpp-python"):
        pin_source(f"{NAME}>=9", sources, tmp_path, ignore)


def test_without_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: WheelSources
) -> None:
    """The line says what to install, or to bring a wheel."""
    source = pinned(tmp_path / "links")
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(UsageError, match=r"no C\+\+ compiler .*\(no-such-compiler\).*--wheels DIR"):
        build_llama_wheel(source, sources, tmp_path, ignore)
    monkeypatch.delenv("CXX")
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"\(c\+\+, g\+\+, clang\+\+\).*apt-get install g\+\+"):
        build_llama_wheel(source, sources, tmp_path, ignore)


def test_without_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: WheelSources
) -> None:
    """The line says how to get it."""
    source = pinned(tmp_path / "links")._replace(tools=())
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"has no pip: .* -m ensurepip"):
        build_llama_wheel(source, sources, tmp_path, ignore)

"""A backend of ggml in a wheel: what the wheel is then, and what it is kept by."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.llama_cpp import ggml_backend
from kuwa_min.packing.llama_cpp.build_tools import Build
from kuwa_min.packing.llama_cpp.ggml_backend import GgmlBackend, add_backend, merge
from kuwa_min.packing.llama_cpp.llama_wheel import CompiledWheel
from kuwa_min.packing.wheels.lock import Pin, SourcePin
from kuwa_min.packing.wheels.resolve import WheelSources
from kuwa_min.packing.wheels.wheel import read_wheel
from kuwa_min.packing.wheels.wheelhouse import sha256_of
from tests.support.fake_wheels import make_wheel

BACKEND = GgmlBackend("vulkan", ("-DGGML_VULKAN=ON",), "$ORIGIN", "glslc 1", 720)
WITH_MORE = BACKEND._replace(requirements=("nvidia-cublas>=13",), files={"archs.txt": b"90"})
COMPILER = shutil.which("c++")
SOURCE = SourcePin(Pin("llama-cpp-python", "0.3.36", ("ab" * 32,)), ())


@pytest.fixture
def wheel(tmp_path: Path) -> CompiledWheel:
    """Make a wheel as compiled for processors."""
    folder = tmp_path / "cpu"
    make_wheel(folder, "llama-cpp-python", "0.3.36", "numpy>=1.20")
    return CompiledWheel(next(folder.glob("*.whl")), SOURCE)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Compile nothing; return the flags of each time."""
    done: list[tuple[str, ...]] = []

    def compile(
        backend: GgmlBackend, flags: tuple[str, ...], _build: Build, part: Path, _log: object
    ) -> Path:
        done.append(flags)
        library = part / backend.library
        library.write_bytes(b"machine code")
        return library

    monkeypatch.setattr(ggml_backend, "_compile", compile)
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    return done


def ignore(line: str) -> None:
    """Take a line about a step."""


@pytest.mark.parametrize("backend", [BACKEND, WITH_MORE])
def test_the_wheel_has_the_backend_beside_what_it_had(
    wheel: CompiledWheel, tmp_path: Path, backend: GgmlBackend
) -> None:
    """Under a version of its own, with the hash of every member."""
    library = tmp_path / "libggml-vulkan.so"
    library.write_bytes(b"machine code")
    made = merge(wheel.path, library, backend, tmp_path)
    read = read_wheel(made, sha256_of(made))
    assert read.package["version"] == "0.3.36+vulkan"
    with zipfile.ZipFile(made) as archive, zipfile.ZipFile(wheel.path) as before:
        names, old = archive.namelist(), before.namelist()
        assert archive.read("llama_cpp/lib/libggml-vulkan.so") == b"machine code"
        metadata = archive.read("llama_cpp_python-0.3.36+vulkan.dist-info/METADATA").decode()
    more = [f"llama_cpp/lib/{name}" for name in ("libggml-vulkan.so", *backend.files)]
    renamed = [name.replace("0.3.36.dist", "0.3.36+vulkan.dist") for name in old]
    assert sorted(names) == sorted([*renamed, *more])
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert [one.partition(": ")[2] for one in required] == ["numpy>=1.20", *backend.requirements]
    hashed = {file.path for file in read.files if file.sha256}
    assert {f"llama_cpp/lib/{name}" for name in ("libggml-vulkan.so", *backend.files)} <= hashed


def test_equal_contents_give_equal_wheels(wheel: CompiledWheel, tmp_path: Path) -> None:
    """So that a second build of a file is the same to the byte."""
    library = tmp_path / "libggml-vulkan.so"
    library.write_bytes(b"machine code")
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    one, other = (merge(wheel.path, library, BACKEND, folder) for folder in folders)
    assert one.read_bytes() == other.read_bytes()


def test_a_backend_is_compiled_once(
    wheel: CompiledWheel, tmp_path: Path, compiled: list[tuple[str, ...]]
) -> None:
    """For each wheel, flags, compilers and files; CMAKE_ARGS have the last word."""
    said: list[str] = []

    def add(backend: GgmlBackend) -> CompiledWheel:
        return add_backend(backend, wheel, WheelSources(), tmp_path, said.append)

    first = add(BACKEND)
    assert add(BACKEND) == first
    assert len(compiled) == 1
    assert "about" in said[0]
    assert "was compiled before" in said[1]
    others = [BACKEND._replace(compilers="glslc 2"), BACKEND._replace(flags=("-DX=1",)), WITH_MORE]
    assert len({first.path, *(add(other).path for other in others)}) == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMAKE_ARGS", "-DGGML_VULKAN_DEBUG=ON")
        assert add(BACKEND).path != first.path
    assert compiled[-1][-1] == "-DGGML_VULKAN_DEBUG=ON"


@pytest.mark.usefixtures("compiled")
def test_a_wheel_of_an_unknown_source_is_refused(wheel: CompiledWheel, tmp_path: Path) -> None:
    """A library of another version could be loaded and would compute something else."""
    with pytest.raises(UsageError, match="does not say of what source it is"):
        add_backend(BACKEND, wheel._replace(source=None), WheelSources(), tmp_path, ignore)


def test_a_library_is_compiled_once_for_all_wheels_of_its_source(
    wheel: CompiledWheel, tmp_path: Path, compiled: list[tuple[str, ...]]
) -> None:
    """Where its tools lie makes no other library; they are located only to compile."""
    asked: list[Path] = []

    def locate(_sources: WheelSources, wheelhouse: Path, _log: object) -> list[str]:
        asked.append(wheelhouse)
        return [f"-DROOT={wheelhouse}"]

    backend = BACKEND._replace(locate=locate)
    first = add_backend(backend, wheel, WheelSources(), tmp_path, ignore)
    make_wheel(tmp_path / "other", "llama-cpp-python", "0.3.36", "numpy>=2")
    other = CompiledWheel(next((tmp_path / "other").glob("*.whl")), SOURCE)
    assert add_backend(backend, other, WheelSources(), tmp_path, ignore).path != first.path
    assert (len(compiled), asked) == (1, [tmp_path])
    assert f"-DROOT={tmp_path}" in compiled[0]


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_no_path_of_the_building_machine_is_in_a_library(tmp_path: Path) -> None:
    """Whatever its folder is called; flags that were set before stay."""
    folder = tmp_path / "o'neill home"
    folder.mkdir()
    source = folder / "one.cpp"
    source.write_text("const char *where() { return NAME __FILE__; }")
    own = {"CXXFLAGS": "-DNAME='\"in \"'", "PATH": os.environ["PATH"], "source": str(source)}
    written = []
    for environment in (own, ggml_backend.without_folder(own, folder)):
        script = 'eval "set -- $CXXFLAGS"; exec c++ "$@" -S -o - "$source"'
        done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True)
        written.append(done.stdout)
    assert f"in {source}" in written[0]
    assert "in ./one.cpp" in written[1]
    assert str(folder) not in written[1]

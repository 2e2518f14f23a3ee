"""Compile a backend of ggml for graphics cards, and add it to a wheel of llama-cpp-python.

Only that backend is compiled, out of the sdist that the wheel is of. ggml loads it at run time if
it can, beside those for processors. The wheel is kept by all that it is made of.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from packaging.utils import parse_wheel_filename

from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels.lock import SourcePin
from kuwa_min.packing.wheels.resolve import WheelSources
from kuwa_min.packing.wheels.wheelhouse import sha256_of

from .build_tools import Build, fetch_tools, source_commands
from .compiling import run
from .llama_wheel import CompiledWheel, check_compiler

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

LLAMA_CPP = "vendor/llama.cpp"  # in the sdist
FLAGS = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGGML_BACKEND_DL=ON"),
    *("-DGGML_NATIVE=OFF", "-DGGML_CPU=OFF", "-DLLAMA_BUILD_COMMON=OFF", "-DLLAMA_CURL=OFF"),
    "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",  # no path of this machine in the library
)
STRIPPED = "-DCMAKE_MODULE_LINKER_FLAGS=-s"
LIBRARIES = "llama_cpp/lib"  # of the wheel
EPOCH = (1980, 1, 1, 0, 0, 0)  # so that equal contents give equal wheels
FILE_MODE = 0o100644 << 16


Locate = Callable[[WheelSources, Path, "LogStep"], Sequence[str]]  # more flags of CMake


class GgmlBackend(NamedTuple):
    """A backend of ggml, and how it is compiled here."""

    name: str  # of its target in CMake: "vulkan"
    flags: tuple[str, ...]  # of CMake
    run_path: str  # where the loader looks for what it needs: "$ORIGIN"
    compilers: str  # their names and versions, and whatever else makes another library
    cpu_seconds: int  # that it takes, for the estimate
    requirements: tuple[str, ...] = ()  # what the wheel requires besides
    files: Mapping[str, bytes] = {}  # to lie beside the library
    locate: Locate | None = None  # tools that are fetched first; their paths make no other library

    @property
    def library(self) -> str:
        """Return the file name of the library."""
        return f"libggml-{self.name}.so"


def add_backend(
    backend: GgmlBackend,
    wheel: CompiledWheel,
    sources: WheelSources,
    wheelhouse: Path,
    log_step: LogStep,
) -> CompiledWheel:
    """Return a wheel with this backend beside what it has; compile it once; raises UsageError.

    wheel: must say what source it is of.
    """
    flags = (*FLAGS, *backend.flags, *shlex.split(os.environ.get("CMAKE_ARGS", "")))
    made_of = (sha256_of(wheel.path), *flags, backend.run_path, backend.compilers)
    made_of += (*backend.requirements, *backend.files, *map(bytes.hex, backend.files.values()))
    key = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:12]
    folder = wheelhouse / f"ggml-{backend.name}-{key}"
    if kept := next(folder.glob("*.whl"), None):
        log_step(f"ggml-{backend.name} was compiled before, of the same source, flags and tools")
        return CompiledWheel(kept, wheel.source)
    folder.mkdir(parents=True, exist_ok=True)
    library = _library(backend, flags, _source(wheel), sources, wheelhouse, log_step)
    with tempfile.TemporaryDirectory(prefix="part-", dir=folder) as part:
        made = merge(wheel.path, library, backend, Path(part))
        return CompiledWheel(made.replace(folder / made.name), wheel.source)


def _library(
    backend: GgmlBackend,
    flags: tuple[str, ...],
    source: SourcePin,
    sources: WheelSources,
    wheelhouse: Path,
    log_step: LogStep,
) -> Path:
    """Compile the library, or return it if it was; it may go into another wheel of its source."""
    made_of = (source.sdist.text(), *flags, backend.run_path, backend.compilers)
    key = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:12]
    folder = (wheelhouse / f"ggml-{backend.name}-library-{key}").absolute()
    kept = folder / backend.library
    if kept.exists():
        return kept
    check_compiler(os.environ)
    minutes = max(1, round(backend.cpu_seconds / len(os.sched_getaffinity(0)) / 60))
    log_step(f"compiling ggml-{backend.name} with {backend.compilers}: about {minutes} minutes")
    folder.mkdir(parents=True, exist_ok=True)
    if backend.locate:
        flags = (*flags, *backend.locate(sources, wheelhouse, log_step))
    build = Build(source, sources, [*fetch_tools(source.tools, sources, wheelhouse, log_step)])
    with tempfile.TemporaryDirectory(prefix="part-", dir=folder) as part:
        return _compile(backend, flags, build, Path(part), log_step).replace(kept)


def _source(wheel: CompiledWheel) -> SourcePin:
    if wheel.source is None:
        raise UsageError(f"{wheel.path} does not say of what source it is: remove its folder")
    return wheel.source


def _compile(
    backend: GgmlBackend, flags: tuple[str, ...], build: Build, part: Path, log_step: LogStep
) -> Path:
    """Fetch the source, compile the backend in a folder, and return the path of its library."""
    install, download = source_commands(build, part, "download")
    what, log = f"ggml-{backend.name} of llama.cpp", part.parent / "build.log"
    run([*install, [*download, "-d", str(part)]], what, log, os.environ, log_step)
    with tarfile.open(next(part.glob("*.tar.gz"))) as archive:
        archive.extractall(part / "source", filter="data")
    source, binaries = next((part / "source").iterdir()) / LLAMA_CPP, part / "python" / "bin"
    path = f"{binaries}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    cmake = shutil.which("cmake", path=path) or "cmake"
    configure = [cmake, "-G", "Ninja", "-S", str(source), "-B", str(part / "build"), STRIPPED]
    configure += [f"-DCMAKE_INSTALL_RPATH={backend.run_path}", *flags]
    compile = [cmake, "--build", str(part / "build"), "--target", f"ggml-{backend.name}"]
    environment = {**without_folder(os.environ, part), "PATH": path}
    run([configure, compile], what, log, environment, log_step)
    return next((part / "build").rglob(backend.library))


def without_folder(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return variables by which CMake has C and C++ compilers write no path of a folder.

    Assertions name their source file; the folder is another one each time, and of a home.
    """
    flag = shlex.quote(f"-ffile-prefix-map={folder}=.")
    more = {name: f"{environment.get(name, '')} {flag}" for name in ("CFLAGS", "CXXFLAGS")}
    return {**environment, **more}


def merge(wheel: Path, library: Path, backend: GgmlBackend, folder: Path) -> Path:
    """Write into a folder a wheel with the library, its files and requirements beside the rest."""
    name, version, rest = re.fullmatch(r"([^-]+)-([^-]+)-(.+)", wheel.name).groups()  # type: ignore[union-attr]
    target = folder / f"{name}-{version}+{backend.name}-{rest}"
    old, new = f"{name}-{version}.dist-info/", f"{name}-{version}+{backend.name}.dist-info/"
    added = {backend.library: library.read_bytes(), **backend.files}
    record: list[str] = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w") as made:
        members = [one for one in source.infolist() if not one.is_dir()]
        for member in members:
            if member.filename == f"{old}RECORD":
                continue
            data, path = source.read(member), member.filename.replace(old, new)
            if path == f"{new}METADATA":
                data = _metadata(data, f"{version}+{backend.name}", backend)
            record.append(_add(made, path, data, member.external_attr))
        record += [_add(made, f"{LIBRARIES}/{path}", data) for path, data in added.items()]
        _add(made, f"{new}RECORD", "\n".join([*record, f"{new}RECORD,,", ""]).encode())
    return target


def _metadata(data: bytes, version: str, backend: GgmlBackend) -> bytes:
    head, gap, body = data.partition(b"\n\n")
    head = re.sub(rb"(?m)^Version: .*$", f"Version: {version}".encode(), head.rstrip(b"\n"))
    more = "".join(f"\nRequires-Dist: {one}" for one in backend.requirements)
    return head + more.encode() + (gap or b"\n") + body


def _add(archive: zipfile.ZipFile, path: str, data: bytes, attributes: int = FILE_MODE) -> str:
    """Add a member to a wheel; return its line of RECORD."""
    member = zipfile.ZipInfo(path, EPOCH)
    member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, attributes
    archive.writestr(member, data)
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(data)}"


def version_of(wheel: Path) -> str:
    """Return the version that a wheel's name has."""
    return str(parse_wheel_filename(wheel.name)[1])

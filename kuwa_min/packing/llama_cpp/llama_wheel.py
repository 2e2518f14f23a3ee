"""Compile a wheel of llama-cpp-python, which PyPI has as an sdist only, for this kind of machine.

The wheel runs on every processor of this architecture: it holds llama.cpp's CPU backend in one
variant for each generation, and the best is loaded at run time. The backend has to request that:
ggml_backend_load_all_from_path(<llama_cpp>/lib), through the handle of libllama, before a model.

To compile is to run what the sdist brings, and the build backend and tools that it asks for. Each
is pinned first, and its sha256 compared before anything of it is unpacked; the build then sees
these packages and no others. A wheel that was compiled is kept with a record of all that.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from packaging.utils import canonicalize_name, parse_wheel_filename

from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels.lock import (
    Lock,
    SourcePin,
    narrowed,
    parse_requirement,
    read_lock,
)
from kuwa_min.packing.wheels.resolve import WheelSources, choose_sdist, resolve
from kuwa_min.packing.wheels.target import TargetPython

from .build_tools import Build, fetch_tools, for_tools, source_commands
from .compiling import run

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

# What the sdist's pyproject.toml asks for, and what its build backend asks for besides.
TOOLS = ("scikit-build-core>=0.9.2", "cmake>=3.21", "ninja>=1.5")
EVERYWHERE = (
    "-DGGML_NATIVE=OFF",  # not for this very processor only
    "-DLLAVA_BUILD=ON",  # for pictures
    "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib",  # else the variants lie in a bin of their own,
    "-DCMAKE_INSTALL_LIBDIR=llama_cpp/lib",  # all libraries twice,
    "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",  # and each of those under three names
)
VARIANTS = {"x86_64": ("-DGGML_BACKEND_DL=ON", "-DGGML_CPU_ALL_VARIANTS=ON")}
CUDA = re.compile(r"-DGGML_CUDA(:BOOL)?=(on|1|true|yes|y)\b", re.IGNORECASE)
TRIM = Path(__file__).with_name("trim.cmake").absolute()  # what need not be compiled, nor so slowly
COMPILERS = ("c++", "g++", "clang++")
LOG = "build.log"
RECORD = "source.lock"  # beside a compiled wheel: the source, and the tools that compiled it


class CompiledWheel(NamedTuple):
    """A wheel that was compiled here; source is None if it was before sources were recorded."""

    path: Path
    source: SourcePin | None


def pin_source(
    requirement: str, sources: WheelSources, wheelhouse: Path, log_step: LogStep
) -> SourcePin:
    """Pin the newest source, and the tools to compile it with; raises UsageError."""
    here, name = TargetPython.of_this_machine(), parse_requirement(requirement).name
    log_step(f"resolving the source of {requirement}, and what compiles it")
    sdist = choose_sdist(requirement, here, sources)
    tools = resolve(f"build-of-{name}", TOOLS, here, for_tools(sources)).pins
    used = fetch_tools(tools, sources, wheelhouse, log_step)
    return SourcePin(sdist, narrowed(tools, used.values()))


def compiled_before(requirement: str, wheelhouse: Path) -> CompiledWheel | None:
    """Return the newest wheel that was compiled with the same CMAKE_ARGS, whatever its source."""
    wanted = parse_requirement(requirement)
    folder = _folder(wanted.name, wheelhouse)
    known = [(parse_wheel_filename(path.name)[1], path) for path in folder.glob("[0-9]*/*.whl")]
    fitting = [one for one in known if wanted.specifier.contains(one[0], prereleases=True)]
    if not fitting:
        return None
    path = max(fitting)[1]
    record = path.with_name(RECORD)
    return CompiledWheel(path, read_lock(record).source if record.exists() else None)


def build_llama_wheel(
    source: SourcePin, sources: WheelSources, wheelhouse: Path, log_step: LogStep
) -> Path:
    """Compile a source, or return the wheel that was compiled of it; raises UsageError."""
    requirement = f"{source.sdist.name}=={source.sdist.version}"
    cached = compiled_before(requirement, wheelhouse)
    if cached and cached.source == source:
        log_step(f"{cached.path.name} was compiled before, of the same source and CMAKE_ARGS")
        return cached.path
    check_compiler(os.environ)
    tools = fetch_tools(source.tools, sources, wheelhouse, log_step)
    folder = _folder(source.sdist.name, wheelhouse)
    folder.mkdir(parents=True, exist_ok=True)
    arguments = cmake_args(os.environ, platform.machine())
    log_step(
        f"compiling {requirement} with CMAKE_ARGS={arguments!r}: this takes {_duration(arguments)}"
    )
    return _compile(Build(source, sources, [*tools]), folder, arguments, log_step)


def _duration(arguments: str) -> str:
    """Estimate how long a compilation takes."""
    if CUDA.search(arguments):
        return "half an hour of a processor for each CUDA architecture; --cuda says which are taken"
    return "5 to 15 minutes"


def _folder(name: str, wheelhouse: Path) -> Path:
    """Return the folder of the wheels of a package that were compiled with these CMAKE_ARGS."""
    arguments = cmake_args(os.environ, platform.machine())
    key = hashlib.sha256(arguments.encode()).hexdigest()[:12]
    return wheelhouse / f"{canonicalize_name(name)}-{key}"


def cmake_args(environment: Mapping[str, str], machine: str) -> str:
    """Return CMAKE_ARGS: those for a portable wheel, then the user's, which take precedence."""
    own = environment.get("CMAKE_ARGS", "").split()
    return " ".join([*EVERYWHERE, *VARIANTS.get(machine, ()), *own])


def check_compiler(environment: Mapping[str, str]) -> None:
    """Raise UsageError if there is no C++ compiler."""
    named = environment.get("CXX", "").split()[:1]
    if not any(map(shutil.which, named or COMPILERS)):
        raise UsageError(
            f"no C++ compiler is here ({', '.join(named or COMPILERS)}), and llama-cpp-python must "
            "be compiled: install one (apt-get install g++), or give a wheel by --wheels DIR"
        )


def _compile(build: Build, folder: Path, arguments: str, log_step: LogStep) -> Path:
    """Compile in a temporary folder, then rename: an interrupted build leaves no partial wheel."""
    log, sdist = folder / LOG, build.source.sdist
    with tempfile.TemporaryDirectory(prefix="part-", dir=folder) as part:
        commands = _commands(build, Path(part).absolute())
        flag = shlex.quote(f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={TRIM}")
        environment = {**os.environ, "CMAKE_ARGS": f"{arguments} {flag}"}
        run(commands, f"{sdist.name} {sdist.version}", log, environment, log_step)
        made = next(Path(part).glob("*.whl"))
        home = folder / str(parse_wheel_filename(made.name)[1])  # to be used as --wheels
        home.mkdir(exist_ok=True)
        home.joinpath(RECORD).unlink(missing_ok=True)  # which is of the wheel before
        kept = made.replace(home / made.name)
        _write_record(kept, build.source)
        return kept


def _write_record(wheel: Path, source: SourcePin) -> None:
    here = TargetPython.of_this_machine()
    record = Lock(source.sdist.name, here, (source.sdist,), source=source)
    wheel.with_name(RECORD).write_text(record.text(), encoding="utf-8")


def _commands(build: Build, part: Path) -> list[list[str]]:
    """Return the commands that install the tools, and that compile, in a Python of their own.

    pip's cache is bypassed, because its key ignores CMAKE_ARGS. pip compares an sdist's hash before
    it unpacks it, also to read its metadata.
    """
    install, from_source = source_commands(build, part, "wheel")
    return [*install, [*from_source, "-w", str(part)]]

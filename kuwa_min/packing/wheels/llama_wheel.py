"""Compile a wheel of llama-cpp-python, which PyPI has as an sdist only, for this kind of machine.

The wheel runs on every processor of this architecture: it holds llama.cpp's CPU backend in one
variant for each generation, and the best is loaded at run time. The backend has to request that:
ggml_backend_load_all_from_path(<llama_cpp>/lib), through the handle of libllama, before a model.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name, parse_wheel_filename

from kuwa_min.errors import UsageError

from .fetch import pip_command
from .lock import parse_requirement

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

EVERYWHERE = (
    "-DGGML_NATIVE=OFF",  # not for this very processor only
    "-DLLAVA_BUILD=OFF",  # pictures: a fifth of the size, and no backend of ours sends any
    "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib",  # else the variants lie in a bin of their own,
    "-DCMAKE_INSTALL_LIBDIR=llama_cpp/lib",  # all libraries twice,
    "-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",  # and each of those under three names
)
VARIANTS = {"x86_64": ("-DGGML_BACKEND_DL=ON", "-DGGML_CPU_ALL_VARIANTS=ON")}
COMPILERS = ("c++", "g++", "clang++")
PROGRESS_INTERVAL = 15.0  # seconds between two lines about the progress
LOG = "build.log"


def build_llama_wheel(requirement: str, wheelhouse: Path, log_step: LogStep) -> Path:
    """Compile the wheel, or return the cached one of the same CMAKE_ARGS; raises UsageError."""
    arguments = cmake_args(os.environ, platform.machine())
    key = hashlib.sha256(arguments.encode()).hexdigest()[:12]
    folder = wheelhouse / f"{canonicalize_name(parse_requirement(requirement).name)}-{key}"
    cached = _cached_wheel(requirement, folder)
    if cached:
        log_step(f"{cached.name} was compiled before, with the same CMAKE_ARGS")
        return cached
    _check_compiler(os.environ)
    folder.mkdir(parents=True, exist_ok=True)
    log_step(f"compiling {requirement} with CMAKE_ARGS={arguments!r}: this takes 5 to 15 minutes")
    return _compile(requirement, folder, {**os.environ, "CMAKE_ARGS": arguments}, log_step)


def cmake_args(environment: Mapping[str, str], machine: str) -> str:
    """Return CMAKE_ARGS: those for a portable wheel, then the user's, which take precedence."""
    own = environment.get("CMAKE_ARGS", "").split()
    return " ".join([*EVERYWHERE, *VARIANTS.get(machine, ()), *own])


def _cached_wheel(requirement: str, folder: Path) -> Path | None:
    """Return the newest wheel of the folder that satisfies the requirement."""
    wanted = parse_requirement(requirement).specifier
    found = [(parse_wheel_filename(path.name)[1], path) for path in folder.glob("[0-9]*/*.whl")]
    fitting = [one for one in found if wanted.contains(one[0], prereleases=True)]
    return max(fitting)[1] if fitting else None


def _check_compiler(environment: Mapping[str, str]) -> None:
    named = environment.get("CXX", "").split()[:1]
    if not any(map(shutil.which, named or COMPILERS)):
        raise UsageError(
            f"no C++ compiler is here ({', '.join(named or COMPILERS)}), and llama-cpp-python must "
            "be compiled: install one (apt-get install g++), or give a wheel by --wheels DIR"
        )


def _compile(
    requirement: str, folder: Path, environment: Mapping[str, str], log_step: LogStep
) -> Path:
    """Run pip in a temporary folder, then rename: an interrupted build leaves no partial wheel."""
    log = folder / LOG
    with tempfile.TemporaryDirectory(prefix="part-", dir=folder) as part:
        command = [*_build_command(requirement), "--wheel-dir", part, requirement]
        if _run(command, log, environment, log_step):
            raise UsageError(
                f"{requirement} was not compiled: {_reason(log)}; the whole output is in {log}"
            )
        made = next(Path(part).glob("*.whl"))
        home = folder / str(parse_wheel_filename(made.name)[1])  # to be used as --wheels
        home.mkdir(exist_ok=True)
        return made.replace(home / made.name)


def _build_command(requirement: str) -> list[str]:
    """Return the pip command; pip's cache is bypassed, because its key ignores CMAKE_ARGS."""
    name = parse_requirement(requirement).name
    options = ("--no-deps", "--no-binary", name, "--no-cache-dir", "--verbose")
    return [*pip_command(), "wheel", *options]


def _run(command: list[str], log: Path, environment: Mapping[str, str], log_step: LogStep) -> int:
    """Run a command into a log file, report progress, and return the exit code."""
    start = time.monotonic()
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process,
    ):
        while True:
            try:
                return process.wait(PROGRESS_INTERVAL)
            except subprocess.TimeoutExpired:
                log_step(f"compiling for {_duration(time.monotonic() - start)}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s"


def _reason(log: Path) -> str:
    """Return the first line of the log with an error, else its last line."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    output = [line for line in lines if line]
    errors = [line for line in output if "error:" in line.lower()]
    return (errors or output[-1:] or ["it says nothing"])[0][:200]

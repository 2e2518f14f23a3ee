"""Where the wheel of llama-cpp-python comes from: given, of an index of others, or compiled here.

What is compiled here depends on no Python: it suits each target of this processor whose glibc is
new enough, which is read from its libraries.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import parse_wheel_filename

from kuwa_min.bundle.host import libc_version
from kuwa_min.bundle.versions import version_numbers
from kuwa_min.errors import UsageError
from kuwa_min.packing.elf.host_requirements import host_requirements
from kuwa_min.packing.elf.scan import cached_scan
from kuwa_min.packing.llama_cpp.ggml_backend import add_backend, version_of
from kuwa_min.packing.llama_cpp.llama_wheel import (
    CUDA,
    CompiledWheel,
    build_llama_wheel,
    compiled_before,
    pin_source,
)
from kuwa_min.packing.wheels.fetch import fetch_from_index
from kuwa_min.packing.wheels.lock import Lock, SourcePin, parse_requirement
from kuwa_min.packing.wheels.target import TargetPython
from kuwa_min.packing.wheels.wheelhouse import find_candidates, sha256_of

from .request import LibraryRequest, package_of

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

LLAMA = "llama-cpp-python"  # no wheels of it are published
GIVE = "and give its folder by --wheels DIR"
TOOLKIT = (
    "the libraries of a CUDA toolkit, which a driver does not have: leave CUDA out of CMAKE_ARGS, "
    "and build with --cuda, which takes them along"
)
SCANS = "elf-scans"  # in the wheelhouse


def with_index(request: LibraryRequest, log_step: LogStep) -> LibraryRequest:
    """Fetch the wheel from --llama_index, and use it as one of --wheels."""
    if not request.llama_index:
        return request
    wanted, index, house = request.needed_of(LLAMA), request.llama_index, request.wheelhouse
    folder = fetch_from_index(wanted, index, request.target, house, log_step)
    sources = request.sources._replace(wheels=(*request.sources.wheels, folder))
    return request._replace(sources=sources)


def find_wheel(request: LibraryRequest, log_step: LogStep) -> CompiledWheel | None:
    """Compile the wheel, unless it was before; None if one is given, or none is needed."""
    wanted = request.needed_of(LLAMA)
    given = find_candidates(request.sources.folders, request.target).newest()
    if request.gpu and LLAMA in given:
        raise UsageError(
            f"--{request.gpu.name} adds to a {LLAMA} that is compiled here, and "
            f"{given[LLAMA].path} was given: leave one of them out"
        )
    if not wanted or LLAMA in given:
        return None
    _check_can_compile(request)
    before = _compiled_before(wanted, request)
    if before and (before.source or not request.lock):
        log_step(f"{before.path.name} was compiled before, with the same CMAKE_ARGS")
        return _with_gpu(before, request, log_step)
    source = pin_source(wanted, request.sources, request.wheelhouse, log_step)
    wheel = build_llama_wheel(source, request.sources, request.wheelhouse, log_step)
    return _with_gpu(CompiledWheel(wheel, source), request, log_step)


def compile_locked(source: SourcePin, request: LibraryRequest, log_step: LogStep) -> Path:
    """Compile the source of a lock, or return the wheel that was compiled of it."""
    _check_can_compile(request)
    given = find_candidates(request.sources.wheels, request.target).newest()
    if source.sdist.name in given:
        raise UsageError(
            f"{given[source.sdist.name].path} is not in the lock, which pins the source: "
            "leave the wheel out, or make another lock"
        )
    wheel = build_llama_wheel(source, request.sources, request.wheelhouse, log_step)
    return _with_gpu(CompiledWheel(wheel, source), request, log_step).path


def carried_in(lock: Lock, request: LibraryRequest) -> Path | None:
    """Find a wheel that was compiled elsewhere, or before locks held sources; raises UsageError."""
    pin = next((pin for pin in lock.pins if pin.name == LLAMA), None)
    if pin is None:
        return None
    compiled = sorted({path.parent for path in request.wheelhouse.glob(f"{LLAMA}-*/*/*.whl")})
    candidates = find_candidates([*request.sources.folders, *compiled], lock.target)
    for one in candidates.of(LLAMA, pin.version):
        if sha256_of(one.path) in pin.hashes:
            return one.path
    raise UsageError(
        f"{request.lock} pins a wheel of {LLAMA} {pin.version} that is not here, and no source: "
        "give the wheel's folder by --wheels DIR, or remove the lock to make one with the source"
    )


def check_lock(lock: Lock, request: LibraryRequest) -> None:
    """Raise UsageError if a lock lacks, or is for, libraries of another backend of ggml."""
    asked = {package_of(one): one for one in request.gpu.requirements} if request.gpu else {}
    pinned = {pin.name: f"{pin.name}=={pin.version}" for pin in lock.pins}
    other = [one for name, one in asked.items() if pinned.get(name) != one]
    if other:
        raise UsageError(f"{request.lock} does not pin {', '.join(other)}: make another lock")
    if lock.source and "nvidia-cublas" in pinned and not asked:
        raise UsageError(f"{request.lock} was made with --cuda: say it again, or make another lock")


def _compiled_before(wanted: str, request: LibraryRequest) -> CompiledWheel | None:
    """Return a wheel of the preferred version that was compiled, offline of any version."""
    sources = request.sources
    for one in sources.preferred:
        if parse_requirement(one).name == LLAMA and (
            found := compiled_before(one, request.wheelhouse)
        ):
            return found
    return compiled_before(wanted, request.wheelhouse) if sources.no_index else None


def _with_gpu(wheel: CompiledWheel, request: LibraryRequest, log_step: LogStep) -> CompiledWheel:
    """Add the backend for graphics cards that is asked for, if one is."""
    _check_suits(wheel.path, request)
    if not request.gpu:
        return wheel
    sources, house = request.sources, request.wheelhouse
    if not wheel.source:  # compiled before sources were recorded
        same = f"{LLAMA}=={version_of(wheel.path)}"
        wheel = wheel._replace(source=pin_source(same, sources, house, log_step))
    made = add_backend(request.gpu, wheel, sources, house, log_step)
    _check_suits(made.path, request)
    return made


def _check_can_compile(request: LibraryRequest) -> None:
    """Raise UsageError if what is compiled here would run on no machine such as the target."""
    target, arguments = request.target, os.environ.get("CMAKE_ARGS", "")
    if target.machine != os.uname().machine or not libc_version().startswith("glibc"):
        raise UsageError(
            f"{LLAMA} has no published wheels and cannot be compiled here for {target}: "
            f"build its wheel on such a machine, {GIVE}"
        )
    carries_more = request.more or request.host_packages or "GGML_STATIC" in arguments
    if CUDA.search(arguments) and not carries_more:
        raise UsageError(f"{arguments!r} in CMAKE_ARGS makes a file that would need {TOOLKIT}")


def _check_suits(wheel: Path, request: LibraryRequest) -> None:
    """Raise UsageError if the target's Python or glibc is not one for a wheel compiled here."""
    target, place = request.target, "build it there, or where glibc is as old"
    if target.rank(parse_wheel_filename(wheel.name)[3]) is None:
        raise UsageError(f"{wheel.name}, compiled here, is not for {target}: {place}, {GIVE}")
    scan = cached_scan(wheel, sha256_of(wheel), request.wheelhouse / SCANS)
    needed = host_requirements([scan], {}).glibc
    is_newer = needed and version_numbers(needed) > version_numbers(target.glibc)
    if is_newer and target != TargetPython.of_this_machine():
        raise UsageError(
            f"{wheel.name}, compiled here, needs glibc {needed}, and {target} has {target.glibc}: "
            f"{place}, {GIVE}"
        )

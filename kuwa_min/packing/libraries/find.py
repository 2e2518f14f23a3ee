"""Find a backend's libraries: resolve, fetch and read the wheels, and what they require."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kuwa_min.bundle.manifest import Target
from kuwa_min.errors import UsageError
from kuwa_min.packing.assemble import Libraries
from kuwa_min.packing.elf.host_requirements import host_requirements
from kuwa_min.packing.elf.scan import cached_scan
from kuwa_min.packing.llama_cpp.ggml_backend import version_of
from kuwa_min.packing.wheels.constraints import read_constraints
from kuwa_min.packing.wheels.driver import check_variant, for_driver
from kuwa_min.packing.wheels.fetch import fetch_wheels
from kuwa_min.packing.wheels.lock import Lock, Pin, SourcePin, check, read_lock
from kuwa_min.packing.wheels.resolve import WheelSources, resolve
from kuwa_min.packing.wheels.wheel import PayloadFile, Wheel, read_wheel
from kuwa_min.packing.wheels.wheelhouse import sha256_of

from . import llama_cpp
from .request import LibraryRequest

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

FileFilter = Callable[[Iterable[PayloadFile]], list[PayloadFile]]  # `prune`, or `list` for all
OF_TOOLKIT = re.compile(r"lib(cudart|cublas|cublasLt|nvrtc|nccl)\.so(\.\d+)*")


def find_libraries(
    request: LibraryRequest, file_filter: FileFilter, log_step: LogStep
) -> Libraries:
    """Return a backend's libraries: resolved or read from a lock, fetched, read, filtered.

    Raises UsageError.
    """
    request = llama_cpp.with_index(request, log_step)
    found = _followed(request, log_step) or _resolved(request, log_step)
    lock, sources = found.lock, _with_folder(request.sources, found.compiled)
    of_ggml = request.gpu.requirements if request.gpu else ()
    log_step(read_constraints().report(found.origin, lock.pins, of_ggml))
    digests = fetch_wheels(lock, sources, request.wheelhouse, log_step)
    if request.lock:
        used = lock.narrowed(digests.values())
        _write_lock(used.with_source(found.source) if found.source else used, request.lock)
    wheels = [read_wheel(path, digest) for path, digest in digests.items()]
    return Libraries(
        target=_target(request, wheels, digests),
        packages=[wheel.package for wheel in wheels],
        files=file_filter(file for wheel in wheels for file in wheel.files),
        host_packages=[*request.host_packages],
    )


class Pinned(NamedTuple):
    """The wheels to take, that which was compiled here, and its source if a lock shall hold it."""

    lock: Lock
    compiled: Path | None
    source: SourcePin | None
    origin: str  # of the versions, for the log


def _with_folder(sources: WheelSources, wheel: Path | None) -> WheelSources:
    """Look for wheels beside a compiled one, too."""
    return sources._replace(wheels=(*sources.wheels, wheel.parent)) if wheel else sources


def _write_lock(lock: Lock, path: Path) -> None:
    """Write a lock if it changed: the file may be read-only."""
    if not path.exists() or path.read_text(encoding="utf-8") != lock.text():
        path.write_text(lock.text(), encoding="utf-8")


def _followed(request: LibraryRequest, log_step: LogStep) -> Pinned | None:
    """Read the lock and compile the source that it pins; None if there is no lock yet."""
    if request.lock and not request.lock.parent.is_dir():
        raise UsageError(f"there is no folder {request.lock.parent} for the lock")
    if not (request.lock and request.lock.exists()):
        return None
    lock = read_lock(request.lock)
    if request.driver:
        check_variant(lock, request.driver)
    _check(lock, request)
    llama_cpp.check_lock(lock, request)
    source = lock.source
    if source is None:
        return Pinned(lock, llama_cpp.carried_in(lock, request), None, str(request.lock))
    wheel = llama_cpp.compile_locked(source, request, log_step)
    compiled = Pin(source.sdist.name, version_of(wheel), (sha256_of(wheel),))
    return Pinned(lock.with_compiled(compiled), wheel, source, str(request.lock))


def _resolved(request: LibraryRequest, log_step: LogStep) -> Pinned:
    """Resolve what a backend requires; compile llama-cpp-python unless a wheel is given."""
    if request.driver:
        variant = for_driver(request.driver, request.target, request.sources, log_step)
        request = request._replace(sources=variant)
    wheel = llama_cpp.find_wheel(request, log_step)
    sources = _with_folder(request.sources, wheel and wheel.path)
    log_step(f"resolving {', '.join(request.needed)} for {request.target}")
    name, target, host = request.backend.name, request.target, request.host_packages
    lock = resolve(name, request.requirements, target, sources, host)
    _check(lock, request)
    origin = "the constraints file" if sources.preferred else "today"
    return Pinned(lock, wheel and wheel.path, wheel and wheel.source, origin)


def _check_toolkit(libraries: Iterable[str], request: LibraryRequest) -> None:
    """Raise UsageError for a file that would need a CUDA toolkit: a driver has no such library."""
    found = [name for name in libraries if OF_TOOLKIT.fullmatch(name)]
    if found and not request.host_packages:
        raise UsageError(f"the file would need {', '.join(found)} of {llama_cpp.TOOLKIT}")


def _check(lock: Lock, request: LibraryRequest) -> None:
    """Raise UsageError if a lock is for another build."""
    variant, host = request.sources.torch_variant, request.host_packages
    name, needed = request.backend.name, request.needed
    check(lock, name, request.target, needed, torch_variant=variant, host_packages=host)


def _target(
    request: LibraryRequest, wheels: Sequence[Wheel], digests: Mapping[Path, str]
) -> Target:
    target, folder = request.target, request.wheelhouse / llama_cpp.SCANS
    scans = [cached_scan(path, digest, folder) for path, digest in digests.items()]
    packages = {wheel.package["name"]: wheel.package["version"] for wheel in wheels}
    required = host_requirements(scans, packages)
    _check_toolkit(required.libraries, request)
    return {
        "python": target.python,
        "implementation": target.implementation,
        "abi": target.abi,
        "bytecode": "",
        "platform": target.platform,
        "os": target.os,
        "machine": target.machine,
        "glibc": required.glibc,
        "libraries": required.libraries,
        "cpu": required.cpu,
        "cuda": required.cuda,
        "driver": required.driver,
        "gpu_libraries": required.gpu_libraries,
    }

"""Find a backend's libraries: resolve, fetch and read the wheels, and what they require."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kuwa_min.bundle.manifest import Target
from kuwa_min.errors import UsageError
from kuwa_min.packing.elf.host_requirements import host_requirements
from kuwa_min.packing.elf.scan import cached_scan
from kuwa_min.packing.wheels.fetch import fetch_wheels
from kuwa_min.packing.wheels.llama_wheel import build_llama_wheel
from kuwa_min.packing.wheels.lock import Lock, check, parse_requirement, read_lock
from kuwa_min.packing.wheels.resolve import WheelSources, resolve
from kuwa_min.packing.wheels.target import TargetPython
from kuwa_min.packing.wheels.wheel import PayloadFile, Wheel, read_wheel
from kuwa_min.packing.wheels.wheelhouse import find_candidates
from kuwa_min.registry import BackendInfo

from .assemble import Libraries

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

FileFilter = Callable[[Iterable[PayloadFile]], list[PayloadFile]]  # `prune`, or `list` for all
LLAMA = "llama-cpp-python"  # no wheels of it are published


class LibraryRequest(NamedTuple):
    """Which backend needs libraries, for which target, and where wheels may come from."""

    backend: BackendInfo
    target: TargetPython
    sources: WheelSources
    lock: Path | None  # followed, or written if absent; None: resolve anew
    wheelhouse: Path  # downloaded and compiled wheels are kept here for the next build
    host_packages: tuple[str, ...]  # provided by the host's Python: --thin


def find_libraries(
    request: LibraryRequest, file_filter: FileFilter, log_step: LogStep
) -> Libraries:
    """Return a backend's libraries: resolved or read from a lock, fetched, read, filtered.

    Raises UsageError.
    """
    request = _with_llama(request, log_step)
    lock = _lock(request, log_step)
    digests = fetch_wheels(lock, request.sources, request.wheelhouse, log_step)
    if request.lock:
        _write_lock(lock.narrowed(digests.values()).text(), request.lock)
    wheels = [read_wheel(path, digest) for path, digest in digests.items()]
    return Libraries(
        target=_target(request, wheels, digests),
        packages=[wheel.package for wheel in wheels],
        files=file_filter(file for wheel in wheels for file in wheel.files),
        host_packages=[*request.host_packages],
    )


def _write_lock(text: str, path: Path) -> None:
    """Write a lock if it changed: the file may be read-only."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _with_llama(request: LibraryRequest, log_step: LogStep) -> LibraryRequest:
    """Compile llama-cpp-python, which has no published wheels, unless a wheel is given."""
    wanted = [
        one for one in request.backend.requires.values() if parse_requirement(one).name == LLAMA
    ]
    given = find_candidates(request.sources.folders, request.target).newest()
    if not wanted or LLAMA in given:
        return request
    if not request.target.is_here:
        raise UsageError(
            f"{LLAMA} has no published wheels and cannot be compiled here for {request.target}: "
            "build its wheel on such a machine and give its folder: --wheels DIR"
        )
    wheel = build_llama_wheel(wanted[0], request.wheelhouse, log_step)
    wheels = (*request.sources.wheels, wheel.parent)
    return request._replace(sources=request.sources._replace(wheels=wheels))


def _lock(request: LibraryRequest, log_step: LogStep) -> Lock:
    name, requirements = request.backend.name, [*request.backend.requires.values()]
    needed = [
        one for one in requirements if parse_requirement(one).name not in request.host_packages
    ]
    if request.lock and request.lock.exists():
        lock = read_lock(request.lock)
    else:
        log_step(f"resolving {', '.join(needed)} for {request.target}")
        lock = resolve(name, requirements, request.target, request.sources, request.host_packages)
    variant = request.sources.torch_variant
    check(
        lock,
        name,
        request.target,
        needed,
        torch_variant=variant,
        host_packages=request.host_packages,
    )
    return lock


def _target(
    request: LibraryRequest, wheels: Sequence[Wheel], digests: Mapping[Path, str]
) -> Target:
    target, folder = request.target, request.wheelhouse / "elf-scans"
    scans = [cached_scan(path, digest, folder) for path, digest in digests.items()]
    packages = {wheel.package["name"]: wheel.package["version"] for wheel in wheels}
    required = host_requirements(scans, packages)
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
    }

"""Find a backend's libraries: resolve, fetch and read the wheels, and what they require."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kuwa_min.bundle.manifest import Target
from kuwa_min.errors import UsageError
from kuwa_min.packing.elf.host_requirements import host_requirements
from kuwa_min.packing.elf.scan import cached_scan
from kuwa_min.packing.wheels.constraints import read_constraints
from kuwa_min.packing.wheels.driver import check_variant, for_driver
from kuwa_min.packing.wheels.fetch import fetch_from_index, fetch_wheels
from kuwa_min.packing.wheels.ggml_backend import GgmlBackend, add_backend, version_of
from kuwa_min.packing.wheels.llama_wheel import (
    CompiledWheel,
    build_llama_wheel,
    compiled_before,
    pin_source,
)
from kuwa_min.packing.wheels.lock import Lock, Pin, SourcePin, check, parse_requirement, read_lock
from kuwa_min.packing.wheels.resolve import WheelSources, resolve
from kuwa_min.packing.wheels.target import TargetPython
from kuwa_min.packing.wheels.wheel import PayloadFile, Wheel, read_wheel
from kuwa_min.packing.wheels.wheelhouse import find_candidates, sha256_of
from kuwa_min.registry import BackendInfo

from .assemble import Libraries

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

FileFilter = Callable[[Iterable[PayloadFile]], list[PayloadFile]]  # `prune`, or `list` for all
TORCH = "torch"
TOOLKIT = re.compile(r"lib(cudart|cublas|cublasLt|nvrtc|nccl)\.so(\.\d+)*")
LLAMA = "llama-cpp-python"  # no wheels of it are published


class LibraryRequest(NamedTuple):
    """Which backend needs libraries, for which target, and where wheels may come from."""

    backend: BackendInfo
    target: TargetPython
    sources: WheelSources
    lock: Path | None  # followed, or written if absent; None: resolve anew
    wheelhouse: Path  # downloaded and compiled wheels are kept here for the next build
    host_packages: tuple[str, ...]  # provided by the host's Python: --thin
    more: tuple[str, ...] = ()  # requirements beside those of the backend: --with
    driver: str = ""  # NVIDIA's, which torch shall run with: --driver
    llama_index: str = ""  # of compiled wheels of llama.cpp: --llama_index
    gpu: GgmlBackend | None = None  # to add to llama.cpp: --cuda, --vulkan

    @property
    def requirements(self) -> list[str]:
        """Return what the backend requires, and what --with adds."""
        return [*self.backend.requires.values(), *self.more]


def find_libraries(
    request: LibraryRequest, file_filter: FileFilter, log_step: LogStep
) -> Libraries:
    """Return a backend's libraries: resolved or read from a lock, fetched, read, filtered.

    Raises UsageError.
    """
    request = _with_index(request, log_step)
    found = _followed(request, log_step) or _resolved(request, log_step)
    lock, sources = found.lock, _with_folder(request.sources, found.compiled)
    log_step(read_constraints().report(found.origin, lock.pins))
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


def _with_index(request: LibraryRequest, log_step: LogStep) -> LibraryRequest:
    """Fetch llama.cpp's wheel from --llama_index, and use it as one of --wheels."""
    if not request.llama_index:
        return request
    wanted = [one for one in _needed(request) if _name(one) == LLAMA]
    if not wanted:
        raise UsageError(f"{request.backend.name} takes no llama.cpp along: leave the index out")
    index, house = request.llama_index, request.wheelhouse
    folder = fetch_from_index(wanted[0], index, request.target, house, log_step)
    sources = request.sources._replace(wheels=(*request.sources.wheels, folder))
    return request._replace(sources=sources)


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
    _check_carried(lock, request)
    source = lock.source
    if source is None:
        return Pinned(lock, _carried_in(lock, request), None, str(request.lock))
    _check_is_here(request)
    given = find_candidates(request.sources.wheels, request.target).newest()
    if source.sdist.name in given:
        raise UsageError(
            f"{given[source.sdist.name].path} is not in the lock, which pins the source: "
            "leave the wheel out, or make another lock"
        )
    wheel = build_llama_wheel(source, request.sources, request.wheelhouse, log_step)
    wheel = _with_gpu(CompiledWheel(wheel, source), request, log_step).path
    compiled = Pin(source.sdist.name, version_of(wheel), (sha256_of(wheel),))
    return Pinned(lock.with_compiled(compiled), wheel, source, str(request.lock))


def _carried_in(lock: Lock, request: LibraryRequest) -> Path | None:
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


def _resolved(request: LibraryRequest, log_step: LogStep) -> Pinned:
    """Resolve what a backend requires; compile llama-cpp-python unless a wheel is given."""
    if request.driver and TORCH in map(_name, _needed(request)):
        variant = for_driver(request.driver, request.target, request.sources, log_step)
        request = request._replace(sources=variant)
    elif request.driver:
        raise UsageError(f"{request.backend.name} takes no torch along: leave --driver out")
    wheel = _llama_wheel(request, log_step)
    sources = _with_folder(request.sources, wheel and wheel.path)
    log_step(f"resolving {', '.join(_needed(request))} for {request.target}")
    name, target, host = request.backend.name, request.target, request.host_packages
    lock = resolve(name, request.requirements, target, sources, host)
    _check(lock, request)
    origin = "the constraints file" if sources.preferred else "today"
    return Pinned(lock, wheel and wheel.path, wheel and wheel.source, origin)


def _llama_wheel(request: LibraryRequest, log_step: LogStep) -> CompiledWheel | None:
    """Compile llama-cpp-python, which has no published wheels; None if it is not to be."""
    wanted = [one for one in _needed(request) if parse_requirement(one).name == LLAMA]
    given = find_candidates(request.sources.folders, request.target).newest()
    if request.gpu and (not wanted or LLAMA in given):
        raise UsageError(
            f"--{request.gpu.name} adds to a {LLAMA} that is compiled here: it goes with "
            "llamacpp, and without wheels of your own"
        )
    if not wanted or LLAMA in given:
        return None
    _check_is_here(request)
    before = _compiled_before(wanted[0], request)
    if before and (before.source or not request.lock):
        log_step(f"{before.path.name} was compiled before, with the same CMAKE_ARGS")
        return _with_gpu(before, request, log_step)
    source = pin_source(wanted[0], request.sources, request.wheelhouse, log_step)
    wheel = build_llama_wheel(source, request.sources, request.wheelhouse, log_step)
    return _with_gpu(CompiledWheel(wheel, source), request, log_step)


def _with_gpu(wheel: CompiledWheel, request: LibraryRequest, log_step: LogStep) -> CompiledWheel:
    """Add the backend for graphics cards that is asked for, if one is."""
    if not request.gpu:
        return wheel
    sources, house = request.sources, request.wheelhouse
    if not wheel.source:  # compiled before sources were recorded
        same = f"{LLAMA}=={version_of(wheel.path)}"
        wheel = wheel._replace(source=pin_source(same, sources, house, log_step))
    return add_backend(request.gpu, wheel, sources, house, log_step)


def _compiled_before(wanted: str, request: LibraryRequest) -> CompiledWheel | None:
    """Return a wheel of the preferred version that was compiled, offline of any version."""
    sources = request.sources
    for one in sources.preferred:
        if parse_requirement(one).name == LLAMA and (
            found := compiled_before(one, request.wheelhouse)
        ):
            return found
    return compiled_before(wanted, request.wheelhouse) if sources.no_index else None


def _check_is_here(request: LibraryRequest) -> None:
    """Raise UsageError if what is compiled here would not run on the target."""
    if not request.target.is_here:
        raise UsageError(
            f"{LLAMA} has no published wheels and cannot be compiled here for {request.target}: "
            "build its wheel on such a machine and give its folder: --wheels DIR"
        )


def _check_carried(lock: Lock, request: LibraryRequest) -> None:
    """Raise UsageError if a lock lacks, or is for, libraries of another backend of llama.cpp."""
    asked = {_name(one): one for one in request.gpu.requirements} if request.gpu else {}
    pinned = {pin.name: f"{pin.name}=={pin.version}" for pin in lock.pins}
    other = [one for name, one in asked.items() if pinned.get(name) != one]
    if other:
        raise UsageError(f"{request.lock} does not pin {', '.join(other)}: make another lock")
    if lock.source and "nvidia-cublas" in pinned and not asked:
        raise UsageError(f"{request.lock} was made with --cuda: say it again, or make another lock")


def _check_toolkit(libraries: Iterable[str], request: LibraryRequest) -> None:
    """Raise UsageError for a file that would need a CUDA toolkit: a driver has no such library."""
    found = [name for name in libraries if TOOLKIT.fullmatch(name)]
    if found and not request.host_packages:
        raise UsageError(
            f"the file would need {', '.join(found)}, which a CUDA toolkit has and a driver does "
            "not: leave CUDA out of CMAKE_ARGS and build with --cuda, which takes them along"
        )


def _needed(request: LibraryRequest) -> list[str]:
    return [one for one in request.requirements if _name(one) not in request.host_packages]


def _name(requirement: str) -> str:
    return parse_requirement(requirement).name


def _check(lock: Lock, request: LibraryRequest) -> None:
    """Raise UsageError if a lock is for another build."""
    variant, host = request.sources.torch_variant, request.host_packages
    name, needed = request.backend.name, _needed(request)
    check(lock, name, request.target, needed, torch_variant=variant, host_packages=host)


def _target(
    request: LibraryRequest, wheels: Sequence[Wheel], digests: Mapping[Path, str]
) -> Target:
    target, folder = request.target, request.wheelhouse / "elf-scans"
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

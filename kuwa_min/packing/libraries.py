"""Find a backend's libraries: resolve, fetch and read the wheels, and what they require."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kuwa_min.bundle.manifest import Target
from kuwa_min.errors import UsageError
from kuwa_min.packing.elf.host_requirements import combine
from kuwa_min.packing.elf.scan import remembered_survey
from kuwa_min.packing.wheels.fetch import gather
from kuwa_min.packing.wheels.llama_wheel import build_llama_wheel
from kuwa_min.packing.wheels.lock import Lock, check, parse_requirement, read_lock
from kuwa_min.packing.wheels.resolve import Sources, resolve
from kuwa_min.packing.wheels.target import Box
from kuwa_min.packing.wheels.wheel import Content, Wheel, read_wheel
from kuwa_min.packing.wheels.wheelhouse import read_shelf
from kuwa_min.registry import BackendInfo

from .assemble import Libraries, Tell

Keep = Callable[[Iterable[Content]], list[Content]]
LLAMA = "llama-cpp-python"  # no wheels of it are published


class Order(NamedTuple):
    """Which backend needs libraries, for which target, and where wheels may come from."""

    backend: BackendInfo
    box: Box
    sources: Sources
    lock: Path | None  # followed, or written if absent; None: resolve anew
    wheelhouse: Path  # downloaded and compiled wheels are kept here for the next build
    host_packages: tuple[str, ...]  # provided by the host's Python: --thin


def find(order: Order, keep: Keep, tell: Tell) -> Libraries:
    """Return a backend's libraries, their files filtered by keep; raises UsageError."""
    order = _with_llama(order, tell)
    lock = _lock(order, tell)
    digests = gather(lock, order.sources, order.wheelhouse, tell)
    if order.lock:
        _keep(lock.narrowed(digests.values()).text(), order.lock)
    wheels = [read_wheel(path, digest) for path, digest in digests.items()]
    return Libraries(
        target=_target(order, wheels, digests),
        packages=[wheel.package for wheel in wheels],
        contents=keep(content for wheel in wheels for content in wheel.contents),
        host_packages=[*order.host_packages],
    )


def _keep(text: str, path: Path) -> None:
    """Write a lock if it changed: the file may be read-only."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _with_llama(order: Order, tell: Tell) -> Order:
    """Compile llama-cpp-python, which has no published wheels, unless a wheel is given."""
    wanted = [
        one for one in order.backend.requires.values() if parse_requirement(one).name == LLAMA
    ]
    given = read_shelf(order.sources.folders, order.box).newest()
    if not wanted or LLAMA in given:
        return order
    if not order.box.is_here:
        raise UsageError(
            f"{LLAMA} has no published wheels and cannot be compiled here for {order.box}: build "
            "its wheel on such a machine and give its folder: --wheels DIR"
        )
    wheel = build_llama_wheel(wanted[0], order.wheelhouse, tell)
    wheels = (*order.sources.wheels, wheel.parent)
    return order._replace(sources=order.sources._replace(wheels=wheels))


def _lock(order: Order, tell: Tell) -> Lock:
    name, requirements = order.backend.name, [*order.backend.requires.values()]
    needed = [one for one in requirements if parse_requirement(one).name not in order.host_packages]
    if order.lock and order.lock.exists():
        lock = read_lock(order.lock)
    else:
        tell(f"resolving {', '.join(needed)} for {order.box}")
        lock = resolve(name, requirements, order.box, order.sources, order.host_packages)
    variant = order.sources.torch_variant
    check(lock, name, order.box, needed, torch_variant=variant, host_packages=order.host_packages)
    return lock


def _target(order: Order, wheels: Sequence[Wheel], digests: Mapping[Path, str]) -> Target:
    box, folder = order.box, order.wheelhouse / "surveys"
    surveys = [remembered_survey(path, digest, folder) for path, digest in digests.items()]
    packages = {wheel.package["name"]: wheel.package["version"] for wheel in wheels}
    needs = combine(surveys, packages)
    return {
        "python": box.python,
        "implementation": box.implementation,
        "abi": box.abi,
        "bytecode": "",
        "platform": box.platform,
        "os": box.os,
        "machine": box.machine,
        "glibc": needs.glibc,
        "libraries": needs.libraries,
        "cpu": needs.cpu,
        "cuda": needs.cuda,
        "driver": needs.driver,
    }

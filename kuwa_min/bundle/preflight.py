"""Preflight checks: whether this machine has what a file needs, before anything is unpacked.

Reads a manifest.Target; knows nothing of disks and the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .host import CPUINFO, HostInfo, LoadedLibrary, load_library
from .manifest import Target
from .versions import version_numbers

GOOD, WARNING, REFUSAL = "good", "warning", "refusal"
NAMES = {"cpython": "Python", "pypy": "PyPy", "linux": "Linux", "darwin": "macOS"}

PACKAGES = {  # soname -> the package that has it: on Debian and Ubuntu, on Red Hat and Fedora
    "libstdc++.so.6": ("libstdc++6", "libstdc++"),
    "libgcc_s.so.1": ("libgcc-s1", "libgcc"),
    "libgomp.so.1": ("libgomp1", "libgomp"),
    "libatomic.so.1": ("libatomic1", "libatomic"),
    "libz.so.1": ("zlib1g", "zlib"),
    "libexpat.so.1": ("libexpat1", "expat"),
    "libcrypt.so.1": ("libcrypt1", "libxcrypt-compat"),
    "libnsl.so.1": ("libnsl1", "libnsl"),
    "libssl.so.3": ("libssl3", "openssl-libs"),
    "libcrypto.so.3": ("libssl3", "openssl-libs"),
    "libcurl.so.4": ("libcurl4", "libcurl"),
    "libopenblas.so.0": ("libopenblas0", "openblas"),
    "libGL.so.1": ("libgl1", "libglvnd-glx"),
    "libX11.so.6": ("libx11-6", "libX11"),
    "libXext.so.6": ("libxext6", "libXext"),
    "libXrender.so.1": ("libxrender1", "libXrender"),
    "libICE.so.6": ("libice6", "libICE"),
    "libSM.so.6": ("libsm6", "libSM"),
    "libglib-2.0.so.0": ("libglib2.0-0", "glib2"),
    "libgobject-2.0.so.0": ("libglib2.0-0", "glib2"),
    "libgthread-2.0.so.0": ("libglib2.0-0", "glib2"),
    "libvulkan.so.1": ("libvulkan1", "vulkan-loader"),
}


class CheckResult(NamedTuple):
    """One requirement of a file, and whether this machine meets it."""

    what: str  # "Python", "operating system", "machine", "glibc", a soname, "CPU" or "driver"
    needed: str
    found: str
    remedy: str  # "" if it is met
    status: str  # "good", "warning" or "refusal"

    def line(self) -> str:
        """Return what is needed, what was found, and what to do about it."""
        said = f"needs {self.needed}; {self.found}"
        return f"{said}; {self.remedy}" if self.remedy else said


def check_host(target: Target) -> list[CheckResult]:
    """Check everything that this target names, the most important first."""
    host = HostInfo.detect()
    python, system = check_python(target, host), check_system(target, host)
    if refusals(system):  # libraries that load here are for another system
        return [*python, *system]
    libraries = [
        check_library(soname, versions, load_library(soname, versions))
        for soname, versions in target["libraries"].items()
    ]
    gpu = [check_gpu_library(one, load_library(one, ())) for one in target["gpu_libraries"]]
    processor, driver = check_cpu(target, host), check_driver(target, host)
    return [*python, *system, *libraries, *processor, *driver, *gpu]


def refusals(results: list[CheckResult]) -> list[CheckResult]:
    """Return the results that keep the file from running here."""
    return [result for result in results if result.status == REFUSAL]


def check_python(target: Target, host: HostInfo) -> list[CheckResult]:
    """Check the Python that runs this: new enough, or exactly the one of the libraries."""
    wanted, found = target["python"], f"this is {_described(host)}, at {host.executable}"
    if target["abi"] == "any":
        least = wanted.removeprefix(">=")
        remedy = f"start it with a newer one, for example: python{least}"
        fits = host.python >= version_numbers(least)
        return [_result("Python", f"Python {least} or newer", found, remedy, fits=fits)]
    free_threaded, minor = target["abi"].endswith("t"), wanted.removesuffix("t")
    kind = (target["implementation"], minor, free_threaded, 64)
    this_minor = ".".join(map(str, host.python[:2]))
    fits = kind == (host.implementation, this_minor, host.free_threaded, host.bits)
    name = _python_name(target["implementation"], free_threaded=free_threaded)
    needed = f"{name} {minor}{'' if host.bits == 64 else ' of 64 bits'}"
    remedy = f"start it with python{minor}{'t' if free_threaded else ''}"
    return [_result("Python", needed, found, remedy, fits=fits)]


def check_system(target: Target, host: HostInfo) -> list[CheckResult]:
    """Check operating system, architecture and glibc, up to the first that is wrong."""
    found: list[CheckResult] = []
    for check in (check_os, check_architecture, check_glibc):
        found += [] if refusals(found) else check(target, host)
    return found


def check_os(target: Target, host: HostInfo) -> list[CheckResult]:
    """Check the operating system; no result if the file runs on any."""
    if target["os"] == "any":
        return []
    needed, found = (NAMES.get(name, name) for name in (target["os"], host.os))
    remedy = f"carry it to a machine with {needed}"
    fits = target["os"] == host.os
    return [_result("operating system", needed, f"this is {found}", remedy, fits=fits)]


def check_architecture(target: Target, host: HostInfo) -> list[CheckResult]:
    """Check the processor's architecture; no result if the file runs on any."""
    if target["machine"] == "any":
        return []
    platform = target["platform"].removesuffix(target["machine"]) + host.machine
    remedy = f"build the file for it (--platform {platform})"
    needed, found = f"a machine of the kind {target['machine']}", f"this is {host.machine}"
    fits = target["machine"] == host.machine
    return [_result("machine", needed, found, remedy, fits=fits)]


def check_glibc(target: Target, host: HostInfo) -> list[CheckResult]:
    """Check the system's C library; no result if the file needs none."""
    if not target["glibc"]:
        return []
    name, _, version = host.libc.partition(" ")
    needed = f"glibc {target['glibc']} or newer"
    if name != "glibc":
        found = f"this system has {name or 'another C library'}, not glibc"
        return [CheckResult("glibc", needed, found, "use a system with glibc", REFUSAL)]
    platform = f"manylinux_{'_'.join(version.split('.')[:2])}_{host.machine}"
    remedy = f"build the file for it (--platform {platform}) or use a newer system"
    fits = version_numbers(version) >= version_numbers(target["glibc"])
    return [_result("glibc", needed, f"this system has {version}", remedy, fits=fits)]


def check_library(soname: str, versions: Sequence[str], loaded: LoadedLibrary) -> CheckResult:
    """Check one shared library that the system must have."""
    needed = f"{soname} with {', '.join(versions)}" if versions else soname
    missing = [version for version in versions if version not in loaded.versions]
    if loaded.error:
        gone = f"{soname}: cannot open shared object file" in loaded.error
        found = "it is not here" if gone else f"it cannot be loaded: {loaded.error}"
        return CheckResult(soname, needed, found, f"carry in {_package(soname)}", REFUSAL)
    if not loaded.path:
        found = "this Python cannot check it"
        return CheckResult(soname, needed, found, f"it comes with {_package(soname)}", WARNING)
    if missing:
        found = f"{loaded.path} lacks {', '.join(missing)}"
        remedy = f"use a newer system, or carry in a newer version of {_package(soname)}"
        return CheckResult(soname, needed, found, remedy, REFUSAL)
    return CheckResult(soname, needed, f"it is here: {loaded.path}", "", GOOD)


def check_gpu_library(soname: str, loaded: LoadedLibrary) -> CheckResult:
    """Check a library that only graphics cards need: warn at most, as for a driver."""
    checked = check_library(soname, (), loaded)
    result = checked._replace(needed=f"{soname} for graphics cards")
    if result.status != REFUSAL:
        return result
    remedy = f"{result.remedy}; without, it runs on the CPU only"
    return result._replace(status=WARNING, remedy=remedy)


def check_cpu(target: Target, host: HostInfo) -> list[CheckResult]:
    """Check the CPU's flags; no result if the file needs none."""
    if not target["cpu"]:
        return []
    needed = f"a CPU with {', '.join(target['cpu'])}"
    if not host.cpu:
        found = f"this machine does not tell ({CPUINFO})"
        remedy = "if it ends with Illegal instruction, build the file on such a machine"
        return [CheckResult("CPU", needed, found, remedy, WARNING)]
    missing = [flag for flag in target["cpu"] if flag not in host.cpu]
    found = f"this one lacks {', '.join(missing)}" if missing else "this one has them"
    remedy = "use a newer machine, or build the file for any (CMAKE_ARGS=-DGGML_NATIVE=OFF)"
    return [_result("CPU", needed, found, remedy, fits=not missing)]


def check_driver(target: Target, host: HostInfo) -> list[CheckResult]:
    """Check NVIDIA's driver: warn at most, as the CPU may be asked for; no result without CUDA."""
    if not target["cuda"]:
        return []
    least = target["driver"]
    needed = f"NVIDIA driver{f' {least} or newer' if least else ''} for CUDA {target['cuda']}"
    if not host.driver:
        remedy = "carry one in; without, it runs on the CPU only, if asked to"
        return [CheckResult("driver", needed, "no NVIDIA driver is here", remedy, WARNING)]
    found = f"this machine has {host.driver}"
    if version_numbers(host.driver) < version_numbers(least or "0"):
        remedy = f"carry in driver {least} or newer, or build the file for an older CUDA"
        return [CheckResult("driver", needed, found, remedy, WARNING)]
    return [CheckResult("driver", needed, found, "", GOOD)]


def _result(what: str, needed: str, found: str, remedy: str, *, fits: bool) -> CheckResult:
    return CheckResult(what, needed, found, "" if fits else remedy, GOOD if fits else REFUSAL)


def _described(host: HostInfo) -> str:
    bits = "" if host.bits == 64 else f"{host.bits}-bit "
    name = _python_name(host.implementation, free_threaded=host.free_threaded)
    return f"{bits}{name} {'.'.join(map(str, host.python))}"


def _python_name(implementation: str, *, free_threaded: bool) -> str:
    name = NAMES.get(implementation, implementation)
    return f"free-threaded {name}" if free_threaded else name


def _package(soname: str) -> str:
    if soname not in PACKAGES:
        return f"the package that has {soname}"
    debian, red_hat = PACKAGES[soname]
    return f"the package {debian} (Debian, Ubuntu) or {red_hat} (Red Hat, Fedora)"

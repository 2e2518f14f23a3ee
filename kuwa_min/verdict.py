"""Judge whether this machine has what a file needs, before a byte of it is unpacked.

Knows the words of manifest.Target; knows nothing of disks and caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .machine import CPUINFO, Here, Loaded, load
from .manifest import Target

GOOD, WARNING, REFUSAL = "good", "warning", "refusal"
THREADS = {"": "", "t": "free-threaded "}
BITS = {64: ""}  # worth a word only where they are wrong
NAMES = {"cpython": "Python", "pypy": "PyPy", "linux": "Linux", "darwin": "macOS"}

PACKAGES = {  # what brings a library: on Debian and Ubuntu, on Red Hat's and Fedora
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
}


class Finding(NamedTuple):
    """One thing that a file needs, and how this machine stands to it."""

    what: str  # "Python", "operating system", "machine", "glibc", a soname, "CPU" or "driver"
    needed: str
    found: str
    remedy: str  # "" when all is well
    verdict: str  # "good", "warning" or "refusal"

    def line(self) -> str:
        """Say what is needed, what is here, and what to do or carry in."""
        said = f"needs {self.needed}; {self.found}"
        return f"{said}; {self.remedy}" if self.remedy else said


def judge_machine(target: Target) -> list[Finding]:
    """Judge everything that this target names, the most important first."""
    here = Here.look()
    python, system = judge_python(target, here), judge_system(target, here)
    if refusals(system):  # nothing else can be told: what loads here is for another system
        return [*python, *system]
    libraries = [
        judge_library(soname, versions, load(soname, versions))
        for soname, versions in target["libraries"].items()
    ]
    return [*python, *system, *libraries, *judge_cpu(target, here), *judge_driver(target, here)]


def refusals(findings: list[Finding]) -> list[Finding]:
    """Return those that keep the file from running here."""
    return [finding for finding in findings if finding.verdict == REFUSAL]


def judge_python(target: Target, here: Here) -> list[Finding]:
    """Judge the Python that runs this: a new enough one, or exactly the one of the libraries."""
    wanted, found = target["python"], f"this is {_described(here)}, at {here.executable}"
    if target["abi"] == "any":
        least = wanted.removeprefix(">=")
        remedy = f"start it with a newer one, for example: python{least}"
        fits = here.python >= _numbers(least)
        return [_finding("Python", f"Python {least} or newer", found, remedy, fits=fits)]
    threads = "t" if target["abi"].endswith("t") else ""
    minor = wanted.removesuffix("t")
    kind = (target["implementation"], _numbers(minor), threads, 64)
    fits = kind == (here.implementation, here.python[:2], here.threads, here.bits)
    name = NAMES.get(target["implementation"], target["implementation"])
    needed = f"{THREADS[threads]}{name} {minor}{BITS.get(here.bits, ' of 64 bits')}"
    remedy = f"start it with python{minor}{threads}"
    return [_finding("Python", needed, found, remedy, fits=fits)]


def judge_system(target: Target, here: Here) -> list[Finding]:
    """Judge operating system, machine and glibc, up to the first that is wrong."""
    found: list[Finding] = []
    for judge in (judge_os, judge_processor, judge_glibc):
        found += [] if refusals(found) else judge(target, here)
    return found


def judge_os(target: Target, here: Here) -> list[Finding]:
    """Judge the operating system; nothing where any will do."""
    if target["os"] == "any":
        return []
    needed, found = (NAMES.get(name, name) for name in (target["os"], here.os))
    remedy = f"carry it to a machine with {needed}"
    fits = target["os"] == here.os
    return [_finding("operating system", needed, f"this is {found}", remedy, fits=fits)]


def judge_processor(target: Target, here: Here) -> list[Finding]:
    """Judge the kind of processor; nothing where any will do."""
    if target["machine"] == "any":
        return []
    platform = target["platform"].removesuffix(target["machine"]) + here.machine
    remedy = f"build the file for it (--platform {platform})"
    needed, found = f"a machine of the kind {target['machine']}", f"this is {here.machine}"
    fits = target["machine"] == here.machine
    return [_finding("machine", needed, found, remedy, fits=fits)]


def judge_glibc(target: Target, here: Here) -> list[Finding]:
    """Judge the system's C library; nothing where none is needed."""
    if not target["glibc"]:
        return []
    name, _, version = here.libc.partition(" ")
    needed = f"glibc {target['glibc']} or newer"
    if name != "glibc":
        found = f"this system has {name or 'another C library'}, not glibc"
        return [Finding("glibc", needed, found, "use a system with glibc", REFUSAL)]
    platform = f"manylinux_{'_'.join(version.split('.')[:2])}_{here.machine}"
    remedy = f"build the file for it (--platform {platform}) or use a newer system"
    fits = _numbers(version) >= _numbers(target["glibc"])
    return [_finding("glibc", needed, f"this system has {version}", remedy, fits=fits)]


def judge_library(soname: str, versions: Sequence[str], loaded: Loaded) -> Finding:
    """Judge one library that the system must have."""
    needed = f"{soname} with {', '.join(versions)}" if versions else soname
    missing = [version for version in versions if version not in loaded.versions]
    if loaded.error:
        gone = f"{soname}: cannot open shared object file" in loaded.error
        found = "it is not here" if gone else f"it cannot be loaded: {loaded.error}"
        return Finding(soname, needed, found, f"carry in {_package(soname)}", REFUSAL)
    if not loaded.path:
        found = "nobody here can tell"
        return Finding(soname, needed, found, f"it comes with {_package(soname)}", WARNING)
    if missing:
        found = f"{loaded.path} lacks {', '.join(missing)}"
        remedy = f"use a newer system, or carry in a newer version of {_package(soname)}"
        return Finding(soname, needed, found, remedy, REFUSAL)
    return Finding(soname, needed, f"it is here: {loaded.path}", "", GOOD)


def judge_cpu(target: Target, here: Here) -> list[Finding]:
    """Judge what the processor can do; nothing where any will do."""
    if not target["cpu"]:
        return []
    needed = f"a CPU with {', '.join(target['cpu'])}"
    if not here.cpu:
        found = f"this machine does not tell ({CPUINFO})"
        remedy = "if it ends with Illegal instruction, build the file on such a machine"
        return [Finding("CPU", needed, found, remedy, WARNING)]
    missing = [flag for flag in target["cpu"] if flag not in here.cpu]
    found = f"this one lacks {', '.join(missing)}" if missing else "this one has them"
    remedy = "use a newer machine, or build the file for any (CMAKE_ARGS=-DGGML_NATIVE=OFF)"
    return [_finding("CPU", needed, found, remedy, fits=not missing)]


def judge_driver(target: Target, here: Here) -> list[Finding]:
    """Judge NVIDIA's driver, which is never a reason to refuse; nothing for a file without CUDA."""
    if not target["cuda"]:
        return []
    least = target["driver"]
    needed = f"NVIDIA driver{f' {least} or newer' if least else ''} for CUDA {target['cuda']}"
    if not here.driver:
        remedy = "carry one in; without, it runs on the CPU only, if asked to"
        return [Finding("driver", needed, "no NVIDIA driver is here", remedy, WARNING)]
    found = f"this machine has {here.driver}"
    if _numbers(here.driver) < _numbers(least or "0"):
        remedy = f"carry in driver {least} or newer, or build the file for an older CUDA"
        return [Finding("driver", needed, found, remedy, WARNING)]
    return [Finding("driver", needed, found, "", GOOD)]


def _finding(what: str, needed: str, found: str, remedy: str, *, fits: bool) -> Finding:
    return Finding(what, needed, found, "" if fits else remedy, GOOD if fits else REFUSAL)


def _described(here: Here) -> str:
    bits = BITS.get(here.bits, f"{here.bits}-bit ")
    name = NAMES.get(here.implementation, here.implementation)
    return f"{bits}{THREADS[here.threads]}{name} {'.'.join(map(str, here.python))}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _package(soname: str) -> str:
    if soname not in PACKAGES:
        return f"the package that has {soname}"
    debian, red_hat = PACKAGES[soname]
    return f"the package {debian} (Debian, Ubuntu) or {red_hat} (Red Hat, Fedora)"

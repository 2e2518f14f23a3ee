"""Detect what this machine has: Python, system, CPU flags, shared libraries, NVIDIA's driver."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from .versions import python_minor

CPUINFO, NVIDIA = "/proc/cpuinfo", "/proc/driver/nvidia/version"
HEAD = 1 << 16  # bytes read of /proc/cpuinfo, which may list hundreds of processors
FLAGS = ("flags", "Features")  # the line's name on x86 and on ARM
LINK_MAP = 2  # RTLD_DI_LINKMAP of dlfcn.h


class HostInfo(NamedTuple):
    """The system, processor and driver of this machine, and the Python that runs this."""

    python: tuple[int, ...]  # (3, 11, 7)
    implementation: str  # "cpython"
    free_threaded: bool
    bits: int  # of a pointer
    executable: str
    os: str  # "linux"
    machine: str  # "x86_64"
    libc: str  # "glibc 2.36", "musl" or ""
    cpu: frozenset[str]  # flags; empty if the system does not list them
    driver: str  # NVIDIA's: "580.65.06"; "" without one

    @classmethod
    def detect(cls) -> HostInfo:
        """Detect all of it, from sys, os.uname() and /proc."""
        system, machine = _system()
        return cls(
            python=sys.version_info[:3],
            implementation=sys.implementation.name,
            free_threaded=python_minor().endswith("t"),
            bits=64 if sys.maxsize > 1 << 32 else 32,
            executable=sys.executable or "an unknown place",
            os=system,
            machine=machine,
            libc=libc_version(),
            cpu=cpu_flags(_read_head(CPUINFO)),
            driver=driver_version(_read_head(NVIDIA)),
        )


class LoadedLibrary(NamedTuple):
    """A shared library of the system, as the dynamic loader found it."""

    path: str  # "" if it cannot be loaded, or this Python cannot tell
    error: str  # the loader's message; "" without one
    versions: frozenset[str]  # the requested symbol versions that it defines


def load_library(soname: str, versions: Sequence[str]) -> LoadedLibrary:
    """Load a library, and look for these symbol versions in it."""
    try:
        import ctypes  # a Python may lack it, and a C library may lack dlinfo

        library = ctypes.CDLL(soname)
        path = _path_of(library._handle)
        return LoadedLibrary(path, "", defined_versions(path, versions))
    except (ImportError, AttributeError):
        return LoadedLibrary("", "", frozenset())
    except OSError as error:
        return LoadedLibrary("", str(error), frozenset())


def defined_versions(path: str, versions: Sequence[str]) -> frozenset[str]:
    """Return the symbol versions of these that a library names; raises OSError."""
    import mmap

    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return frozenset(name for name in versions if data.find(name.encode() + b"\0") >= 0)


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the flags of the first processor in /proc/cpuinfo; none if it lists none."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in FLAGS:
            return frozenset(value.split())
    return frozenset()


def driver_version(text: str) -> str:
    """Return the version in /proc/driver/nvidia/version; "" if it has none."""
    words = text.partition("\n")[0].split()
    versions = (word for word in words if "." in word and word.replace(".", "").isdigit())
    return next(versions, "")


def _system() -> tuple[str, str]:
    if sys.platform == "win32":
        return "windows", os.environ.get("PROCESSOR_ARCHITECTURE", "unknown").lower()
    system = os.uname()
    return system.sysname.lower(), system.machine


def libc_version() -> str:
    """Return "glibc 2.36", "musl", or "" for another C library."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):  # Windows, musl, others
        return "musl" if any(name.startswith("ld-musl-") for name in _listdir("/lib")) else ""


def _listdir(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _read_head(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(HEAD)
    except OSError:
        return ""


def _path_of(handle: int) -> str:
    """Return the path of a loaded library: on Red Hat, its file has another name."""
    import ctypes

    class LinkMap(ctypes.Structure):
        _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))

    link = ctypes.POINTER(LinkMap)()
    find = ctypes.CDLL(None).dlinfo
    find.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    failed = find(handle, LINK_MAP, ctypes.byref(link))
    return "" if failed else os.fsdecode(link.contents.name or b"")

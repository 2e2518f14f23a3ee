"""Look at this machine: its Python, its system, its processor, its libraries, its driver."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

CPUINFO, NVIDIA = "/proc/cpuinfo", "/proc/driver/nvidia/version"
HEAD = 1 << 16  # bytes of /proc/cpuinfo: the first of what may be hundreds of processors
FLAGS = ("flags", "Features")  # as x86 and as ARM call them
LINK_MAP = 2  # RTLD_DI_LINKMAP of dlfcn.h


class Here(NamedTuple):
    """What this machine and this Python are."""

    python: tuple[int, ...]  # (3, 11, 7)
    implementation: str  # "cpython"
    threads: str  # "t" for a free-threaded one
    bits: int
    executable: str
    os: str  # "linux"
    machine: str  # "x86_64"
    libc: str  # "glibc 2.36", "musl" or ""
    cpu: frozenset[str]  # flags; empty when nobody says
    driver: str  # NVIDIA's: "580.65.06"; "" without

    @classmethod
    def look(cls) -> Here:
        """Look at this machine."""
        system, machine = _system()
        return cls(
            python=sys.version_info[:3],
            implementation=sys.implementation.name,
            threads="t" if "t" in getattr(sys, "abiflags", "") else "",
            bits=64 if sys.maxsize > 1 << 32 else 32,
            executable=sys.executable or "an unknown place",
            os=system,
            machine=machine,
            libc=_libc(),
            cpu=cpu_flags(_text(CPUINFO)),
            driver=driver_version(_text(NVIDIA)),
        )


class Loaded(NamedTuple):
    """A library of the system, as the loader found it."""

    path: str  # "" when it could not be loaded, or looked into
    error: str  # what the loader said; "" when it was content
    versions: frozenset[str]  # those that were asked for and are there


def load(soname: str, versions: Sequence[str]) -> Loaded:
    """Ask the loader for a library, and look which of these versions of symbols it defines."""
    try:
        import ctypes  # a Python may lack it, and a C library dlinfo

        library = ctypes.CDLL(soname)
        path = _path(library._handle)
        return Loaded(path, "", defined(path, versions))
    except (ImportError, AttributeError):
        return Loaded("", "", frozenset())
    except OSError as error:
        return Loaded("", str(error), frozenset())


def defined(path: str, versions: Sequence[str]) -> frozenset[str]:
    """Return which of these versions of symbols a library names; raises OSError."""
    import mmap

    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return frozenset(name for name in versions if data.find(name.encode() + b"\0") >= 0)


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the flags of the first processor in /proc/cpuinfo; none where it names none."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in FLAGS:
            return frozenset(value.split())
    return frozenset()


def driver_version(text: str) -> str:
    """Return the version in /proc/driver/nvidia/version; "" where it has none."""
    words = text.partition("\n")[0].split()
    versions = (word for word in words if "." in word and word.replace(".", "").isdigit())
    return next(versions, "")


def _system() -> tuple[str, str]:
    if sys.platform == "win32":
        return "windows", os.environ.get("PROCESSOR_ARCHITECTURE", "unknown").lower()
    system = os.uname()
    return system.sysname.lower(), system.machine


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):  # Windows, musl, others
        return "musl" if any(name.startswith("ld-musl-") for name in _names("/lib")) else ""


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(HEAD)
    except OSError:
        return ""


def _path(handle: int) -> str:
    """Return where the loader found a library: on Red Hat's, its file has another name."""
    import ctypes

    class LinkMap(ctypes.Structure):
        _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))

    link = ctypes.POINTER(LinkMap)()
    find = ctypes.CDLL(None).dlinfo
    find.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    failed = find(handle, LINK_MAP, ctypes.byref(link))
    return "" if failed else os.fsdecode(link.contents.name or b"")

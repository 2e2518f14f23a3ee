"""How much memory is free: of this machine, of our container, of what this process may have."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import cgroups

MEMINFO = Path("/proc/meminfo")
PAGES_OF_US = Path("/proc/self/statm")
LIMITS = ((0, resource.RLIMIT_AS), (5, resource.RLIMIT_DATA))  # by the field of PAGES_OF_US
KIB = 2**10


class Names(NamedTuple):
    """The names of a version of cgroups for a limit, for what is used, and for what may be dropped.

    The last one, in memory.stat, is what was read of files.
    """

    limit: str
    used: str
    dropped: str


NAMES = {  # by version
    1: Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: Names("memory.max", "memory.current", "inactive_file"),
}


def free_bytes(*, with_swap: bool = False) -> int | None:
    """Return the bytes that this process can still get; None if the system does not state them."""
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    names = ("MemAvailable", "SwapFree") if with_swap else ("MemAvailable",)
    free = sum(int(known[name].split()[0]) * KIB for name in names if name in known)
    return min([free, *_left_in_cgroups(), *_left_of_process()])


def _left_in_cgroups() -> Iterator[int]:
    """Yield the bytes that the limits of a container or a systemd unit leave us."""
    for folder, version in cgroups.limiting("memory"):
        names = NAMES[version]
        with contextlib.suppress(OSError, ValueError):  # the root and "max" have no number
            most = int((folder / names.limit).read_text(encoding="ascii"))
            yield max(0, most - _used(folder, names))


def _used(folder: Path, names: Names) -> int:
    """Return the bytes that a cgroup uses, without what was read of files and may be dropped."""
    used = int((folder / names.used).read_text(encoding="ascii"))
    lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    dropped = [int(line.split()[1]) for line in lines if line.startswith(f"{names.dropped} ")]
    return used - sum(dropped)


def _left_of_process() -> Iterator[int]:
    """Yield the bytes that the limits of this process leave it (ulimit -v, ulimit -d)."""
    limits = [(at, resource.getrlimit(which)[0]) for at, which in LIMITS]
    if all(most == resource.RLIM_INFINITY for _, most in limits):
        return
    with contextlib.suppress(OSError):
        pages = PAGES_OF_US.read_text(encoding="ascii").split()
        for at, most in limits:
            if most != resource.RLIM_INFINITY:
                yield max(0, most - int(pages[at]) * resource.getpagesize())

"""How much memory is free: of this machine, of our container, of what this process may have."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MEMINFO = Path("/proc/meminfo")
CGROUP_OF_US, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
PAGES_OF_US = Path("/proc/self/statm")
LIMITS = ((0, resource.RLIMIT_AS), (5, resource.RLIMIT_DATA))  # by the number in PAGES_OF_US
KIB = 2**10


class Names(NamedTuple):
    """What a version of cgroups calls a limit, what is used, and files that may be dropped."""

    limit: str
    used: str
    dropped: str


VERSION_2 = Names("memory.max", "memory.current", "inactive_file")
VERSION_1 = Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_bytes(*, with_swap: bool = False) -> int | None:
    """Return the memory that programs can still get; None if the system does not state it."""
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    names = ("MemAvailable", "SwapFree") if with_swap else ("MemAvailable",)
    free = sum(int(known[name].split()[0]) * KIB for name in names if name in known)
    return min([free, *_left_in_cgroups(), *_left_of_process()])


def _left_in_cgroups() -> Iterator[int]:
    """Yield what the limits of a container or a systemd unit leave us."""
    try:
        lines = CGROUP_OF_US.read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if not controllers:
            root, names = CGROUPS, VERSION_2
        elif "memory" in controllers.split(","):
            root, names = CGROUPS / controllers, VERSION_1
        else:
            continue
        group = root / own.strip().lstrip("/")
        while group.is_relative_to(root):
            with contextlib.suppress(OSError, ValueError):  # the root and "max" have no number
                most = int((group / names.limit).read_text(encoding="ascii"))
                yield max(0, most - _used(group, names))
            group = group.parent


def _used(group: Path, names: Names) -> int:
    """Return the bytes that a cgroup uses, without what was read of files and may be dropped."""
    used = int((group / names.used).read_text(encoding="ascii"))
    lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    dropped = [int(line.split()[1]) for line in lines if line.startswith(f"{names.dropped} ")]
    return used - sum(dropped)


def _left_of_process() -> Iterator[int]:
    """Yield what the limits of this process leave it (ulimit -v, ulimit -d)."""
    limits = [(at, resource.getrlimit(which)[0]) for at, which in LIMITS]
    if all(most == resource.RLIM_INFINITY for _, most in limits):
        return
    with contextlib.suppress(OSError):
        pages = PAGES_OF_US.read_text(encoding="ascii").split()
        for at, most in limits:
            if most != resource.RLIM_INFINITY:
                yield max(0, most - int(pages[at]) * resource.getpagesize())

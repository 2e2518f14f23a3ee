"""How much memory of this machine, or of the container that we run in, is free."""

from __future__ import annotations

import contextlib
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP_OF_US, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
KIB = 2**10


def free_bytes(*, with_swap: bool = False) -> int | None:
    """Return the memory that programs can still get; None if the system does not state it."""
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    names = ("MemAvailable", "SwapFree") if with_swap else ("MemAvailable",)
    free = sum(int(known[name].split()[0]) * KIB for name in names if name in known)
    return min([free, *_left_in_cgroups()])


def _left_in_cgroups() -> list[int]:
    """Return what the limits of a container or a systemd unit leave us; [] without limits."""
    left = []
    with contextlib.suppress(OSError, ValueError):
        own = CGROUP_OF_US.read_text(encoding="ascii").rpartition("0::/")[2].strip()
        group = CGROUPS / own
        while group.is_relative_to(CGROUPS):
            with contextlib.suppress(OSError, ValueError):  # the root and "max" have no number
                most = int((group / "memory.max").read_text(encoding="ascii"))
                left.append(max(0, most - _used(group)))
            group = group.parent
    return left


def _used(group: Path) -> int:
    """Return the bytes that a cgroup uses, without what was read of files and may be dropped."""
    used = int((group / "memory.current").read_text(encoding="ascii"))
    lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    dropped = [int(line.split()[1]) for line in lines if line.startswith("inactive_file ")]
    return used - sum(dropped)

"""How many processors we may compute on: affinity, cores, and the quota of a container."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
CGROUP_OF_US, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
MAX_THREADS = 512  # above which libraries waste memory


def default_threads() -> int:
    """Return one thread for each core that we may use all the time, before speeds are measured."""
    return min(cores(), _most())


def candidates() -> list[int]:
    """Return the numbers of threads that are worth a measurement, the smallest first.

    Hyperthreads help some processors and hinder others; where memory is the limit, a part of the
    cores computes as fast as all, and a core that is left to others ends their waiting.
    """
    physical = cores()
    shares = (physical // 4, physical // 2, 3 * physical // 4, physical - 1, physical)
    counts = {*shares, len(os.sched_getaffinity(0))}
    most = _most()
    return sorted({min(count, most) for count in counts if count > 0})


def cores() -> int:
    """Return the number of cores of our CPU affinity; hyperthreads of one core count once."""
    allowed = os.sched_getaffinity(0)
    siblings = [CPUS / f"cpu{cpu}/topology/thread_siblings_list" for cpu in allowed]
    try:
        return len({path.read_text(encoding="ascii") for path in siblings})
    except OSError:
        return len(allowed)


def quota() -> float | None:
    """Return how many processors' time the cgroups of a container or unit let us have.

    None without a limit. Threads beyond it are all halted in the midst of their work.
    """
    return min(_quotas(), default=None)


def _most() -> int:
    limit = quota()
    return MAX_THREADS if limit is None else max(1, int(limit))


def _quotas() -> Iterator[float]:
    """Yield the limits of our cgroup and of those above it; of either version of cgroups."""
    try:
        lines = CGROUP_OF_US.read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if not controllers:
            root, read = CGROUPS, _quota
        elif "cpu" in controllers.split(","):
            root, read = CGROUPS / controllers, _quota_of_version_1
        else:
            continue
        group = root / own.strip().lstrip("/")
        while group.is_relative_to(root):
            with contextlib.suppress(OSError, ValueError):  # the root and "max" have no number
                if (limit := read(group)) > 0:
                    yield limit
            group = group.parent


def _quota(group: Path) -> float:
    microseconds, period = (group / "cpu.max").read_text(encoding="ascii").split()
    return int(microseconds) / int(period)


def _quota_of_version_1(group: Path) -> float:
    words = ((group / f"cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period"))
    microseconds, period = map(int, words)  # -1: no limit
    return microseconds / period

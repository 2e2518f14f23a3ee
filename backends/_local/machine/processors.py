"""How many processors we may compute on: affinity, cores, and the quota of a container."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from . import cgroups

CPUS = Path("/sys/devices/system/cpu")
MAX_THREADS = 512  # above which libraries waste memory


def default_threads() -> int:
    """Return one thread for each core that we may use all the time, before speeds are measured."""
    return min(cores(), _most())


def candidates() -> list[int]:
    """Return the numbers of threads that are worth a measurement, the smallest first.

    Hyperthreads help some processors and hinder others. Where memory bandwidth is the limit, a part
    of the cores computes as fast as all. Where other programs compute, all threads would wait for
    the one that shares its core with them, so one core less may be faster.
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
    """Return how many processors' time the cgroups of a container or a systemd unit let us have.

    None without a limit. If more threads compute, the system halts all of them in every period.
    """
    return min(_quotas(), default=None)


def _most() -> int:
    limit = quota()
    return MAX_THREADS if limit is None else max(1, int(limit))


def _quotas() -> Iterator[float]:
    """Yield the limits of our cgroup and of those above it."""
    for folder, version in cgroups.limiting("cpu"):
        read = _quota if version == 2 else _quota_of_version_1
        with contextlib.suppress(OSError, ValueError):  # the root and "max" have no number
            if (limit := read(folder)) > 0:
                yield limit


def _quota(folder: Path) -> float:
    microseconds, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    return int(microseconds) / int(period)


def _quota_of_version_1(folder: Path) -> float:
    words = ((folder / f"cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period"))
    microseconds, period = map(int, words)  # -1: no limit
    return microseconds / period

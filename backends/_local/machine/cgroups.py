"""The cgroups that limit this process: those of a container or a systemd unit, and all above."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CGROUP_OF_US, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


class Cgroup(NamedTuple):
    """The folder of a cgroup; version: of cgroups, 1 or 2, which name their files differently."""

    folder: Path
    version: int


def limiting(controller: str) -> Iterator[Cgroup]:
    """Yield the cgroups that have a controller ("cpu", "memory"), from ours up to the root.

    Their files may be missing. A container of version 1 sees its own cgroup as the root.
    """
    try:
        lines = CGROUP_OF_US.read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if not controllers:
            root, version = CGROUPS, 2
        elif controller in controllers.split(","):
            root, version = CGROUPS / controllers, 1
        else:
            continue
        folder = root / own.strip().lstrip("/")
        while folder.is_relative_to(root):
            yield Cgroup(folder, version)
            folder = folder.parent

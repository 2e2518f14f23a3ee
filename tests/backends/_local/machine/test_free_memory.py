"""How much memory is free."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from backends._local.machine import cgroups, free_memory

MIB = 2**20


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend a machine with 100 MiB of free memory and 20 of swap, and no container."""
    lines = ("MemTotal: 999999 kB", "MemAvailable: 102400 kB", "SwapFree: 20480 kB")
    (tmp_path / "meminfo").write_text("\n".join(lines), encoding="ascii")
    (tmp_path / "cgroup").write_text("1:cpu:/x\n0::/system/unit\n", encoding="ascii")
    monkeypatch.setattr(free_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(cgroups, "CGROUP_OF_US", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path / "groups")
    return tmp_path


def limit(folder: Path, most: str, used: int, cached: int) -> None:
    """Write the files of a cgroup with a limit; used and cached in MiB."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n", encoding="ascii")
    (folder / "memory.current").write_text(f"{used * MIB}\n", encoding="ascii")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached * MIB}\n", encoding="ascii")


def test_what_the_system_says_is_free(machine: Path) -> None:
    """With swap if that is wanted; None where it says nothing."""
    assert free_memory.free_bytes() == 100 * MIB
    assert free_memory.free_bytes(with_swap=True) == 120 * MIB
    (machine / "meminfo").unlink()
    assert free_memory.free_bytes() is None


def test_the_limit_of_a_container_counts(machine: Path) -> None:
    """Of ours and of all above; what was read of files may be dropped."""
    limit(machine / "groups" / "system" / "unit", "max", 10, 0)
    assert free_memory.free_bytes() == 100 * MIB
    limit(machine / "groups" / "system", str(80 * MIB), 50, 20)
    assert free_memory.free_bytes(with_swap=True) == 50 * MIB
    limit(machine / "groups" / "system" / "unit", str(30 * MIB), 31, 0)
    assert free_memory.free_bytes() == 0


def test_the_limit_of_an_older_container_counts(machine: Path) -> None:
    """Of version 1 of cgroups; a container sees its own group as the root."""
    (machine / "cgroup").write_text("4:memory:/docker/1\n1:cpu:/x\n0::/\n", encoding="ascii")
    folder = machine / "groups" / "memory"
    folder.mkdir(parents=True)
    names = ("memory.limit_in_bytes", 90), ("memory.usage_in_bytes", 50)
    for name, size in names:
        (folder / name).write_text(f"{size * MIB}\n", encoding="ascii")
    stat = f"inactive_file 0\ntotal_inactive_file {20 * MIB}\n"
    (folder / "memory.stat").write_text(stat, encoding="ascii")
    assert free_memory.free_bytes() == 60 * MIB


@pytest.mark.parametrize(("limited", "left"), [(resource.RLIMIT_AS, 60), (resource.RLIMIT_DATA, 1)])
def test_the_limits_of_the_process_count(
    limited: int, left: int, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its addresses, and its own data (ulimit -v, ulimit -d), beside what it has of them."""
    pages = [size * MIB // resource.getpagesize() for size in (10, 5, 1, 1, 0, 69, 0)]
    (machine / "statm").write_text(" ".join(map(str, pages)), encoding="ascii")
    monkeypatch.setattr(free_memory, "PAGES_OF_US", machine / "statm")
    none = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    limits = {limited: (70 * MIB, 70 * MIB)}
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits.get(which, none))
    assert free_memory.free_bytes() == left * MIB

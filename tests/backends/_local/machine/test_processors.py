"""How many threads a machine, or a container on it, is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends._local.machine import cgroups, processors


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend sixteen processors that are eight cores, and no container."""
    for cpu in range(16):
        topology = tmp_path / f"cpus/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 8},{cpu % 8 + 8}\n")
    monkeypatch.setattr(processors, "CPUS", tmp_path / "cpus")
    monkeypatch.setattr(cgroups, "CGROUP_OF_US", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(processors.os, "sched_getaffinity", lambda _: set(range(16)))
    return tmp_path


def write(path: Path, text: str) -> None:
    """Write a file into new folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


def test_a_thread_for_each_core(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hyperthreads, and fewer threads than cores, are worth a measurement; affinity counts."""
    assert processors.default_threads() == 8
    assert processors.candidates() == [2, 4, 6, 7, 8, 16]
    monkeypatch.setattr(processors.os, "sched_getaffinity", lambda _: {3, 11})
    assert (processors.default_threads(), processors.candidates()) == (1, [1, 2])
    (machine / "cpus/cpu3/topology/thread_siblings_list").unlink()
    assert processors.default_threads() == 2


@pytest.mark.parametrize(
    ("own", "file", "text"),
    [
        ("0::/pod/unit", "pod/cpu.max", "250000 100000\n"),
        ("0::/pod/unit", "pod/unit/cpu.max", "250000 100000\n"),
        ("1:name=systemd:/\n3:cpu,cpuacct:/pod", "cpu,cpuacct/cpu.cfs_quota_us", "250000\n"),
        ("3:cpu:/pod/unit\n0::/", "cpu/pod/cpu.cfs_quota_us", "250000\n"),
    ],
)
def test_the_quota_of_a_container_is_the_most(
    machine: Path, own: str, file: str, text: str
) -> None:
    """Of ours or one above, in both versions of cgroups; half a processor is no thread."""
    write(machine / "cgroup", f"2:memory:/x\n{own}\n")
    quota = machine / "groups" / file
    write(quota, text)
    write(quota.with_name("cpu.cfs_period_us"), "100000\n")
    assert processors.quota() == 2.5
    assert (processors.default_threads(), processors.candidates()) == (2, [2])
    write(quota, text.replace("250000", "50000"))
    assert processors.default_threads() == 1


@pytest.mark.parametrize("text", ["max 100000", "", "-1", "0"])
def test_no_quota_is_no_limit(machine: Path, text: str) -> None:
    """As the root of a container has it."""
    write(machine / "cgroup", "1:cpu:/\n0::/\n")
    write(machine / "groups/cpu.max", text)
    write(machine / "groups/cpu/cpu.cfs_quota_us", text)
    write(machine / "groups/cpu/cpu.cfs_period_us", "100000")
    assert processors.quota() is None
    assert processors.default_threads() == 8

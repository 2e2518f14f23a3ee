"""The target of a build: Python, processor and glibc, and the wheel tags that they accept."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from packaging.tags import Tag, compatible_tags, cpython_tags

from kuwa_min.bundle.host import libc_version
from kuwa_min.bundle.versions import python_minor
from kuwa_min.errors import UsageError

OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}  # 2.x: the oldest that manylinux tags exist for
LEGACY_TAGS = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # by glibc 2.x
UV_GLIBCS = (17, 28, *range(31, 41))  # the glibc 2.x that uv 0.13.9 --python-platform knows
FIRST_MINOR, FIRST_FREE_THREADED = 10, 13  # of Python 3
CHOICES = ", ".join(f"manylinux_2_{minor}" for minor in UV_GLIBCS)


class TargetPython(NamedTuple):
    """The Python and the platform that a file is built for."""

    python: str  # "3.12", or "3.13t" for a free-threaded one
    platform: str  # "manylinux_2_28_x86_64"

    @classmethod
    def of(cls, python: str, platform: str) -> TargetPython:
        """Check and normalise both names; raises UsageError."""
        minor, machine = _glibc_and_machine(platform)
        return cls(_checked_python(python), f"manylinux_2_{minor}_{machine}")

    @classmethod
    def of_this_machine(cls) -> TargetPython:
        """Return this Python on this machine, with the newest glibc that uv knows."""
        found = _this_glibc()
        minor = max((known for known in UV_GLIBCS if known <= found), default=found)
        return cls.of(python_minor(), f"manylinux_2_{minor}_{os.uname().machine}")

    @property
    def implementation(self) -> str:
        """Return the implementation as sys.implementation.name spells it."""
        return "cpython"

    @property
    def os(self) -> str:
        """Return the operating system as the manifest spells it."""
        return "linux"

    @property
    def minor(self) -> int:
        """Return the 12 of Python 3.12."""
        return int(self.python.removesuffix("t").partition(".")[2])

    @property
    def abi(self) -> str:
        """Return the ABI tag of wheels: cp312, cp313t."""
        return f"cp{self.python.replace('.', '')}"

    @property
    def machine(self) -> str:
        """Return the processor as os.uname() spells it."""
        return _glibc_and_machine(self.platform)[1]

    @property
    def glibc(self) -> str:
        """Return the least glibc of the target: 2.28."""
        return f"2.{_glibc_and_machine(self.platform)[0]}"

    @property
    def platforms(self) -> tuple[str, ...]:
        """Return the platform tags it accepts, the best first; pip must be given every one."""
        return tuple(_platform_tags(self.platform))

    @property
    def tags(self) -> frozenset[Tag]:
        """Return every wheel tag that it accepts."""
        return frozenset(_ranks(self))

    @property
    def uv_platform(self) -> str:
        """Return the platform as uv --python-platform spells it."""
        minor, machine = _glibc_and_machine(self.platform)
        return f"{machine}-manylinux_2_{minor}"

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment that requirement markers are evaluated in (PEP 508)."""
        version = self.python.removesuffix("t")
        return {
            "implementation_name": self.implementation,
            "implementation_version": f"{version}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{version}.0",
            "python_version": version,
            "sys_platform": self.os,
        }

    @property
    def is_here(self) -> bool:
        """Tell whether a file for this target runs on this machine with this Python."""
        minor, machine = _glibc_and_machine(self.platform)
        try:
            newer = _this_glibc() >= minor
            return newer and (python_minor(), os.uname().machine) == (self.python, machine)
        except UsageError:
            return False

    def rank(self, tags: Iterable[Tag]) -> int | None:
        """Return the rank of a wheel with these tags, 0 the best; None if none is accepted."""
        ranks = _ranks(self)
        return min((ranks[tag] for tag in tags if tag in ranks), default=None)

    def __str__(self) -> str:
        """Return the target as error messages name it."""
        return f"Python {self.python} on {self.platform}"


def _checked_python(python: str) -> str:
    found = re.fullmatch(r"3\.([1-9][0-9]?)(t?)", python)
    if not found or int(found[1]) < (FIRST_FREE_THREADED if found[2] else FIRST_MINOR):
        raise UsageError(
            f"--python is {python!r}; give a minor version from 3.10 on, such as 3.12, "
            "or 3.13t for a free-threaded Python"
        )
    return python


@lru_cache
def _glibc_and_machine(platform: str) -> tuple[int, str]:
    """Split manylinux_2_28_x86_64, or a legacy alias, into 28 and x86_64; raises UsageError."""
    if "musl" in platform:
        raise UsageError(
            f"--platform is {platform!r}: files for musl (Alpine) cannot be made; use a system "
            "with glibc, such as Debian, Ubuntu or RHEL, and a manylinux platform"
        )
    for minor, name in LEGACY_TAGS.items():
        platform = re.sub(f"^{name}_", f"manylinux_2_{minor}_", platform)
    found = re.fullmatch(r"manylinux_2_([0-9]+)_(\w+)", platform)
    if not found or found[2] not in OLDEST_GLIBC or int(found[1]) not in UV_GLIBCS:
        raise UsageError(
            f"--platform is {platform!r}; known are {CHOICES}, "
            f"each with _{' or _'.join(OLDEST_GLIBC)} after it"
        )
    return int(found[1]), found[2]


def _platform_tags(platform: str) -> Iterator[str]:
    newest, machine = _glibc_and_machine(platform)
    for minor in range(newest, OLDEST_GLIBC[machine] - 1, -1):
        yield f"manylinux_2_{minor}_{machine}"
        if minor in LEGACY_TAGS:
            yield f"{LEGACY_TAGS[minor]}_{machine}"
    yield f"linux_{machine}"


@lru_cache
def _ranks(target: TargetPython) -> dict[Tag, int]:
    version, platforms = (3, target.minor), target.platforms
    tags = [*cpython_tags(version, [target.abi], platforms)]
    tags += compatible_tags(version, f"cp3{target.minor}", platforms)
    return {tag: rank for rank, tag in reversed([*enumerate(tags)])}


def _this_glibc() -> int:
    """Return the 36 of this machine's glibc 2.36; raises UsageError without glibc."""
    found = re.fullmatch(r"glibc 2\.([0-9]+).*", libc_version())
    if not found:
        raise UsageError(
            "this machine has no glibc, so its own platform cannot be taken; name the target's: "
            "--platform manylinux_2_28_x86_64"
        )
    return int(found[1])

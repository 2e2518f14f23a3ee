"""The machine a file is made for: its Python, its processor, its glibc, and the wheels it takes."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from packaging.tags import Tag, compatible_tags, cpython_tags

from kuwa_min.errors import UsageError

MACHINES = {"x86_64": 5, "aarch64": 17}  # the oldest glibc 2.x that manylinux wheels exist for
OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # of glibc 2.x
FOR_UV = (17, 28, *range(31, 41))  # the glibc 2.x that uv 0.13.9 --python-platform knows
FIRST_MINOR, FIRST_FREE_THREADED = 10, 13
CHOICES = ", ".join(f"manylinux_2_{minor}" for minor in FOR_UV)


class Box(NamedTuple):
    """The machine a file is made for."""

    python: str  # "3.12", or "3.13t" for a free-threaded one
    platform: str  # "manylinux_2_28_x86_64"

    @classmethod
    def of(cls, python: str, platform: str) -> Box:
        """Check both names and give the box its one spelling; raises UsageError."""
        minor, machine = _glibc_and_machine(platform)
        return cls(_checked(python), f"manylinux_2_{minor}_{machine}")

    @classmethod
    def of_this_machine(cls) -> Box:
        """Return the box that this Python runs on, with the newest glibc that uv knows for it."""
        here = _this_glibc()
        minor = max((known for known in FOR_UV if known <= here), default=here)
        return cls.of(_this_python(), f"manylinux_2_{minor}_{os.uname().machine}")

    @property
    def implementation(self) -> str:
        """Name the kind of Python as sys.implementation.name does."""
        return "cpython"

    @property
    def os(self) -> str:
        """Name the operating system as the manifest does."""
        return "linux"

    @property
    def minor(self) -> int:
        """Return the 12 of Python 3.12."""
        return int(self.python.removesuffix("t").partition(".")[2])

    @property
    def abi(self) -> str:
        """Name the ABI as wheels do: cp312, cp313t."""
        return f"cp{self.python.replace('.', '')}"

    @property
    def machine(self) -> str:
        """Name the processor as os.uname() does."""
        return _glibc_and_machine(self.platform)[1]

    @property
    def glibc(self) -> str:
        """Return the glibc that the machine has at least: 2.28."""
        return f"2.{_glibc_and_machine(self.platform)[0]}"

    @property
    def platforms(self) -> tuple[str, ...]:
        """List the platform tags of its wheels, the best first; pip wants every one of them."""
        return tuple(_ladder(self.platform))

    @property
    def tags(self) -> frozenset[Tag]:
        """Return every tag of a wheel that runs there."""
        return frozenset(_ranks(self))

    @property
    def uv_platform(self) -> str:
        """Name the platform as uv --python-platform does."""
        minor, machine = _glibc_and_machine(self.platform)
        return f"{machine}-manylinux_2_{minor}"

    @property
    def environment(self) -> dict[str, str]:
        """Return what the markers of requirements are evaluated with."""
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
        """Tell whether what is made for the box runs on this machine with this Python."""
        minor, machine = _glibc_and_machine(self.platform)
        try:
            newer = _this_glibc() >= minor
            return newer and (_this_python(), os.uname().machine) == (self.python, machine)
        except UsageError:
            return False

    def rank(self, tags: Iterable[Tag]) -> int | None:
        """Say how well a wheel with these tags suits, 0 best; None when it does not run there."""
        ranks = _ranks(self)
        return min((ranks[tag] for tag in tags if tag in ranks), default=None)

    def __str__(self) -> str:
        """Return the box as sentences name it."""
        return f"Python {self.python} on {self.platform}"


def _checked(python: str) -> str:
    found = re.fullmatch(r"3\.([1-9][0-9]?)(t?)", python)
    if not found or int(found[1]) < (FIRST_FREE_THREADED if found[2] else FIRST_MINOR):
        raise UsageError(
            f"--python is {python!r}; give a minor version from 3.10 on, such as 3.12, "
            "or 3.13t for a free-threaded Python"
        )
    return python


@lru_cache
def _glibc_and_machine(platform: str) -> tuple[int, str]:
    """Split manylinux_2_28_x86_64, or an old name of it, into 28 and x86_64."""
    if "musl" in platform:
        raise UsageError(
            f"--platform is {platform!r}: files for musl (Alpine) cannot be made; use a system "
            "with glibc, such as Debian, Ubuntu or RHEL, and a manylinux platform"
        )
    for minor, name in OLD_NAMES.items():
        platform = re.sub(f"^{name}_", f"manylinux_2_{minor}_", platform)
    found = re.fullmatch(r"manylinux_2_([0-9]+)_(\w+)", platform)
    if not found or found[2] not in MACHINES or int(found[1]) not in FOR_UV:
        raise UsageError(
            f"--platform is {platform!r}; known are {CHOICES}, "
            f"each with _{' or _'.join(MACHINES)} after it"
        )
    return int(found[1]), found[2]


def _ladder(platform: str) -> Iterator[str]:
    newest, machine = _glibc_and_machine(platform)
    for minor in range(newest, MACHINES[machine] - 1, -1):
        yield f"manylinux_2_{minor}_{machine}"
        if minor in OLD_NAMES:
            yield f"{OLD_NAMES[minor]}_{machine}"
    yield f"linux_{machine}"


@lru_cache
def _ranks(box: Box) -> dict[Tag, int]:
    version, platforms = (3, box.minor), box.platforms
    tags = [*cpython_tags(version, [box.abi], platforms)]
    tags += compatible_tags(version, f"cp3{box.minor}", platforms)
    return {tag: rank for rank, tag in reversed([*enumerate(tags)])}


def _this_python() -> str:
    threads = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return f"3.{sys.version_info.minor}{threads}"


def _this_glibc() -> int:
    """Return the 36 of this machine's glibc 2.36; raises UsageError where there is none."""
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):
        library = ""
    found = re.fullmatch(r"glibc 2\.([0-9]+).*", library)
    if not found:
        raise UsageError(
            "this machine has no glibc, so its own platform cannot be taken; name the target's: "
            "--platform manylinux_2_28_x86_64"
        )
    return int(found[1])

"""The host: its libraries, flags and driver, read as Linux, NVIDIA and the loader give them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kuwa_min.bundle import host
from kuwa_min.bundle.host import HostInfo, LoadedLibrary

NOT_FOUND = "cannot open shared object file: No such file or directory"


def test_a_library_is_loaded_and_its_symbol_versions_are_read() -> None:
    """Of the C library that this Python runs with, some versions are there and others are not."""
    found = host.load_library("libc.so.6", ["GLIBC_2.17", "GLIBC_2.999"])
    assert Path(found.path).name == "libc.so.6"
    assert (found.error, found.versions) == ("", frozenset({"GLIBC_2.17"}))


def test_the_loaders_error_is_kept(tmp_path: Path) -> None:
    """No such file, or one that is no library."""
    missing = host.load_library("libnowhere.so.7", ["A_1"])
    assert missing == LoadedLibrary("", f"libnowhere.so.7: {NOT_FOUND}", frozenset())
    (tmp_path / "libtext.so").write_text("this is no library " * 100)
    broken = host.load_library(str(tmp_path / "libtext.so"), [])
    assert broken.path == ""
    assert "invalid ELF header" in broken.error


def test_only_whole_names_of_versions_count(tmp_path: Path) -> None:
    """GLIBCXX_3.4.2 is not there because GLIBCXX_3.4.29 is."""
    path = tmp_path / "lib.so"
    path.write_bytes(b"\0GLIBCXX_3.4\0GLIBCXX_3.4.29\0")
    asked = ["GLIBCXX_3.4", "GLIBCXX_3.4.2", "GLIBCXX_3.4.29"]
    assert host.defined_versions(str(path), asked) == {"GLIBCXX_3.4", "GLIBCXX_3.4.29"}


@pytest.mark.parametrize(
    ("cpuinfo", "flags"),
    [
        (
            "processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t: sse\n",
            "fpu avx2 fma",
        ),
        ("processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\n", "fp asimd sve"),
        ("processor\t: 0\nvmx flags\t: ept\nisa\t: rv64imafdc\n", ""),
        ("", ""),
    ],
)
def test_flags_are_read_as_linux_writes_them(cpuinfo: str, flags: str) -> None:
    """On x86, on ARM, and on a system that lists none."""
    assert host.cpu_flags(cpuinfo) == frozenset(flags.split())


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19\nGCC version:  "
         "gcc version 12.2.0\n", "535.129.03"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  "
         "(abuild@host)  Thu Jul 11 12:00:00 UTC 2024\n", "580.65.06"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
         "540.4.0"),
        ("GCC version\nGCC version:  gcc version 12.2.0\n", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_the_drivers_version_is_read_as_nvidia_writes_it(text: str, version: str) -> None:
    """Of both kinds of kernel module."""
    assert host.driver_version(text) == version


def test_this_machine_is_detected() -> None:
    """As Python and the kernel say."""
    found = HostInfo.detect()
    assert found.python == sys.version_info[:3]
    assert (found.os, found.machine) == (os.uname().sysname.lower(), os.uname().machine)
    assert (found.executable, found.bits) == (sys.executable, 64)
    assert found.libc == os.confstr("CS_GNU_LIBC_VERSION")

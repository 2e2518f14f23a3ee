"""Targets: their names, the wheel tags that they accept, and how uv and pip spell them."""

from __future__ import annotations

import os
import sys

import pytest
from packaging.tags import Tag, parse_tag

from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels.target import TargetPython

RHEL = TargetPython("3.12", "manylinux_2_28_x86_64")
ARM = TargetPython("3.10", "manylinux_2_17_aarch64")


def test_a_box_says_what_it_is() -> None:
    """Each name is the one that its reader expects."""
    facts = (RHEL.implementation, RHEL.abi, RHEL.os, RHEL.machine, RHEL.glibc, RHEL.uv_platform)
    assert facts == ("cpython", "cp312", "linux", "x86_64", "2.28", "x86_64-manylinux_2_28")
    assert (ARM.machine, ARM.glibc, ARM.uv_platform) == (
        "aarch64",
        "2.17",
        "aarch64-manylinux_2_17",
    )
    assert str(RHEL) == "Python 3.12 on manylinux_2_28_x86_64"


def test_the_ladder_goes_down_to_the_oldest_wheels() -> None:
    """Pip knows no platform but those it is told: new names and old ones, best first."""
    assert RHEL.platforms == (
        *(f"manylinux_2_{minor}_x86_64" for minor in range(28, 16, -1)),
        "manylinux2014_x86_64",
        *(f"manylinux_2_{minor}_x86_64" for minor in range(16, 11, -1)),
        "manylinux2010_x86_64",
        *(f"manylinux_2_{minor}_x86_64" for minor in range(11, 4, -1)),
        "manylinux1_x86_64",
        "linux_x86_64",
    )
    assert ARM.platforms == ("manylinux_2_17_aarch64", "manylinux2014_aarch64", "linux_aarch64")


@pytest.mark.parametrize(
    "tag",
    [
        "cp312-cp312-manylinux_2_28_x86_64",
        "cp312-cp312-manylinux2014_x86_64",
        "cp38-abi3-manylinux1_x86_64",
        "cp312-none-manylinux_2_5_x86_64",
        "py3-none-linux_x86_64",
        "py3-none-any",
        "py312-none-any",
    ],
)
def test_tags_that_run_there(tag: str) -> None:
    """Its own ABI, the stable one of every older minor, and none at all."""
    assert parse_tag(tag) <= RHEL.tags
    assert RHEL.rank(parse_tag(tag)) is not None


@pytest.mark.parametrize(
    "tag",
    [
        "cp311-cp311-manylinux_2_28_x86_64",
        "cp312-cp312-manylinux_2_34_x86_64",
        "cp312-cp312-manylinux_2_28_aarch64",
        "cp312-cp312-musllinux_1_2_x86_64",
        "cp313-abi3-manylinux_2_28_x86_64",
        "cp312-cp312t-manylinux_2_28_x86_64",
        "pp310-pypy310_pp73-manylinux_2_28_x86_64",
        "py2-none-any",
    ],
)
def test_tags_that_do_not(tag: str) -> None:
    """Another minor, a newer glibc, another processor, another C library, another Python."""
    assert not parse_tag(tag) & RHEL.tags
    assert RHEL.rank(parse_tag(tag)) is None


def test_the_nearest_tag_is_the_best() -> None:
    """Of a wheel's tags the best counts; compiled for this minor and glibc is best of all."""
    order = ["cp312-cp312-manylinux_2_28_x86_64", "cp312-cp312-manylinux1_x86_64"]
    order += ["cp310-abi3-manylinux_2_28_x86_64", "py3-none-linux_x86_64", "py3-none-any"]
    ranks = [RHEL.rank(parse_tag(tag)) or 0 for tag in order]
    assert ranks == sorted(ranks) and ranks[0] == 0
    both = {*parse_tag(order[-1]), Tag("cp312", "cp312", "manylinux_2_28_x86_64")}
    assert RHEL.rank(both) == 0


def test_a_free_threaded_python_has_an_abi_of_its_own() -> None:
    """Its wheels are other ones: cp313t."""
    free = TargetPython.of("3.13t", "manylinux_2_28_x86_64")
    assert (free.abi, free.minor, free.environment["python_version"]) == ("cp313t", 13, "3.13")
    assert parse_tag("cp313-cp313t-manylinux_2_28_x86_64") <= free.tags
    assert not parse_tag("cp313-cp313-manylinux_2_28_x86_64") & free.tags


def test_old_names_mean_the_same_box() -> None:
    """One target has one spelling, so that locks agree."""
    assert TargetPython.of("3.12", "manylinux2014_x86_64") == TargetPython(
        "3.12", "manylinux_2_17_x86_64"
    )


@pytest.mark.parametrize(
    ("python", "platform", "words"),
    [
        ("3", RHEL.platform, "minor version from 3.10 on"),
        ("3.9", RHEL.platform, "'3.9'; give a minor version from 3.10 on"),
        ("3.12.4", RHEL.platform, "such as 3.12"),
        ("3.12t", RHEL.platform, "3.13t for a free-threaded Python"),
        ("cp312", RHEL.platform, "--python is 'cp312'"),
        ("3.12", "musllinux_1_2_x86_64", "musl (Alpine) cannot be made"),
        (
            "3.12",
            "manylinux_2_24_x86_64",
            "known are manylinux_2_17, manylinux_2_28, ",
        ),
        ("3.12", "manylinux_2_28_riscv64", "each with _x86_64 or _aarch64 after it"),
        ("3.12", "manylinux1_x86_64", "--platform is"),
        ("3.12", "linux_x86_64", "--platform is 'linux_x86_64'"),
        ("3.12", "win_amd64", "--platform is 'win_amd64'"),
    ],
)
def test_what_no_file_can_be_made_for(python: str, platform: str, words: str) -> None:
    """One line says what was given and what can be."""
    with pytest.raises(UsageError) as caught:
        TargetPython.of(python, platform)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("library", "glibc"), [("glibc 2.36", 36), ("glibc 2.30", 28), ("glibc 2.99", 40)]
)
def test_this_machine(monkeypatch: pytest.MonkeyPatch, library: str, glibc: int) -> None:
    """Its glibc is rounded down to one that uv knows."""
    monkeypatch.setattr(os, "confstr", lambda name: library)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(["Linux", "", "", "", "aarch64"]))
    here = TargetPython.of_this_machine()
    assert here.platform == f"manylinux_2_{glibc}_aarch64"
    assert here.python.removesuffix("t") == f"3.{sys.version_info.minor}"
    assert here.is_here


@pytest.mark.parametrize("library", ["", "musl 1.2"])
def test_a_machine_without_glibc(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """It can make files for others, when they are named."""
    monkeypatch.setattr(os, "confstr", lambda name: library)
    with pytest.raises(UsageError, match=r"has no glibc.*--platform manylinux_2_28_x86_64"):
        TargetPython.of_this_machine()
    assert not RHEL.is_here


def test_a_file_runs_here_with_an_older_glibc_of_this_processor_and_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything else must be the same."""
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.34")
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(["Linux", "", "", "", "x86_64"]))
    monkeypatch.setattr(f"{TargetPython.__module__}.python_minor", lambda: "3.12")
    assert RHEL.is_here
    assert not TargetPython("3.13", RHEL.platform).is_here
    assert not TargetPython("3.12", "manylinux_2_35_x86_64").is_here
    assert not TargetPython("3.12", "manylinux_2_28_aarch64").is_here

"""Versions: this Python's minor, and numbers to compare."""

from __future__ import annotations

import sys

import pytest

from kuwa_min.bundle.versions import python_minor, version_numbers


@pytest.mark.parametrize(("flags", "suffix"), [("", ""), ("d", ""), ("t", "t"), ("td", "t")])
def test_a_free_threaded_python_is_another_minor(
    monkeypatch: pytest.MonkeyPatch, flags: str, suffix: str
) -> None:
    """By the letter that its ABI tag has."""
    monkeypatch.setattr(sys, "abiflags", flags, raising=False)
    assert python_minor() == f"{sys.version_info[0]}.{sys.version_info[1]}{suffix}"


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("2.36", (2, 36)),
        ("580.65.06", (580, 65, 6)),
        ("2.6.0+cpu", (2, 6)),
        ("5.0.0rc1", (5,)),
        ("3.10", (3, 10)),
        ("0", ()),
        ("PRIVATE", ()),
    ],
)
def test_the_release_numbers_of_a_version(version: str, numbers: tuple[int, ...]) -> None:
    """Without zeros at the end, what follows the release, and names."""
    assert version_numbers(version) == numbers

"""Versions: of this Python as build targets name it, and of anything as numbers to compare."""

from __future__ import annotations

import re
import sys

RELEASE = re.compile(r"\d+(?:\.\d+)*")  # 2.6.0 of 2.6.0+cpu


def python_minor() -> str:
    """Return this Python's minor version: "3.12", or "3.13t" for a free-threaded one."""
    free_threaded = "t" if "t" in getattr(sys, "abiflags", "") else ""
    return f"{sys.version_info[0]}.{sys.version_info[1]}{free_threaded}"


def version_numbers(version: str) -> tuple[int, ...]:
    """Return a version's release numbers without zeros at the end: (2, 6) of "2.6.0+cpu".

    () if it does not begin with a number.
    """
    found = RELEASE.match(version)
    numbers = [int(number) for number in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)

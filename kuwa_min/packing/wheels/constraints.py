"""The constraints file: the versions that the tests ran with, which builds take by default.

uv gets them as preferences: a version that does not suit a target, or that the index of a build
lacks, is replaced by the newest that does, which the report says.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from packaging.utils import canonicalize_name
from packaging.version import Version

from .lock import Pin

FILE = Path(__file__).with_name("constraints.txt")
LINE = re.compile(r"^([\w.-]+)==([^\s;]+).*$", re.MULTILINE)
RAISED = re.compile(r"^# raised: (.+)$", re.MULTILINE)


class Constraints(NamedTuple):
    """The versions of the constraints file."""

    raised: str  # "2026-11-30, with Python 3.11 on x86_64"
    lines: tuple[str, ...]  # 'numpy==2.4.6 ; python_version >= "3.11"'
    versions: dict[str, str]  # by normalised name

    def report(self, origin: str, pins: Iterable[Pin], of_ggml: Collection[str] = ()) -> str:
        """Return a sentence: where the versions come from, and which of them were not tested.

        of_ggml: "nvidia-cublas==13.0.2.14", what a backend of ggml was compiled with and for.
        """
        same, other, unknown, compiled = 0, [], [], []
        for pin in pins:
            tested = self.versions.get(pin.name)
            if tested == Version(pin.version).public:
                same += 1
            elif f"{pin.name}=={pin.version}" in of_ggml:
                compiled.append(f"{pin.name} {pin.version}")
            elif tested is None:
                unknown.append(f"{pin.name} {pin.version}")
            else:
                other.append(f"{pin.name} {pin.version} instead of {tested}")
        total = same + len(other) + len(unknown) + len(compiled)
        parts = [f"versions of {origin}: {same} of {total} packages as tested ({self.raised})"]
        parts += [f"as llama.cpp was compiled with: {', '.join(compiled)}"] if compiled else []
        parts += [f"not as tested: {', '.join(other)}"] if other else []
        parts += [f"never tested: {', '.join(unknown)}"] if unknown else []
        return "; ".join(parts)


def read_constraints(path: Path = FILE) -> Constraints:
    """Read the constraints file."""
    text = path.read_text(encoding="utf-8")
    found = list(LINE.finditer(text))
    raised = RAISED.search(text)
    return Constraints(
        raised[1] if raised else "",
        tuple(line[0] for line in found),
        {canonicalize_name(line[1]): line[2] for line in found},
    )

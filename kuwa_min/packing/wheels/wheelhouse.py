"""Folders of wheels: which of their wheels a target accepts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from kuwa_min.errors import UsageError

from .target import TargetPython

CHUNK = 1 << 20  # bytes read at a time


class WheelCandidate(NamedTuple):
    """A wheel that the target accepts."""

    path: Path
    name: str  # normalised: "llama-cpp-python"
    version: Version
    preference: tuple[int, ...]  # sort key among wheels of one version, the best first


class Candidates(NamedTuple):
    """The wheels of some folders: the candidates for a target, and one of each unusable package."""

    suitable: tuple[WheelCandidate, ...]
    others: dict[str, Path]  # a package without a candidate: one of its wheels

    def newest(self, local: str = "") -> dict[str, WheelCandidate]:
        """Return each package's newest candidate, if local is given only of that: "cpu"."""
        found = [one for one in self.suitable if not local or one.version.local == local]
        found.sort(key=lambda one: (one.version, [-number for number in one.preference]))
        return {one.name: one for one in found}

    def of(self, name: str, version: str) -> list[WheelCandidate]:
        """Return the candidates of one version, the best first."""
        wanted = Version(version)
        found = [one for one in self.suitable if (one.name, one.version) == (name, wanted)]
        return sorted(found, key=lambda one: one.preference)


def find_candidates(folders: Iterable[Path], target: TargetPython) -> Candidates:
    """Read the file names of the wheels in these folders, preferring the first folder."""
    suitable: list[WheelCandidate] = []
    others: dict[str, Path] = {}
    for place, path in _wheels(folders):
        try:
            name, version, build, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue  # pip and uv skip it, too
        rank = target.rank(tags)
        if rank is None:
            others[name] = path
        else:
            number = build[0] if build else 0
            suitable.append(WheelCandidate(path, name, version, (place, rank, -number)))
    known = {found.name for found in suitable}
    return Candidates(
        tuple(suitable), {name: path for name, path in others.items() if name not in known}
    )


def _wheels(folders: Iterable[Path]) -> Iterator[tuple[int, Path]]:
    for place, folder in enumerate(folders):
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}: give one that holds wheels")
        yield from ((place, path) for path in sorted(folder.glob("*.whl")))


def local_folder(link: str) -> Path | None:
    """Return the folder that a --find_links names; None if it is a URL."""
    if re.match(r"(?!file:)[a-z][a-z0-9+.-]+://", link, re.IGNORECASE):
        return None
    return Path(unquote(urlsplit(link).path)) if link.lower().startswith("file:") else Path(link)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex; hashing releases the GIL."""
    digest, chunk = hashlib.sha256(), memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(chunk):
            digest.update(chunk[:size])
    return digest.hexdigest()

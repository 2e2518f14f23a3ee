"""Folders of wheels: what of them suits a box."""

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

from .box import Box

PIECE = 1 << 20  # bytes read at a time


class Found(NamedTuple):
    """A wheel on a shelf that runs in the box."""

    path: Path
    name: str  # as the index spells it
    version: Version
    preference: tuple[int, ...]  # among wheels of one version the smallest is the best


class Shelf(NamedTuple):
    """The wheels of some folders: those that suit the box, and the names of the others."""

    suitable: tuple[Found, ...]
    others: dict[str, Path]  # a package of which no wheel suits: one of its wheels

    def newest(self, local: str = "") -> dict[str, Found]:
        """Return each package's newest suitable wheel, if need be of one local version: "cpu"."""
        found = [one for one in self.suitable if not local or one.version.local == local]
        found.sort(key=lambda one: (one.version, [-number for number in one.preference]))
        return {one.name: one for one in found}

    def of(self, name: str, version: str) -> list[Found]:
        """Return the suitable wheels of one version, the best first."""
        wanted = Version(version)
        found = [one for one in self.suitable if (one.name, one.version) == (name, wanted)]
        return sorted(found, key=lambda one: one.preference)


def read_shelf(folders: Iterable[Path], box: Box) -> Shelf:
    """Look at the names of the wheels in these folders, the first folder being preferred."""
    suitable: list[Found] = []
    others: dict[str, Path] = {}
    for place, path in _wheels(folders):
        try:
            name, version, build, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue  # pip and uv pass it by, too
        rank = box.rank(tags)
        if rank is None:
            others[name] = path
        else:
            number = build[0] if build else 0
            suitable.append(Found(path, name, version, (place, rank, -number)))
    known = {found.name for found in suitable}
    return Shelf(
        tuple(suitable), {name: path for name, path in others.items() if name not in known}
    )


def _wheels(folders: Iterable[Path]) -> Iterator[tuple[int, Path]]:
    for place, folder in enumerate(folders):
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}: give one that holds wheels")
        yield from ((place, path) for path in sorted(folder.glob("*.whl")))


def local_folder(link: str) -> Path | None:
    """Return the folder that a --find_links names; None when it is an address."""
    if re.match(r"(?!file:)[a-z][a-z0-9+.-]+://", link, re.IGNORECASE):
        return None
    return Path(unquote(urlsplit(link).path)) if link.lower().startswith("file:") else Path(link)


def sha256_of(path: Path) -> str:
    """Hash a file, in hex; threads that do so run side by side."""
    digest, piece = hashlib.sha256(), memoryview(bytearray(PIECE))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(piece):
            digest.update(piece[:size])
    return digest.hexdigest()

"""Scan the shared libraries of a wheel, and cache the result by the hash of the wheel."""

from __future__ import annotations

import contextlib
import json
import os
import re
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kuwa_min.bundle.versions import version_numbers
from kuwa_min.errors import UsageError

from .reader import Elf, read_elf_file

FORMAT = 1  # of the cached JSON; increment when Elf or ElfScan change
THREADS = 4  # zlib releases the GIL; each takes some 20 MiB
LIBRARY = re.compile(r"(?:.*/)?[^/]+\.so(?:\.\d+)*")
MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_\w+")
LEGACY_TAGS = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}


class ElfScan(NamedTuple):
    """The shared libraries of one wheel, by their paths in it."""

    wheel: str  # its file name
    libraries: dict[str, Elf]

    @property
    def glibc(self) -> str:
        """Return the least glibc that the wheel's tags promise; "" without a manylinux tag."""
        return min(_glibc_of_tags(self.wheel), key=version_numbers, default="")

    def to_json(self) -> str:
        """Serialise for from_json()."""
        fields = {"format": FORMAT, "wheel": self.wheel, "libraries": self.libraries}
        return json.dumps(fields, default=sorted)

    @classmethod
    def from_json(cls, text: str) -> ElfScan:
        """Parse the text of to_json(); raises ValueError for anything else."""
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise ValueError(f"this is format {fields['format']}, not {FORMAT}")
            libraries = {path: _elf(*values) for path, values in fields["libraries"].items()}
            return cls(fields["wheel"], libraries)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("this is no scan") from error


def scan_wheel(wheel: Path) -> ElfScan:
    """Scan the libraries of a wheel without unpacking it; raises UsageError if it is damaged."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return ElfScan(wheel.name, _libraries(archive))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UsageError(f"{wheel} is not a whole wheel ({error}): fetch it again") from None


def cached_scan(wheel: Path, sha256: str, folder: Path) -> ElfScan:
    """Return the cached scan of a wheel from this folder, or scan it and cache the result."""
    cached = folder / f"{sha256}.elf.json"
    with contextlib.suppress(OSError, ValueError):  # absent or damaged: scan again
        found = ElfScan.from_json(cached.read_text(encoding="utf-8"))
        if found.wheel == wheel.name:  # which has the tags
            return found
    made = scan_wheel(wheel)
    with contextlib.suppress(OSError):  # the folder may be read-only: the cache only saves time
        _write(cached, made.to_json())
    return made


def _libraries(archive: zipfile.ZipFile) -> dict[str, Elf]:
    members = [member for member in archive.infolist() if LIBRARY.fullmatch(member.filename)]
    members.sort(key=lambda member: (-member.file_size, member.filename))  # the longest job first
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(archive.open(member)) for member in members]
        pool = stack.enter_context(ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)))
        elves = list(pool.map(read_elf_file, files))
    found = {member.filename: elf for member, elf in zip(members, elves, strict=True) if elf}
    return dict(sorted(found.items()))


def _elf(
    machine: str,
    soname: str,
    needed: list[str],
    versions: dict[str, list[str]],
    modules: list[str],
    constants: dict[str, int],
) -> Elf:
    sets = {name: frozenset(values) for name, values in versions.items()}
    return Elf(machine, soname, tuple(needed), sets, tuple(modules), constants)


def _write(cached: Path, text: str) -> None:
    cached.parent.mkdir(parents=True, exist_ok=True)
    part = cached.with_name(f"{cached.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(cached)


def _glibc_of_tags(wheel: str) -> list[str]:
    """Return the glibc of each platform tag; a wheel runs where any of them is satisfied."""
    platforms = wheel.removesuffix(".whl").rpartition("-")[2].split(".")
    return [glibc for glibc in map(_glibc_of_tag, platforms) if glibc]


def _glibc_of_tag(platform: str) -> str:
    modern = MANYLINUX.fullmatch(platform)
    return f"{modern[1]}.{modern[2]}" if modern else LEGACY_TAGS.get(platform.partition("_")[0], "")

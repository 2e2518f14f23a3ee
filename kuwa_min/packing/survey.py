"""Read what the libraries of a wheel say of themselves, and remember it beside the wheel."""

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

from kuwa_min.errors import UsageError

from .elf import Elf, read_elf_file

FORMAT = 1  # of what is remembered; count up when Elf or Survey change
THREADS = 4  # zlib lets them run side by side; each takes some 20 MiB
LIBRARY = re.compile(r"(?:.*/)?[^/]+\.so(?:\.\d+)*")
MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_\w+")
LEGACY = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}


class Survey(NamedTuple):
    """What the libraries of one wheel say of themselves, by their paths in it."""

    wheel: str  # its file name
    libraries: dict[str, Elf]

    @property
    def glibc(self) -> str:
        """Tell the least glibc by the wheel's tags; "" when they do not say."""
        return min(_glibc_of_tags(self.wheel), key=numbers, default="")

    def to_json(self) -> str:
        """Return the text that from_json reads."""
        fields = {"format": FORMAT, "wheel": self.wheel, "libraries": self.libraries}
        return json.dumps(fields, default=sorted)

    @classmethod
    def from_json(cls, text: str) -> Survey:
        """Read what to_json wrote; raises ValueError for anything else."""
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise ValueError(f"this is format {fields['format']}, not {FORMAT}")
            libraries = {path: _elf(*values) for path, values in fields["libraries"].items()}
            return cls(fields["wheel"], libraries)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("this is no survey") from error


def survey(wheel: Path) -> Survey:
    """Read every library of a wheel, without unpacking it; raises UsageError for a damaged one."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Survey(wheel.name, _libraries(archive))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UsageError(f"{wheel} is not a whole wheel ({error}): fetch it again") from None


def remembered_survey(wheel: Path, sha256: str, folder: Path) -> Survey:
    """Read a wheel's survey from a folder, or make it and leave it there for the next time."""
    memo = folder / f"{sha256}.survey.json"
    with contextlib.suppress(OSError, ValueError):  # none yet, or a damaged one: made anew
        found = Survey.from_json(memo.read_text(encoding="utf-8"))
        if found.wheel == wheel.name:  # the tags are in the name
            return found
    made = survey(wheel)
    with contextlib.suppress(OSError):  # it only saves time, so a folder may be read-only
        _write(memo, made.to_json())
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


def _write(memo: Path, text: str) -> None:
    memo.parent.mkdir(parents=True, exist_ok=True)
    part = memo.with_name(f"{memo.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(memo)


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers, to compare."""
    return tuple(map(int, version.split(".")))


def _glibc_of_tags(wheel: str) -> list[str]:
    """Return the glibc of each of its platforms; a wheel runs where any of them does."""
    platforms = wheel.removesuffix(".whl").rpartition("-")[2].split(".")
    return [glibc for glibc in map(_glibc_of_tag, platforms) if glibc]


def _glibc_of_tag(platform: str) -> str:
    modern = MANYLINUX.fullmatch(platform)
    return f"{modern[1]}.{modern[2]}" if modern else LEGACY.get(platform.partition("_")[0], "")

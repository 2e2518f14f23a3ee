"""Read wheels: their metadata, and where the compressed streams of their members lie."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

from packaging.utils import parse_wheel_filename

from kuwa_min.bundle.manifest import Package
from kuwa_min.errors import UsageError

from .license import license_of, spdx_expression

INSTALLED = ("purelib", "platlib", "data")  # folders of .data that belong into site-packages
LOCAL_HEADER = 30  # bytes, before a member's name
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MALFORMED = (  # raised by zipfile, csv and others for a damaged file; RuntimeError: encrypted
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    csv.Error,
    KeyError,
    ValueError,
    EOFError,
    OSError,
    RuntimeError,
)


class PayloadFile(NamedTuple):
    """One file of a payload: its path in the unpacked tree, and the stream to copy it from."""

    path: str
    executable: bool
    size: int  # bytes, inflated
    stored: int  # bytes of the stream
    method: int  # 0 stored, 8 deflated
    crc: int | None  # CRC-32 of the inflated bytes; None: computed while a stored file is copied
    sha256: str  # of the inflated bytes, in hex; "" if RECORD has none
    source: Path
    offset: int  # of the stream in the source, in bytes


class Wheel(NamedTuple):
    """One wheel: its file, its package and its members in file order."""

    path: Path
    package: Package
    files: tuple[PayloadFile, ...]


def read_wheel(path: Path, sha256: str) -> Wheel:
    """Read a wheel with this hash; raises UsageError if it is malformed."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            info = _dist_info(archive, path)
            hashes = _record(archive, info)
            files = tuple(_files(archive, file.fileno(), path, hashes))
            return Wheel(path, _package(archive, info, path, sha256), files)
    except MALFORMED as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path} is not a whole wheel ({found}): fetch it again") from None


def _dist_info(archive: zipfile.ZipFile, path: Path) -> str:
    tops = {name.partition("/")[0] for name in archive.namelist()}
    found = {top for top in tops if top.endswith(".dist-info")}
    if len(found) != 1:
        raise UsageError(f"{path} has {len(found)} .dist-info folders and a wheel has one")
    return found.pop()


def _record(archive: zipfile.ZipFile, info: str) -> dict[str, str]:
    """Return the SHA-256 in hex of each member that RECORD has one for."""
    hashes = {}
    for row in csv.reader(io.StringIO(archive.read(f"{info}/RECORD").decode())):
        kind, _, text = row[1].partition("=") if len(row) > 1 else ("", "", "")
        if kind == "sha256":
            padded = text + "=" * (-len(text) % 4)
            hashes[row[0]] = binascii.hexlify(base64.urlsafe_b64decode(padded)).decode()
    return hashes


def _package(archive: zipfile.ZipFile, info: str, path: Path, sha256: str) -> Package:
    metadata = archive.read(f"{info}/METADATA").decode("utf-8", "replace")
    fields = HeaderParser().parsestr(metadata, headersonly=True)
    name, version, _, _ = parse_wheel_filename(path.name)
    license = license_of(metadata)
    return {
        "name": str(fields["Name"] or name),
        "version": str(fields["Version"] or version),
        "wheel": path.name,
        "sha256": sha256,
        "license": license,
        "spdx": bool(spdx_expression(license)),
    }


def _files(
    archive: zipfile.ZipFile, file: int, path: Path, hashes: dict[str, str]
) -> Iterator[PayloadFile]:
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
        place = _place(entry.filename)
        if entry.is_dir() or not place:
            continue
        _check_member(entry, place, path)
        yield PayloadFile(
            path=place,
            executable=bool((entry.external_attr >> 16) & 0o100),
            size=entry.file_size,
            stored=entry.compress_size,
            method=entry.compress_type,
            crc=entry.CRC,
            sha256=hashes.get(entry.filename, ""),
            source=path,
            offset=_stream_offset(file, entry.header_offset),
        )


def _place(name: str) -> str:
    """Return a member's path in site-packages; "" for scripts and headers, which are skipped."""
    first, _, rest = name.partition("/")
    if not first.endswith(".data"):
        return name
    kind, _, inside = rest.partition("/")
    return inside if kind in INSTALLED else ""


def _check_member(entry: zipfile.ZipInfo, place: str, path: Path) -> None:
    parts = place.split("/")
    if place.startswith("/") or ".." in parts or "\\" in place or ":" in parts[0]:
        raise UsageError(f"{path} has a member outside of its tree, {place!r}: do not use it")
    if entry.compress_type not in METHODS or entry.flag_bits & 1:
        raise UsageError(f"{path}: {place} is neither stored nor deflated: repack the wheel")


def _stream_offset(file: int, header: int) -> int:
    name, extra = struct.unpack("<HH", os.pread(file, 4, header + 26))
    return header + LOCAL_HEADER + int(name) + int(extra)

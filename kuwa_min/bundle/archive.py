"""Read a built file: its manifest, and the payloads in front of its zip.

A built file is a shebang line, payloads, then the zip with the core. A payload is the contents of
files, as raw deflate streams or stored, and an index of them: zlib-compressed JSON. Positions count
back from the zip's first byte, so a longer first line moves none of them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

from kuwa_min.errors import StartError

from .manifest import MANIFEST, Manifest, Payload

if TYPE_CHECKING:
    import zipfile

CHUNK = 1 << 18  # bytes read at a time
DEFLATED = 8  # zip's method number of a raw deflate stream; 0 is stored


class Blob(NamedTuple):
    """One content in a payload: where it is, and what it must be."""

    offset: int  # bytes from the payload's first byte
    stored: int  # bytes in the payload
    size: int  # bytes once inflated
    method: int  # DEFLATED or 0
    crc: int
    sha256: str  # in hex; "" if the wheel has none


class File(NamedTuple):
    """One path of the unpacked tree, and its content."""

    path: str  # relative, with slashes
    executable: int  # 0 or 1
    blob: int  # an index into Index.blobs


class Index(NamedTuple):
    """The table of contents of a payload; several files may share a blob."""

    files: list[File]
    blobs: list[Blob]


class Archive:
    """One built file; every read raises StartError if it is damaged."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.manifest, self.zip_start, self.size = _read_zip(path)

    @property
    def payloads(self) -> list[Payload]:
        """Return the payloads' descriptions, in the file's order."""
        return self.manifest["payloads"]

    def start_of(self, payload: Payload) -> int:
        """Return the position of a payload's first byte in the file."""
        start = self.zip_start - payload["position"]
        if start < 0:
            raise StartError(damaged(self.path))
        return start

    def index(self, payload: Payload) -> Index:
        """Read the index of a payload."""
        with open(self.path, "rb") as file:
            file.seek(self.start_of(payload) + payload["position"] - payload["index_position"])
            packed = file.read(payload["index_size"])
        try:
            raw = json.loads(zlib.decompress(packed))
        except (ValueError, zlib.error):
            raise StartError(damaged(self.path)) from None
        return Index([File(*one) for one in raw["files"]], [Blob(*one) for one in raw["blobs"]])

    def texts(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
        """Yield path and text of the files whose path is wanted: the payloads', then the zip's."""
        with open(self.path, "rb") as file:
            for payload in self.payloads:
                index, start = self.index(payload), self.start_of(payload)
                for one in sorted(filter(lambda one: wanted(one.path), index.files)):
                    chunks = contents(file.fileno(), start, index.blobs[one.blob], self.path)
                    yield one.path, b"".join(chunks).decode("utf-8", "replace")
        with _opened_zip(self.path) as core:
            for name in sorted(filter(wanted, core.namelist())):
                yield name, core.read(name).decode("utf-8", "replace")

    def sha256(self, report: Callable[[int, int], None]) -> str:
        """Return the whole file's hash in hex; compares the payloads' on the way.

        report: called with the bytes done and the bytes in all.
        """
        import hashlib

        total, done = hashlib.sha256(), 0
        ends = {
            self.zip_start - one["index_position"] + one["index_size"]: one["sha256"]
            for one in self.payloads
        }
        with open(self.path, "rb") as file:
            for end in [*sorted(ends), self.size]:
                while done < end and (chunk := file.read(min(1 << 20, end - done))):
                    total.update(chunk)
                    done += len(chunk)
                    report(done, self.size)
                if ends.get(end, total.hexdigest()) != total.hexdigest():
                    raise StartError(damaged(self.path))
        return total.hexdigest()

    def compare_core(self) -> None:
        """Compare every content of the zip with its CRC: Python itself compares none."""
        with _opened_zip(self.path) as archive:
            if archive.testzip() is not None:
                raise StartError(damaged(self.path))


def _read_zip(path: str) -> tuple[Manifest, int, int]:
    with _opened_zip(path) as archive:
        manifest = cast(Manifest, json.loads(archive.read(MANIFEST)))
        start = min(entry.header_offset for entry in archive.infolist())
        return manifest, start, os.path.getsize(path)


@contextlib.contextmanager
def _opened_zip(path: str) -> Iterator[zipfile.ZipFile]:
    """Open the zip at the end of a file; raises StartError if it, or what is read, is damaged."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except OSError as error:
        # EINVAL: a position before the file's beginning; no number: bzip2 cannot read its data
        if error.errno not in (errno.EINVAL, None):
            raise
        raise StartError(damaged(path)) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError):
        raise StartError(damaged(path)) from None  # RuntimeError: a flag says it is encrypted


def damaged(path: str) -> str:
    """Return the error message for a file that is not what was built."""
    return f"{path} is damaged: copy it again, and compare with its .sha256 (sha256sum -c)"


def contents(file: int, start: int, blob: Blob, name: str) -> Iterator[bytes]:
    """Yield one content in chunks; raises StartError after the last if it is not what was built.

    file: a descriptor, whose position neither matters nor changes. start: the payload's position.
    name: the file's path, for the message.
    """
    crc = size = 0
    try:
        for chunk in _inflated(file, start, blob):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
            yield chunk
    except zlib.error:
        raise StartError(damaged(name)) from None
    if (crc, size) != (blob.crc, blob.size):
        raise StartError(damaged(name))


def _inflated(file: int, start: int, blob: Blob) -> Iterator[bytes]:
    stored = _stored(file, start + blob.offset, blob.stored)
    if blob.method != DEFLATED:
        yield from stored
        return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    for chunk in stored:
        yield inflate.decompress(chunk)
    yield inflate.flush()


def _stored(file: int, position: int, left: int) -> Iterator[bytes]:
    while left > 0:
        chunk = os.pread(file, min(CHUNK, left), position)
        if not chunk:
            return
        position, left = position + len(chunk), left - len(chunk)
        yield chunk

"""The file this program runs from: its manifest, and the payloads that ride in front of its zip.

A file is a shebang line, payloads, then the zip with the core. A payload is file contents, raw
deflate streams or stored bytes, and an index of them: zlib-compressed JSON. All positions count
back from the zip's first byte, so that whatever changes the first line changes nothing else.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

from .errors import StartError
from .manifest import MANIFEST, Manifest, Payload

PIECE = 1 << 18  # bytes read at a time
DEFLATED = 8  # zip's number for a raw deflate stream; 0 is stored


class Blob(NamedTuple):
    """Where one content lies: offset from the payload's first byte, and what it must be."""

    offset: int
    stored: int
    size: int
    method: int
    crc: int
    sha256: str  # in hex; "" where the publisher gives none


class File(NamedTuple):
    """One path of the tree, relative and with slashes, and the number of its blob."""

    path: str
    executable: int
    blob: int


class Index(NamedTuple):
    """What a payload holds; several files may share a blob."""

    files: list[File]
    blobs: list[Blob]


class Archive:
    """Read one built file; raises StartError when it is damaged."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.manifest, self.zip_start, self.size = _read_zip(path)

    @property
    def payloads(self) -> list[Payload]:
        """Return the payloads, in the file's order."""
        return self.manifest["payloads"]

    def start_of(self, payload: Payload) -> int:
        """Return where a payload's offsets count from, in bytes from the file's beginning."""
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
        """Yield path and text of the libraries' files that are wanted."""
        with open(self.path, "rb") as file:
            for payload in self.payloads:
                index, start = self.index(payload), self.start_of(payload)
                for one in sorted(filter(lambda one: wanted(one.path), index.files)):
                    pieces = contents(file.fileno(), start, index.blobs[one.blob], self.path)
                    yield one.path, b"".join(pieces).decode("utf-8", "replace")

    def sha256(self, report: Callable[[int, int], None]) -> str:
        """Hash the whole file, in hex; raises StartError where a payload is not what was built."""
        import hashlib

        total, done = hashlib.sha256(), 0
        ends = {
            self.zip_start - one["index_position"] + one["index_size"]: one["sha256"]
            for one in self.payloads
        }
        with open(self.path, "rb") as file:
            for end in [*sorted(ends), self.size]:
                while done < end and (piece := file.read(min(1 << 20, end - done))):
                    total.update(piece)
                    done += len(piece)
                    report(done, self.size)
                if ends.get(end, total.hexdigest()) != total.hexdigest():
                    raise StartError(damaged(self.path))
        return total.hexdigest()


def _read_zip(path: str) -> tuple[Manifest, int, int]:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            manifest = cast(Manifest, json.loads(archive.read(MANIFEST)))
            start = min(entry.header_offset for entry in archive.infolist())
            return manifest, start, os.path.getsize(path)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a position before the file's beginning
            raise
        raise StartError(damaged(path)) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError):
        raise StartError(damaged(path)) from None  # RuntimeError: a bit says it is encrypted


def damaged(path: str) -> str:
    """Say that a file is not what was built, and what to do."""
    return f"{path} is damaged: copy it again, and compare with its .sha256 (sha256sum -c)"


def contents(file: int, start: int, blob: Blob, name: str) -> Iterator[bytes]:
    """Yield one content in pieces; raises StartError in the end when they are not what was built.

    file is a descriptor; its position does not matter and does not change.
    """
    crc = size = 0
    try:
        for piece in _pieces(file, start, blob):
            crc, size = zlib.crc32(piece, crc), size + len(piece)
            yield piece
    except zlib.error:
        raise StartError(damaged(name)) from None
    if (crc, size) != (blob.crc, blob.size):
        raise StartError(damaged(name))


def _pieces(file: int, start: int, blob: Blob) -> Iterator[bytes]:
    stored = _stored(file, start + blob.offset, blob.stored)
    if blob.method != DEFLATED:
        yield from stored
        return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    for piece in stored:
        yield inflate.decompress(piece)
    yield inflate.flush()


def _stored(file: int, position: int, left: int) -> Iterator[bytes]:
    while left > 0:
        piece = os.pread(file, min(PIECE, left), position)
        if not piece:
            return
        position, left = position + len(piece), left - len(piece)
        yield piece

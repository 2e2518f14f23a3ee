"""Write payloads: compressed streams copied out of wheels, deduplicated, and their index."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from kuwa_min.bundle.archive import Blob, File
from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels.wheel import Content

CHUNK = 1 << 20  # bytes
QUEUED_CHUNKS = 8  # at most, for the hashing thread
ID_LENGTH = 20  # hex digits; part of the path of the cache, which must be short on Windows


class Written(NamedTuple):
    """A payload that was written: positions in bytes from the start of the file, sizes, hashes."""

    id: str
    start: int
    index_start: int
    index_size: int
    files: int
    folders: int
    bytes: int
    sha256: str  # of the file from its start to the end of the index, in hex


class Output:
    """A file that is hashed in a thread while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.position = file, 0
        self._buffer: list[bytes] = []  # joined to chunks, because each one switches threads
        self._buffered = 0
        self._hash = hashlib.sha256()
        self._chunks: queue.Queue[bytes | None] = queue.Queue(QUEUED_CHUNKS)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self._chunks.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            self._hash.update(chunk)
            self._chunks.task_done()

    def write(self, data: bytes) -> None:
        """Buffer data to be written and hashed; sha256() flushes."""
        self._buffer.append(data)
        self._buffered += len(data)
        self.position += len(data)
        if self._buffered >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._buffer)
        self._buffer, self._buffered = [], 0
        self._chunks.put(data)
        self.file.write(data)

    def sha256(self) -> str:
        """Flush, and return the SHA-256 in hex of all that was written."""
        self._flush()
        self._chunks.join()
        return self._hash.copy().hexdigest()


def write_payload(contents: Iterable[Content], out: Output) -> Written:
    """Write these files and their index; equal files give equal bytes."""
    start, files, blobs = out.position, list[File](), list[Blob]()
    known: dict[tuple[object, ...], int] = {}
    with _Sources() as sources:
        for content in _first_of_each_path(contents):
            key = _identity(content)
            if key not in known:
                known[key] = len(blobs)
                blobs.append(_copy(content, sources.at(content), out, start))
            files.append(File(content.path, int(content.executable), known[key]))
    index, index_start = _pack(files, blobs), out.position
    out.write(index)
    written = {(file.blob, file.executable) for file in files}  # others are unpacked as hard links
    size = sum(blobs[number].size for number, _ in written)
    return Written(
        id=_id(files, blobs),
        start=start,
        index_start=index_start,
        index_size=len(index),
        files=len(files),
        folders=_folders(files),
        bytes=size,
        sha256=out.sha256(),
    )


class _Sources:
    """Keep the source that is being read open, one at a time."""

    def __init__(self) -> None:
        self.path = Path()
        self.file: BinaryIO = open(os.devnull, "rb")  # noqa: PTH123, SIM115

    def __enter__(self) -> _Sources:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def at(self, content: Content) -> BinaryIO:
        """Return the source of a file, positioned at its stream."""
        if content.source != self.path:
            self.file.close()
            self.path, self.file = content.source, content.source.open("rb", CHUNK)
        self.file.seek(content.offset)
        return self.file


def _first_of_each_path(contents: Iterable[Content]) -> Iterator[Content]:
    """Drop files whose path an earlier wheel has taken."""
    seen = set()
    for content in contents:
        if content.path not in seen:
            seen.add(content.path)
            yield content


def _identity(content: Content) -> tuple[object, ...]:
    """Return a key that two files share only if they have the same bytes."""
    if content.sha256:
        return (content.sha256, content.size, content.crc)
    return (content.path,)


def _copy(content: Content, source: BinaryIO, out: Output, start: int) -> Blob:
    offset, left, crc, digest = out.position - start, content.stored, 0, hashlib.sha256()
    while left:
        chunk = source.read(min(left, CHUNK))
        if not chunk:
            raise UsageError(f"{content.source} is shorter than it says: fetch it again")
        if content.crc is None:
            crc = zlib.crc32(chunk, crc)
            digest.update(chunk)
        out.write(chunk)
        left -= len(chunk)
    size, method = content.size, content.method
    if content.crc is None:
        return Blob(offset, content.stored, size, method, crc, digest.hexdigest())
    return Blob(offset, content.stored, size, method, content.crc, content.sha256)


def _pack(files: list[File], blobs: list[Blob]) -> bytes:
    index = {"files": files, "blobs": blobs}
    return zlib.compress(json.dumps(index, separators=(",", ":")).encode())


def _folders(files: list[File]) -> int:
    """Count the folders of these paths."""
    found = set()
    for file in files:
        folder = file.path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return len(found)


def _id(files: list[File], blobs: list[Blob]) -> str:
    """Hash paths, modes and contents, independent of their order and source."""
    total = hashlib.sha256()
    for file in sorted(files):
        blob = blobs[file.blob]
        content = blob.sha256 or f"{blob.crc:08x}-{blob.size}"
        total.update(f"{file.path}\0{file.executable}\0{content}\n".encode())
    return total.hexdigest()[:ID_LENGTH]

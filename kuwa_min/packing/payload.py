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
from kuwa_min.packing.wheels.wheel import PayloadFile

CHUNK = 1 << 20  # bytes
QUEUED_CHUNKS = 8  # at most, for the hashing thread
ID_LENGTH = 20  # hex digits; part of the path of the cache, which must be short on Windows


class PayloadInfo(NamedTuple):
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


def write_payload(files: Iterable[PayloadFile], out: Output) -> PayloadInfo:
    """Write these files and their index; equal files give equal bytes."""
    start, entries, blobs = out.position, list[File](), list[Blob]()
    known: dict[tuple[object, ...], int] = {}
    with _SourceFile() as sources:
        for file in _first_of_each_path(files):
            key = _identity(file)
            if key not in known:
                known[key] = len(blobs)
                blobs.append(_copy(file, sources.at(file), out, start))
            entries.append(File(file.path, int(file.executable), known[key]))
    index, index_start = _pack(entries, blobs), out.position
    out.write(index)
    # Files of one blob and mode are unpacked as hard links, so it counts once.
    written = {(entry.blob, entry.executable) for entry in entries}
    size = sum(blobs[number].size for number, _ in written)
    return PayloadInfo(
        id=_id(entries, blobs),
        start=start,
        index_start=index_start,
        index_size=len(index),
        files=len(entries),
        folders=_folders(entries),
        bytes=size,
        sha256=out.sha256(),
    )


class _SourceFile:
    """Keep the source that is being read open, one at a time."""

    def __init__(self) -> None:
        self.path = Path()
        self.file: BinaryIO = open(os.devnull, "rb")  # noqa: PTH123, SIM115

    def __enter__(self) -> _SourceFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def at(self, file: PayloadFile) -> BinaryIO:
        """Return the source of a file, positioned at its stream."""
        if file.source != self.path:
            self.file.close()
            self.path, self.file = file.source, file.source.open("rb", CHUNK)
        self.file.seek(file.offset)
        return self.file


def _first_of_each_path(files: Iterable[PayloadFile]) -> Iterator[PayloadFile]:
    """Drop files whose path an earlier wheel has taken."""
    seen = set()
    for file in files:
        if file.path not in seen:
            seen.add(file.path)
            yield file


def _identity(file: PayloadFile) -> tuple[object, ...]:
    """Return a key that two files share only if they have the same bytes."""
    if file.sha256:
        return (file.sha256, file.size, file.crc)
    return (file.path,)


def _copy(file: PayloadFile, source: BinaryIO, out: Output, start: int) -> Blob:
    offset, left, crc, digest = out.position - start, file.stored, 0, hashlib.sha256()
    while left:
        chunk = source.read(min(left, CHUNK))
        if not chunk:
            raise UsageError(f"{file.source} is shorter than it says: fetch it again")
        if file.crc is None:
            crc = zlib.crc32(chunk, crc)
            digest.update(chunk)
        out.write(chunk)
        left -= len(chunk)
    size, method = file.size, file.method
    if file.crc is None:
        return Blob(offset, file.stored, size, method, crc, digest.hexdigest())
    return Blob(offset, file.stored, size, method, file.crc, file.sha256)


def _pack(entries: list[File], blobs: list[Blob]) -> bytes:
    index = {"files": entries, "blobs": blobs}
    return zlib.compress(json.dumps(index, separators=(",", ":")).encode())


def _folders(entries: list[File]) -> int:
    """Count the folders of these paths."""
    found = set()
    for entry in entries:
        folder = entry.path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return len(found)


def _id(entries: list[File], blobs: list[Blob]) -> str:
    """Hash paths, modes and contents, independent of their order and source."""
    total = hashlib.sha256()
    for entry in sorted(entries):
        blob = blobs[entry.blob]
        content = blob.sha256 or f"{blob.crc:08x}-{blob.size}"
        total.update(f"{entry.path}\0{entry.executable}\0{content}\n".encode())
    return total.hexdigest()[:ID_LENGTH]

"""Write payloads: contents copied as they lie in the wheels, each once, and an index of them."""

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

from kuwa_min.archive import Blob, File
from kuwa_min.errors import UsageError

from .wheels import Content

PIECE = 1 << 20  # bytes
PIECES_WAITING = 8  # for the hash
ID_LENGTH = 20  # hex digits, as short as is safe: Windows' paths are short


class Written(NamedTuple):
    """Where a payload landed, in bytes from the file's beginning, and what it is."""

    id: str
    start: int
    index_start: int
    index_size: int
    files: int
    folders: int
    bytes: int
    sha256: str  # of all that the file holds up to here, in hex


class Output:
    """A file that is hashed by a thread of its own while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.position = file, 0
        self._waiting: list[bytes] = []  # small pieces: each would cost a switch between threads
        self._waiting_size = 0
        self._hash = hashlib.sha256()
        self._pieces: queue.Queue[bytes | None] = queue.Queue(PIECES_WAITING)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self._pieces.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._hash.update(piece)
            self._pieces.task_done()

    def write(self, data: bytes) -> None:
        """Write and hash, a little later: sha256() ends it."""
        self._waiting.append(data)
        self._waiting_size += len(data)
        self.position += len(data)
        if self._waiting_size >= PIECE:
            self._pass_on()

    def _pass_on(self) -> None:
        data = b"".join(self._waiting)
        self._waiting, self._waiting_size = [], 0
        self._pieces.put(data)
        self.file.write(data)

    def sha256(self) -> str:
        """Return the hash of what was written until now, in hex."""
        self._pass_on()
        self._pieces.join()
        return self._hash.copy().hexdigest()


def write_payload(contents: Iterable[Content], out: Output) -> Written:
    """Write these contents and their index; the same contents give the same bytes."""
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
    written = {(file.blob, file.executable) for file in files}  # the rest become hard links
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
    """Keep the source that is read open, and no other."""

    def __init__(self) -> None:
        self.path = Path()
        self.file: BinaryIO = open(os.devnull, "rb")  # noqa: PTH123, SIM115

    def __enter__(self) -> _Sources:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def at(self, content: Content) -> BinaryIO:
        """Return the source of a content, at the place where that begins."""
        if content.source != self.path:
            self.file.close()
            self.path, self.file = content.source, content.source.open("rb", PIECE)
        self.file.seek(content.offset)
        return self.file


def _first_of_each_path(contents: Iterable[Content]) -> Iterator[Content]:
    """Leave out what an earlier wheel has put at the same path."""
    seen = set()
    for content in contents:
        if content.path not in seen:
            seen.add(content.path)
            yield content


def _identity(content: Content) -> tuple[object, ...]:
    """Return what two contents share exactly if they are the same bytes."""
    if content.sha256:
        return (content.sha256, content.size, content.crc)
    return (content.path,)


def _copy(content: Content, source: BinaryIO, out: Output, start: int) -> Blob:
    offset, left, crc, digest = out.position - start, content.stored, 0, hashlib.sha256()
    while left:
        piece = source.read(min(left, PIECE))
        if not piece:
            raise UsageError(f"{content.source} is shorter than it says: fetch it again")
        if content.crc is None:
            crc = zlib.crc32(piece, crc)
            digest.update(piece)
        out.write(piece)
        left -= len(piece)
    size, method = content.size, content.method
    if content.crc is None:
        return Blob(offset, content.stored, size, method, crc, digest.hexdigest())
    return Blob(offset, content.stored, size, method, content.crc, content.sha256)


def _pack(files: list[File], blobs: list[Blob]) -> bytes:
    index = {"files": files, "blobs": blobs}
    return zlib.compress(json.dumps(index, separators=(",", ":")).encode())


def _folders(files: list[File]) -> int:
    """Count the folders that these paths need."""
    found = set()
    for file in files:
        folder = file.path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return len(found)


def _id(files: list[File], blobs: list[Blob]) -> str:
    """Hash paths, modes and contents, whatever their order and wherever they came from."""
    total = hashlib.sha256()
    for file in sorted(files):
        blob = blobs[file.blob]
        content = blob.sha256 or f"{blob.crc:08x}-{blob.size}"
        total.update(f"{file.path}\0{file.executable}\0{content}\n".encode())
    return total.hexdigest()[:ID_LENGTH]

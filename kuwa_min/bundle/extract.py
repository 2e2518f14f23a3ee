"""Write a payload's files to a folder, check them there, rewrite damaged ones.

Knows nothing of the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kuwa_min.errors import StartError

from .archive import Archive, Blob, File, Index, contents
from .manifest import Payload
from .worker_pool import ReportBytes, WorkerPool, worker_count

FILE_COST = 60_000  # bytes: writing that many takes as long as creating a file


class Task(NamedTuple):
    """One file to write: its path below the folder, and its content."""

    path: str
    executable: int
    blob: Blob


def extract_payload(archive: Archive, payload: Payload, folder: str, report: ReportBytes) -> None:
    """Write all files of a payload below an existing folder; raises StartError, OSError.

    A content that stands at several paths is written once and linked.
    """
    index = archive.index(payload)
    tasks, links = _plan(index)
    for directory in sorted({os.path.dirname(file.path) for file in index.files} - {""}):
        os.makedirs(_inside(folder, directory), exist_ok=True)
    _write_all(archive, archive.start_of(payload), folder, tasks, report)
    for file, first in links:
        _link(_inside(folder, first), _inside(folder, file.path), file.executable)


def _plan(index: Index) -> tuple[list[Task], list[tuple[File, str]]]:
    """Return the files to write, and the others, each with the path that it is a link to."""
    firsts: dict[tuple[int, int], str] = {}
    tasks, links = [], []
    for file in index.files:
        key = (file.blob, file.executable)
        if key in firsts:
            links.append((file, firsts[key]))
        else:
            firsts[key] = file.path
            tasks.append(Task(file.path, file.executable, index.blobs[file.blob]))
    return tasks, links


def _inside(folder: str, path: str) -> str:
    """Join a path of the index to the folder; raises StartError if it leads outside."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\\" in path or ":" in parts[0]:
        raise StartError(f"the file names a path outside its folder: {path!r}; do not use it")
    return os.path.join(folder, *parts)


def _link(source: str, target: str, executable: int) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        import shutil

        shutil.copyfile(source, target)
        os.chmod(target, _mode(executable))


def _mode(executable: int) -> int:
    return 0o755 if executable else 0o644


def _write_all(
    archive: Archive, start: int, folder: str, tasks: list[Task], report: ReportBytes
) -> None:
    total = sum(task.blob.size for task in tasks)
    with open(archive.path, "rb") as file:

        def write(task: Task) -> int:
            _write(file.fileno(), start, folder, task, archive.path)
            return task.blob.size

        workers = worker_count(total)
        if workers > 1:
            WorkerPool(write).run(_shares(tasks, workers), total, report)
            return
        done = 0
        for task in tasks:
            done += write(task)
            report(done, total)


def _shares(tasks: list[Task], workers: int) -> list[list[Task]]:
    """Divide the tasks into equal shares, largest first; each share is in the archive's order."""
    shares: list[list[Task]] = [[] for _ in range(workers)]
    costs = [0] * workers
    for task in sorted(tasks, key=lambda task: -task.blob.size):
        least = costs.index(min(costs))
        costs[least] += task.blob.size + FILE_COST
        shares[least].append(task)
    return [sorted(share, key=lambda task: task.blob.offset) for share in shares]


def _write(file: int, start: int, folder: str, task: Task, name: str) -> None:
    """Create one file. file: a descriptor of the archive `name`; start: of the payload in it."""
    target = _inside(folder, task.path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    out = os.open(target, flags, _mode(task.executable))
    try:
        for chunk in contents(file, start, task.blob, name):
            _write_chunk(out, chunk)
    finally:
        os.close(out)


def _write_chunk(out: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(out, view) :]


def find_damaged(folder: str, index: Index) -> list[File]:
    """Return the files that are missing or of a wrong size; reads no content."""
    return [file for file in index.files if _size(folder, file) != index.blobs[file.blob].size]


def find_corrupted(folder: str, index: Index, report: ReportBytes) -> list[File]:
    """Return the files whose content is not what was built; reads every byte."""
    total, done, wrong = sum(index.blobs[file.blob].size for file in index.files), 0, []
    for file in index.files:
        blob = index.blobs[file.blob]
        if not _has_content(_inside(folder, file.path), blob):
            wrong.append(file)
        done += blob.size
        report(done, total)
    return wrong


def _size(folder: str, file: File) -> int:
    try:
        return os.lstat(_inside(folder, file.path)).st_size
    except OSError:
        return -1


def _has_content(path: str, blob: Blob) -> bool:
    crc, size, digest = 0, 0, hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                crc, size = zlib.crc32(chunk, crc), size + len(chunk)
                digest.update(chunk)
    except OSError:
        return False
    return (crc, size) == (blob.crc, blob.size) and blob.sha256 in ("", digest.hexdigest())


def rewrite(archive: Archive, payload: Payload, folder: str, files: Sequence[File]) -> None:
    """Replace these files, each by a rename: processes that run from the folder may go on."""
    index, start = archive.index(payload), archive.start_of(payload)
    mode = os.stat(folder).st_mode
    with open(archive.path, "rb") as file, _umask(0o777 & ~mode):
        for one in files:
            target, part = _inside(folder, one.path), f"{one.path}.part-{os.getpid()}"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            task = Task(part, one.executable, index.blobs[one.blob])
            _write(file.fileno(), start, folder, task, archive.path)
            os.replace(_inside(folder, part), target)


@contextlib.contextmanager
def _umask(umask: int) -> Iterator[None]:
    former = os.umask(umask)
    try:
        yield
    finally:
        os.umask(former)

"""Write a payload's files to a folder, check such a folder, mend it. Knows nothing of caches."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .archive import Archive, Blob, File, Index, contents
from .errors import StartError
from .manifest import Payload
from .workers import Report, Workers, processes

FILE_COST = 60_000  # what opening a file costs, in bytes written


class Task(NamedTuple):
    """One content to write and the path it goes to."""

    path: str
    executable: int
    blob: Blob


def unpack(archive: Archive, payload: Payload, folder: str, report: Report) -> None:
    """Write all files of a payload below a folder, which must exist; raises StartError, OSError."""
    index = archive.index(payload)
    firsts, links = _plan(index)
    for directory in sorted({os.path.dirname(file.path) for file in index.files} - {""}):
        os.makedirs(_inside(folder, directory), exist_ok=True)
    _write_all(archive, archive.start_of(payload), folder, firsts, report)
    for file, first in links:
        _link(_inside(folder, first), _inside(folder, file.path), file.executable)


def _plan(index: Index) -> tuple[list[Task], list[tuple[File, str]]]:
    """Tell which file of each content is written, and which are links to those."""
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
    """Join a path of the index to the folder; raises StartError when it would lead outside."""
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
    archive: Archive, start: int, folder: str, tasks: list[Task], report: Report
) -> None:
    total = sum(task.blob.size for task in tasks)
    with open(archive.path, "rb") as file:

        def write(task: Task) -> int:
            _write(file.fileno(), start, folder, task, archive.path)
            return task.blob.size

        number = processes(total)
        if number > 1:
            Workers(write).run(_shares(tasks, number), total, report)
            return
        done = 0
        for task in tasks:
            done += write(task)
            report(done, total)


def _shares(tasks: list[Task], number: int) -> list[list[Task]]:
    """Share the work out evenly, largest first; each share in the order of the file."""
    shares: list[list[Task]] = [[] for _ in range(number)]
    costs = [0] * number
    for task in sorted(tasks, key=lambda task: -task.blob.size):
        least = costs.index(min(costs))
        costs[least] += task.blob.size + FILE_COST
        shares[least].append(task)
    return [sorted(share, key=lambda task: task.blob.offset) for share in shares]


def _write(file: int, start: int, folder: str, task: Task, name: str) -> None:
    """Write one new file."""
    target = _inside(folder, task.path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    out = os.open(target, flags, _mode(task.executable))
    try:
        for piece in contents(file, start, task.blob, name):
            _write_piece(out, piece)
    finally:
        os.close(out)


def _write_piece(out: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(out, view) :]


def faults(folder: str, index: Index) -> list[File]:
    """Return the files that are missing or of a wrong size; looks at no content."""
    return [file for file in index.files if _size(folder, file) != index.blobs[file.blob].size]


def deep_faults(folder: str, index: Index, report: Report) -> list[File]:
    """Return the files whose content is not what was built; reads every byte."""
    total, done, wrong = sum(index.blobs[file.blob].size for file in index.files), 0, []
    for file in index.files:
        blob = index.blobs[file.blob]
        if not _is_right(_inside(folder, file.path), blob):
            wrong.append(file)
        done += blob.size
        report(done, total)
    return wrong


def _size(folder: str, file: File) -> int:
    try:
        return os.lstat(_inside(folder, file.path)).st_size
    except OSError:
        return -1


def _is_right(path: str, blob: Blob) -> bool:
    crc, size, digest = 0, 0, hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                crc, size = zlib.crc32(piece, crc), size + len(piece)
                digest.update(piece)
    except OSError:
        return False
    return (crc, size) == (blob.crc, blob.size) and blob.sha256 in ("", digest.hexdigest())


def write_anew(archive: Archive, payload: Payload, folder: str, files: Sequence[File]) -> None:
    """Write these files anew, each in one step, so that who runs from the folder may go on."""
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

"""Write a payload's files to a folder, check such a folder, mend it. Knows nothing of caches."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NoReturn

from .archive import Archive, Blob, File, Index, contents
from .errors import KuwaError, StartError
from .manifest import Payload

WORTH_A_PROCESS = 32_000_000  # bytes: below that, starting one costs more than it saves
MOST_PROCESSES = 8
FILE_COST = 60_000  # what opening a file costs, in bytes written
POLL = 0.02  # seconds between two looks at the workers
COUNTER = 8  # bytes
ENDS = (signal.SIGINT, signal.SIGTERM)

Report = Callable[[int, int], None]  # bytes written, bytes in all


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
        shares = _shares(tasks, _processes(total))
        if len(shares) > 1:
            _Workers(file.fileno(), start, folder, archive.path).run(shares, total, report)
            return
        done = 0
        for task in tasks:
            _write(file.fileno(), start, folder, task, archive.path)
            done += task.blob.size
            report(done, total)


def _processes(total: int) -> int:
    if not hasattr(os, "fork"):
        return 1
    with contextlib.suppress(AttributeError):
        processors = len(os.sched_getaffinity(0))
        return max(1, min(MOST_PROCESSES, processors, total // WORTH_A_PROCESS))
    return 1


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


class _Workers:
    """Write the shares in processes of their own: Python's threads are slower for small files."""

    def __init__(self, file: int, start: int, folder: str, name: str) -> None:
        self.file, self.start, self.folder, self.name = file, start, folder, name
        self.parent = os.getpid()
        self.running: set[int] = set()

    def run(self, shares: list[list[Task]], total: int, report: Report) -> None:
        """Write all shares; raises what a worker met."""
        counters = mmap.mmap(-1, COUNTER * len(shares))
        receive, send = os.pipe()
        try:
            for number, share in enumerate(shares):
                former = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # the parent ends us all
                child = os.fork()
                if child == 0:
                    self._work(share, number, counters, send)
                self.running.add(child)
                signal.pthread_sigmask(signal.SIG_SETMASK, former)
            if not self._wait(counters, total, report):
                os.set_blocking(receive, False)
                _raise_first(receive)
        finally:
            self._end()
            os.close(receive)
            os.close(send)
            counters.close()

    def _work(self, share: list[Task], number: int, counters: mmap.mmap, send: int) -> NoReturn:
        """Be a worker: write the share, count, tell what went wrong, and end."""
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
            done = 0
            for task in share:
                if os.getppid() != self.parent:
                    break
                _write(self.file, self.start, self.folder, task, self.name)
                done += task.blob.size
                counters[number * COUNTER : (number + 1) * COUNTER] = done.to_bytes(COUNTER, "big")
            else:
                code = 0
        except OSError as error:
            os.write(send, f"{error.errno or 0} {error.strerror}\n".encode())
        except KuwaError as error:
            os.write(send, f"- {error}\n".encode())
        finally:
            os._exit(code)

    def _wait(self, counters: mmap.mmap, total: int, report: Report) -> bool:
        """Wait for the workers; tell whether all of them did their share."""
        while self.running:
            ended = [os.waitpid(child, os.WNOHANG) for child in self.running]
            self.running -= {child for child, _ in ended}
            if any(status for _, status in ended):
                return False
            time.sleep(POLL if self.running else 0)
            report(_sum(counters), total)
        return True

    def _end(self) -> None:
        for child in self.running:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        self.running.clear()


def _sum(counters: mmap.mmap) -> int:
    raw = counters[:]
    return sum(int.from_bytes(raw[at : at + COUNTER], "big") for at in range(0, len(raw), COUNTER))


def _raise_first(receive: int) -> NoReturn:
    """Raise the first failure that a worker told; it may have been killed before it could."""
    try:
        line = os.read(receive, 4096).decode().partition("\n")[0]
    except BlockingIOError:
        raise StartError(
            "a process that was unpacking was killed: look whether the machine has memory enough"
        ) from None
    number, _, message = line.partition(" ")
    raise StartError(message) if number == "-" else OSError(int(number), message)


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

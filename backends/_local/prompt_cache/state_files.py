"""Parked states on disk: what survives a restart. It holds what people wrote.

A folder mirrors the states of one prompt cache. One thread reads them at the start and writes
later ones, so that the engine never waits for a disk.
"""

# A file is named by a hash of its adapters and tokens and appears by one rename.

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from kuwa_min.bundle.trust import reason_untrusted
from kuwa_min.errors import UsageError
from kuwa_min.process.supervision import Thread

from . import state_file
from .parked import Key, ParkedState
from .state_file import KEY_BYTES

logger = logging.getLogger(__name__)

SUFFIX, PARTIAL, LOCK = ".chat", ".partial", "lock"
NO_KEY: Key = ("", b"")
PRIVATE_FOLDER, OTHERS = 0o700, 0o077
CLOSE_TIMEOUT = 5.0  # seconds that close() waits for what is not written yet

Add = Callable[[ParkedState], bool]


def check_folder(folder: Path) -> None:
    """Create the folder if it does not exist; raise UsageError unless it is this user's alone."""
    option = f"--prompt_cache_dir {folder}"
    try:
        folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        reason = reason_untrusted(str(folder))
        mode = folder.stat().st_mode
    except OSError as error:
        raise UsageError(f"{option} cannot be used: {error.strerror}") from None
    if reason:
        raise UsageError(f"{option}: {reason}, and it would hold what people wrote; choose another")
    if os.name == "posix" and mode & OTHERS:
        raise UsageError(
            f"{option}: others may enter it, and it would hold what people wrote; "
            f"run: chmod 700 {folder}"
        )


class StateFiles:
    """The files of one prompt cache; folder: checked; key: KEY_BYTES that all of them share."""

    def __init__(self, folder: Path, key: bytes) -> None:
        self._root, self._key = folder, key
        self._folder = folder / key.hex()[:KEY_BYTES]
        self._changed = threading.Condition()
        self._writes: dict[Key, ParkedState] = {}  # in order
        self._removals: set[Key] = set()
        self._touches: set[Key] = set()
        self._closing = False
        self._has_failed = False  # to write the last one
        self.was_read = threading.Event()  # all that was there at the start
        self._lock: int | None = None
        self._thread: Thread | None = None

    def start(self, add: Add, max_bytes: int) -> None:
        """Read the files on a thread of its own, calling add() with each, and write from then on.

        add: returns whether it took the state. Without the folder's lock, nothing is read or kept.
        """
        try:
            self._folder.mkdir(PRIVATE_FOLDER, exist_ok=True)
            self._lock = _lock(self._folder)
        except OSError as error:
            logger.warning("chats are not kept in %s: %s", self._root, error.strerror)
            return
        if self._lock is None:
            logger.warning("chats are not kept in %s: another process uses it", self._root)
            return
        self._thread = Thread("prompt-cache", lambda: self._run(add, max_bytes))
        self._thread.start()

    # -- the engine's thread

    def write(self, entry: ParkedState) -> None:
        """Write a state soon."""
        with self._changed:
            if self._thread is not None:
                self._removals.discard(entry.key)
                self._writes[entry.key] = entry
                self._changed.notify()

    def remove(self, entry: ParkedState) -> None:
        """Remove a state's file soon; if it was not written yet, it never is."""
        with self._changed:
            if self._thread is not None:
                self._writes.pop(entry.key, None)
                self._removals.add(entry.key)
                self._changed.notify()

    def touch(self, entry: ParkedState) -> None:
        """Note that a state was used."""
        with self._changed:
            if self._thread is not None:
                self._touches.add(entry.key)
                self._changed.notify()

    def close(self) -> None:
        """Wait until all is written, for CLOSE_TIMEOUT at most, and release the folder."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT)
            if self._lock is not None and not self._thread.is_alive():
                os.close(self._lock)
                self._lock = None

    # -- the thread of the files

    def _run(self, add: Add, max_bytes: int) -> None:
        try:
            self._remove_foreign()
            self._load(add, max_bytes)
        except OSError as error:
            logger.warning("chats in %s are not read: %s", self._root, error.strerror)
        self.was_read.set()
        while self._has_more():
            with self._changed:
                entry = self._writes.pop(next(iter(self._writes), NO_KEY), None)
                removals, self._removals = self._removals, set()
                touches, self._touches = self._touches, set()
            for key in removals:
                _remove(self._path(key))
            for key in touches - removals:
                with contextlib.suppress(OSError):
                    os.utime(self._path(key))
            if entry is not None:
                self._write(entry)

    def _has_more(self) -> bool:
        """Wait for something to do; return false once the process ends and all is done."""
        with self._changed:
            while not (self._writes or self._removals or self._touches):
                if self._closing:
                    return False
                self._changed.wait()
        return True

    def _path(self, key: Key) -> Path:
        adapters, tokens = key
        return self._folder / (hashlib.sha256(adapters.encode() + tokens).hexdigest() + SUFFIX)

    def _remove_foreign(self) -> None:
        """Remove what the folder holds of other models, versions and settings, unless in use."""
        for other in self._root.iterdir():
            with contextlib.suppress(OSError):
                if other == self._folder or not _is_ours(other):
                    continue
                lock = _lock(other)
                if lock is not None:
                    shutil.rmtree(other)
                    os.close(lock)
                    logger.info("%s: chats of another model or setting were removed", self._root)

    def _load(self, add: Add, max_bytes: int) -> None:
        """Read the files, the latest first, as long as there is room; remove all others."""
        taken, size, damaged = 0, 0, 0
        for path, bytes_on_disk in self._found():
            entry = None
            if path.suffix == SUFFIX and size + bytes_on_disk <= max_bytes:
                entry = state_file.read(path, self._key)
                if entry is not None and self._path(entry.key) != path:
                    entry = None
                damaged += entry is None
            if entry is not None and add(entry):
                taken, size = taken + 1, size + entry.size
            else:
                _remove(path)
        if taken or damaged:
            logger.info(
                "%s: %d parked chats, %d MB; %d damaged ones were dropped",
                *(self._root, taken, size // 10**6, damaged),
            )

    def _found(self) -> list[tuple[Path, int]]:
        """Return the files and their sizes, the latest first; remove links and special files."""
        found = []
        for path in self._folder.iterdir():
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                found.append((status.st_mtime, path, status.st_size))
            elif not stat.S_ISDIR(status.st_mode):
                _remove(path)  # opening a pipe would wait for ever
        return [(path, size) for _, path, size in sorted(found, reverse=True) if path.name != LOCK]

    def _write(self, entry: ParkedState) -> None:
        path = self._path(entry.key)
        partial = path.with_suffix(PARTIAL)
        try:
            state_file.write(partial, entry, self._key)
            partial.replace(path)
        except OSError as error:
            level = logging.DEBUG if self._has_failed else logging.WARNING
            logger.log(level, "a chat was not kept in %s: %s", self._root, error.strerror)
            self._has_failed = True
            _remove(partial)
        else:
            self._has_failed = False


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _is_ours(path: Path) -> bool:
    """Tell whether a folder is named by a key, and holds the files of chats and nothing else."""
    hexadecimal = set(path.name) <= set("0123456789abcdef")
    if not hexadecimal or len(path.name) != KEY_BYTES or path.is_symlink() or not path.is_dir():
        return False
    held = list(path.iterdir())
    are_ours = all(one.name == LOCK or one.suffix in (SUFFIX, PARTIAL) for one in held)
    return are_ours and path / LOCK in held


def _lock(folder: Path) -> int | None:
    """Lock a folder for the life of the process; return None if another one has locked it."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.suppress(ImportError):  # Windows
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
    return handle

"""The private place on disk that holds what files carry, unpacked; one entry per content.

    <root>/CACHEDIR.TAG       backups leave it out
    <root>/<id>.lock          shared by whoever runs from the entry, exclusive to change it;
                              its time is when the entry was last used
    <root>/<id>/tree/         the files
    <root>/<id>/made          in which boot of the machine; there only once all files are
    <root>/<id>/durable       there once the disk has all of them
    <root>/<id>.tmp-XXXX/     being unpacked, or left by somebody who was killed

Everything above the files belongs to us or to root, and nobody else may write there: what lies here
is run. Knows nothing of archives and payloads.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from .errors import StartError
from .places import intruders

KEPT_DAYS = 30
KEPT_ENTRIES = 2
BOOT = "/proc/sys/kernel/random/boot_id"
POLL = 0.2  # seconds between two tries of a lock
PATIENCE = 3600  # seconds that another process may take to unpack


class Entry:
    """One unpacked content in one root."""

    def __init__(self, root: str, key: str) -> None:
        self.root, self.key = root, key
        self.path = os.path.join(root, key)
        self.tree = os.path.join(self.path, "tree")
        self._lock = -1
        self._has_locks = True

    @property
    def is_complete(self) -> bool:
        """Whether all files were written."""
        return os.path.exists(os.path.join(self.path, "made"))

    @property
    def survived_a_crash(self) -> bool:
        """Whether the machine went down before the disk had everything: a file may be hollow."""
        if os.path.exists(os.path.join(self.path, "durable")):
            return False
        with contextlib.suppress(OSError), open(os.path.join(self.path, "made")) as file:
            return file.read().split()[-1:] != [_boot()]
        return True

    @property
    def last_used(self) -> float:
        """When somebody started from it, in seconds since the epoch; 0 if nobody did."""
        with contextlib.suppress(OSError):
            return os.stat(f"{self.path}.lock").st_mtime
        return 0

    def check(self) -> None:
        """Raise StartError if somebody else could have put or changed what lies here."""
        found = intruders(self.root) or intruders(self.path)
        if found:
            raise StartError(
                f"{found}, so what lies in {self.path} is not run: remove it, or name a folder of "
                "your own by --root DIR"
            )

    def hold(self) -> bool:
        """Share the entry's lock for the life of the process; False if the entry is gone."""
        with contextlib.suppress(OSError):  # a read-only root needs no lock: nobody removes it
            self._open_lock()
            _flock(self._lock, "LOCK_SH")
            os.utime(self._lock)
        return self.is_complete

    @contextlib.contextmanager
    def alone(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Have the entry to oneself; wait for whoever has it, and say so."""
        self._open_lock()
        started, told = time.monotonic(), 0.0
        while not self._try_alone():
            waited = time.monotonic() - started
            if waited > PATIENCE:
                raise StartError(f"another process has had {self.path} for an hour: end that one")
            if waited >= told:
                tell(f"another process is unpacking to {self.path}; waiting for it")
                told = waited + 10
            time.sleep(POLL)
        try:
            yield
        finally:
            self.release()

    @property
    def is_held(self) -> bool:
        """Whether we have its lock, which a read-only disk does not give."""
        return self._lock >= 0

    def is_idle(self) -> bool:
        """Take the entry for oneself if nobody uses it; release() gives it back."""
        with contextlib.suppress(OSError):
            self._open_lock()
            return self._try_alone()
        return False

    def release(self) -> None:
        """Give the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _open_lock(self) -> None:
        if self._lock < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
            self._lock = os.open(f"{self.path}.lock", flags, 0o600)

    def _try_alone(self) -> bool:
        try:
            _flock(self._lock, "LOCK_EX", "LOCK_NB")
        except BlockingIOError:
            return False
        except OSError:  # a network disk without locks: each unpacks for itself, one rename wins
            self._has_locks = False
        return True

    @contextlib.contextmanager
    def fresh_folder(self, umask: int) -> Iterator[str]:
        """Make a folder that becomes the entry in one step if all goes well, and is gone if not."""
        import tempfile  # what only the first start needs

        self.sweep()
        folder = tempfile.mkdtemp(prefix=f"{self.key}.tmp-", dir=self.root)
        former = os.umask(umask)
        try:
            os.chmod(folder, 0o777 & ~umask)
            yield folder
            with open(os.path.join(folder, "made"), "w") as file:
                file.write(f"boot {_boot()}\n")
            self._adopt(folder)
        finally:
            os.umask(former)
            _remove_tree(folder)

    def sweep(self) -> None:
        """Remove what killed starts left; only for who has the entry to himself."""
        for name in os.listdir(self.root) if self._has_locks else []:
            if name.startswith(f"{self.key}.tmp-"):
                _remove_tree(os.path.join(self.root, name))

    def _adopt(self, folder: str) -> None:
        try:
            os.rename(folder, self.path)
        except OSError:
            if not self.is_complete:  # without locks, another process may have been first
                raise

    def discard(self) -> None:
        """Remove the entry; it is gone at once, its files a little later."""
        dying = f"{self.path}.tmp-{os.getpid()}"
        os.rename(self.path, dying)
        _remove_tree(dying)

    def settle(self) -> None:
        """Have the disk write everything, then say so in the entry."""
        if hasattr(os, "sync"):
            os.sync()
        with contextlib.suppress(OSError), open(os.path.join(self.path, "durable"), "w"):
            pass


def _boot() -> str:
    """Name this boot of the machine; "-" where the system gives it no name."""
    with contextlib.suppress(OSError), open(BOOT) as file:
        return file.read().strip()
    return "-"


def _flock(descriptor: int, *flags: str) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    fcntl.flock(descriptor, sum(getattr(fcntl, flag) for flag in flags))


def _remove_tree(path: str) -> None:
    import shutil  # only to clean up

    shutil.rmtree(path, ignore_errors=True)


def entries(root: str) -> list[Entry]:
    """Return the complete entries of a root, the last used first."""
    try:
        names = os.listdir(root)
    except OSError:
        return []
    found = [Entry(root, name) for name in names if "." not in name]
    return sorted(filter(_is_complete, found), key=lambda entry: -entry.last_used)


def _is_complete(entry: Entry) -> bool:
    return entry.is_complete


def prune(root: str, *, days: float = KEPT_DAYS, keep: int = KEPT_ENTRIES) -> list[Entry]:
    """Remove what nobody uses nor has used for so long, but for the newest; return what went."""
    sweep(root)
    limit = time.time() - days * 86400
    removed = []
    for entry in entries(root)[keep:]:
        if entry.last_used < limit and entry.is_idle():
            with contextlib.suppress(OSError):
                entry.discard()
                removed.append(entry)
            entry.release()
    return removed


def sweep(root: str) -> None:
    """Remove what killed starts left, of whichever entry; who still fills one holds its lock."""
    names = os.listdir(root) if os.path.isdir(root) else []
    for key in {name.partition(".tmp-")[0] for name in names if ".tmp-" in name}:
        entry = Entry(root, key)
        if entry.is_idle():
            entry.sweep()
        entry.release()


def size_of(entry: Entry) -> int:
    """Return the bytes that an entry takes on disk."""
    total, seen = 0, set()
    for folder, _, names in os.walk(entry.path):
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += getattr(status, "st_blocks", 0) * 512 or status.st_size
    return total

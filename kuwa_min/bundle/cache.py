"""The private folder that holds what built files carry, unpacked; one entry per payload.

    <root>/CACHEDIR.TAG       backup programs skip the folder
    <root>/<id>.lock          locked shared to run from the entry, exclusively to change it;
                              its mtime is when the entry was last used
    <root>/<id>/tree/         the files
    <root>/<id>/made          the marker of a complete entry, with the id of the boot it is from
    <root>/<id>/durable       the marker of an entry that is on disk as a whole
    <root>/<id>.tmp-XXXX/     being unpacked or removed, or left by a process that was killed

Code is run from here: every folder above the files belongs to this user or root, and no other user
may write to it. Knows nothing of archives and payloads.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from kuwa_min.errors import StartError

from .trust import others_may_enter, reason_untrusted, untrusted_folders

# How an entry stays whole when a process or the machine dies
#
# 1. Lock. The process that changes an entry holds flock(LOCK_EX) on <id>.lock, one that runs from
#    it LOCK_SH, until it ends. The system drops both with the process, however that ends. The file
#    is never removed: two processes could then lock two files of the same name.
# 2. Stage. Files are written below <id>.tmp-XXXX, on the same disk. A process that dies here leaves
#    a folder that is never used, only removed, by the next holder of the exclusive lock.
# 3. Mark. "made" is written into that folder last.
# 4. Publish. rename() turns the folder into <id>: the entry appears whole or not at all. On disks
#    without locks two processes may stage the same entry; the first rename wins, the other fails
#    because <id> is not empty, and its process uses the winner's.
# 5. Sync. The program starts at once, from the page cache: waiting until gigabytes are on disk
#    would take as long as unpacking them. A process in the background calls sync() and creates
#    "durable" after that, so the marker never says more than the disk has.
# 6. Check. An entry without "durable" is complete while the boot that "made" names lasts. After
#    that the machine has crashed, and files may be short or full of zeros: the next start compares
#    every byte, rewrites what is wrong, syncs, and creates "durable".
# 7. Repair. A file is rewritten beside its place and moved there by rename(): processes that run
#    from the entry keep the file they opened.
# 8. Remove. rename() turns <id> into <id>.tmp-PID, which then is deleted: a removal that is cut
#    short leaves what step 2 leaves, never half of an entry.

COMPLETE, DURABLE = "made", "durable"  # markers
STAGING = ".tmp-"
BYTECODE = "__pycache__"
KEPT_DAYS = 30  # since the last use
KEPT_ENTRIES = 2  # however old they are
BOOT_ID = "/proc/sys/kernel/random/boot_id"
LOCK_POLL = 0.2  # seconds between two attempts to lock
LOCK_TIMEOUT = 3600  # seconds that another process may take to unpack
WAIT_LOG = 10  # seconds between two lines about the wait
DAY = 86400  # seconds


class Entry:
    """One unpacked payload in one cache folder; for one thread.

    root: the cache folder. key: the payload's id; "" for the folder itself, to check it.
    """

    def __init__(self, root: str, key: str) -> None:
        self.root, self.key = root, key
        self.path = os.path.join(root, key)
        self.tree = os.path.join(self.path, "tree")
        self._lock = -1  # a descriptor of the lock file
        self._disk_has_locks = True

    @property
    def is_complete(self) -> bool:
        """Whether all files were written."""
        return os.path.exists(os.path.join(self.path, COMPLETE))

    @property
    def may_be_torn(self) -> bool:
        """Whether the machine crashed before the files were on disk: they may lack their data."""
        if os.path.exists(os.path.join(self.path, DURABLE)):
            return False
        with contextlib.suppress(OSError), open(os.path.join(self.path, COMPLETE)) as file:
            return file.read().split()[-1:] != [_boot_id()]
        return True

    @property
    def last_used(self) -> float:
        """When a process last started from it, in seconds since the epoch; 0 if none did."""
        with contextlib.suppress(OSError):
            return os.stat(f"{self.path}.lock").st_mtime
        return 0

    @property
    def reason_untrusted(self) -> str:
        """Say which other user could have put or changed what lies here; "": none."""
        found = reason_untrusted(self.root) or reason_untrusted(self.path)
        return found or next((reason for _, reason in self._untrusted_folders()), "")

    def ensure_trusted(self, log_step: Callable[[str], None]) -> None:
        """Raise StartError if another user could have put or changed what lies here.

        Bytecode that Python wrote under a loose umask, where others may write, is removed first.
        """
        found = reason_untrusted(self.root) or reason_untrusted(self.path)
        for folder, reason in [] if found else self._untrusted_folders():
            if os.path.basename(folder) == BYTECODE and _remove_tree(folder):
                log_step(f"{reason}: removed, it holds bytecode alone")
            else:
                found = found or reason
        if found:
            raise StartError(
                f"{found}, so what lies in {self.path} is not run: remove it, or name a folder of "
                "your own by --root DIR"
            )

    def _untrusted_folders(self) -> list[tuple[str, str]]:
        """Return the folders that another user could add files to; none if no one can enter."""
        if not self.is_complete or not all(map(others_may_enter, (self.root, self.path))):
            return []
        return list(untrusted_folders(self.tree))

    def lock_shared(self) -> bool:
        """Keep others from removing the entry while this process lives; False if it is gone.

        Waits for a process that holds the exclusive lock. Marks the entry as used now.
        """
        with contextlib.suppress(OSError):  # nothing is removed from a read-only disk
            self._open_lock()
            _flock(self._lock, "LOCK_SH")
            os.utime(self._lock)
        return self.is_complete

    @contextlib.contextmanager
    def lock_to_unpack(self, log_step: Callable[[str], None]) -> Iterator[bool]:
        """Wait for a process that unpacks the entry, and log that; yield whether to unpack it.

        It is locked exclusively then. A complete entry is not waited for: processes that run from
        it have its shared lock as long as they live. Raises StartError after LOCK_TIMEOUT.
        """
        self._open_lock()
        started, next_log = time.monotonic(), 0.0
        while not (has_lock := self._try_flock()) and not self.is_complete:
            waited = time.monotonic() - started
            if waited > LOCK_TIMEOUT:
                raise StartError(f"another process has had {self.path} for an hour: end that one")
            if waited >= next_log:
                log_step(f"another process is unpacking to {self.path}; waiting for it")
                next_log = waited + WAIT_LOG
            time.sleep(LOCK_POLL)
        try:
            yield has_lock and not self.is_complete
        finally:
            self.unlock()

    @property
    def is_locked(self) -> bool:
        """Whether this object holds the lock; on a read-only disk it never does."""
        return self._lock >= 0

    def try_lock(self) -> bool:
        """Take the exclusive lock unless another process uses the entry; the caller unlocks."""
        with contextlib.suppress(OSError):
            self._open_lock()
            return self._try_flock()
        return False

    def unlock(self) -> None:
        """Release either lock."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _open_lock(self) -> None:
        if self._lock < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
            self._lock = os.open(f"{self.path}.lock", flags, 0o600)

    def _try_flock(self) -> bool:
        try:
            _flock(self._lock, "LOCK_EX", "LOCK_NB")
        except BlockingIOError:
            return False
        except OSError:  # a network disk without locks: step 4 decides
            self._disk_has_locks = False
        return True

    @contextlib.contextmanager
    def staging_folder(self, umask: int) -> Iterator[str]:
        """Make a folder that becomes the entry at the end of the block, or is removed if it raises.

        The caller holds the exclusive lock. umask: of the files that the block writes.
        """
        import tempfile  # slow to import; only the first start needs it

        self.remove_leftovers()
        folder = tempfile.mkdtemp(prefix=f"{self.key}{STAGING}", dir=self.root)
        former = os.umask(umask)
        try:
            os.chmod(folder, 0o777 & ~umask)
            yield folder
            with open(os.path.join(folder, COMPLETE), "w") as file:
                file.write(f"boot {_boot_id()}\n")
            self._publish(folder)
        finally:
            os.umask(former)
            _remove_tree(folder)

    def remove_leftovers(self) -> None:
        """Remove the staging folders of killed processes; the caller holds the exclusive lock."""
        for name in os.listdir(self.root) if self._disk_has_locks else []:
            if name.startswith(f"{self.key}{STAGING}"):
                _remove_tree(os.path.join(self.root, name))

    def _publish(self, folder: str) -> None:
        try:
            os.rename(folder, self.path)
        except OSError:
            if not self.is_complete:  # without locks, another process may have been first
                raise

    def remove(self) -> None:
        """Remove the entry in one step, then its files; the caller holds the exclusive lock."""
        leftover = f"{self.path}{STAGING}{os.getpid()}"
        os.rename(self.path, leftover)
        _remove_tree(leftover)

    def mark_durable(self) -> None:
        """Wait until the system's disks have written everything, then mark the entry."""
        if hasattr(os, "sync"):
            os.sync()
        with contextlib.suppress(OSError), open(os.path.join(self.path, DURABLE), "w"):
            pass


def _boot_id() -> str:
    """Return the id of this boot of the machine; "-" where the system has none."""
    with contextlib.suppress(OSError), open(BOOT_ID) as file:
        return file.read().strip()
    return "-"


def _flock(descriptor: int, *flags: str) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    fcntl.flock(descriptor, sum(getattr(fcntl, flag) for flag in flags))


def _remove_tree(path: str) -> bool:
    """Remove a folder with all below it; return whether it is gone."""
    import shutil  # slow to import; only needed to remove

    shutil.rmtree(path, ignore_errors=True)
    return not os.path.lexists(path)


def entries(root: str) -> list[Entry]:
    """Return the complete entries of a cache folder, the last used first."""
    try:
        names = os.listdir(root)
    except OSError:
        return []
    found = [Entry(root, name) for name in names if "." not in name]
    return sorted(filter(_is_complete, found), key=lambda entry: -entry.last_used)


def _is_complete(entry: Entry) -> bool:
    return entry.is_complete


def prune(root: str, *, days: float = KEPT_DAYS, keep: int = KEPT_ENTRIES) -> list[Entry]:
    """Remove entries that no process uses or has used for `days`; return those removed.

    The `keep` entries used last stay, however old they are.
    """
    remove_leftovers(root)
    limit = time.time() - days * DAY
    removed = []
    for entry in entries(root)[keep:]:
        if entry.last_used < limit and entry.try_lock():
            with contextlib.suppress(OSError):
                entry.remove()
                removed.append(entry)
            entry.unlock()
    return removed


def remove_leftovers(root: str) -> None:
    """Remove the staging folders that killed processes left, of all entries not locked."""
    names = os.listdir(root) if os.path.isdir(root) else []
    for key in {name.partition(STAGING)[0] for name in names if STAGING in name}:
        entry = Entry(root, key)
        if entry.try_lock():
            entry.remove_leftovers()
        entry.unlock()


def disk_usage(entry: Entry) -> int:
    """Return the bytes that an entry takes on disk; a file with several links counts once."""
    total, seen = 0, set()
    for folder, _, names in os.walk(entry.path):
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += getattr(status, "st_blocks", 0) * 512 or status.st_size
    return total

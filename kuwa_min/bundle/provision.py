"""Unpack what this file carries into the cache, after a check of the machine; repair it there.

The slow way to the libraries; `activate` is the fast one, for later starts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from kuwa_min.errors import StartError, WrongMachine
from kuwa_min.progress import Progress

from .archive import Archive, File, Index
from .cache import Entry, prune
from .cache_root import cache_roots, create_root, reason_unusable
from .extract import extract_payload, find_corrupted, find_damaged, rewrite
from .manifest import Payload, size_text
from .preflight import CheckResult, check_host, refusals

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

# From a built file to files on disk, the first time
#
# 1. Check the machine against the manifest's target: nothing is written on one that does not fit.
# 2. Choose the first cache root that is private to this user and has space for all payloads.
# 3. For each payload: lock the entry exclusively, waiting for another start that unpacks it; unpack
#    unless that one did; swap the exclusive lock for a shared one. Between the two locks another
#    process may remove the entry: then again from the lock on.
# 4. Remove old entries of other files, and start. A background process marks the new entries
#    durable. What a crash leaves in each step: see the cache.

EXTRA_INODES = 6  # of an entry besides its files: itself, tree, lock, two markers, the root
BLOCK = 4096  # bytes; file systems round a file's size up to a multiple
PRIVATE, PUBLIC = 0o077, 0o022  # umasks

Find = Callable[[str, Index], list[File]]  # the folder of the files -> those to rewrite


def unpack_missing(path: str, keys: Mapping[str, str], log_step: LogStep) -> dict[str, Entry]:
    """Unpack the payloads of these kinds and keys that the cache lacks; return locked entries.

    path: the built file. keys: kind -> id. Raises WrongMachine, StartError, OSError.
    """
    archive = Archive(path)
    raise_refusals(check_host(archive.manifest["built_for"]))
    wanted = [payload for payload in archive.payloads if payload["kind"] in keys]
    root = choose_root(path, wanted)
    create_root(root)
    Entry(root, "").ensure_trusted(log_step)  # another user may have created it since it was chosen
    locked = {}
    for payload in wanted:
        locked[payload["kind"]] = entry = Entry(root, payload["id"])
        entry.ensure_trusted(log_step)
        while not (entry.is_complete and entry.lock_shared()):
            entry.unlock()
            with entry.lock_to_unpack(log_step) as is_missing:
                if is_missing:
                    _unpack_entry(archive, payload, entry, PRIVATE, log_step)
    prune(root)
    _mark_durable_in_background(locked.values())
    return locked


def _mark_durable_in_background(entries: Iterable[Entry]) -> None:
    """Let a process without parent wait for the disk: a thread would delay the end of this one."""
    if not hasattr(os, "fork"):
        return
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        if os.fork() == 0:
            os.closerange(0, 256)  # a reader of our output waits until every writer closed it
            for entry in entries:
                entry.mark_durable()
    finally:
        os._exit(0)


def raise_refusals(results: list[CheckResult]) -> None:
    """Raise WrongMachine if a check failed, with a line for each that did."""
    lines = [result.line() for result in refusals(results)]
    if lines:
        raise WrongMachine("\n".join(lines))


def choose_root(path: str, wanted: list[Payload]) -> str:
    """Return the first root with space for these payloads; raises WrongMachine if none has."""
    reasons = reasons_unusable(path, wanted)
    for root, reason in reasons.items():
        if not reason:
            return root
    joined = "; ".join(reasons.values())
    raise WrongMachine(
        f"nowhere to unpack to: {joined}; name a folder by --root DIR or KUWA_MIN_ROOT, of your "
        f"own, on a disk with {size_text(sum(map(bytes_needed, wanted)))} free"
    )


def reasons_unusable(path: str, wanted: list[Payload]) -> dict[str, str]:
    """Return every root of this file, and why these payloads cannot be unpacked there, or ""."""
    size, inodes = sum(map(bytes_needed, wanted)), sum(map(_inodes_needed, wanted))
    runs_code = any(payload["kind"] == "libraries" for payload in wanted)
    return {
        root: reason_unusable(root, size, inodes, runs_code=runs_code) for root in cache_roots(path)
    }


def _inodes_needed(payload: Payload) -> int:
    """Return an upper bound of the files and folders that a payload becomes."""
    return payload["files"] + payload["folders"] + EXTRA_INODES


def bytes_needed(payload: Payload) -> int:
    """Return an upper bound of the bytes that a payload takes on disk."""
    return payload["bytes"] + payload["files"] * BLOCK


def _unpack_entry(
    archive: Archive, payload: Payload, entry: Entry, umask: int, log_step: LogStep
) -> None:
    """Unpack a payload and publish the entry; the caller holds the exclusive lock."""
    what = f"{payload['kind']} ({size_text(payload['bytes'])}, {payload['files']:,} files)"
    log_step(f"unpacking {what} to {entry.path}; this is done once")
    progress = Progress(f"unpacking {payload['kind']}")
    try:
        with _sigterm_exits(), entry.staging_folder(umask) as folder:
            tree = os.path.join(folder, "tree")
            os.mkdir(tree)
            extract_payload(archive, payload, tree, progress)
    except OSError as error:
        raise StartError(f"cannot unpack to {entry.path}: {error.strerror}") from None
    finally:
        seconds = progress.end()
    log_step(f"unpacked in {seconds:.1f} s")


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Raise SystemExit at SIGTERM, so that the staging folder is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def repair(path: str, kind: str, entry: Entry, log_step: LogStep) -> int:
    """Rewrite the files of an entry that are missing or of a wrong size; return their number."""
    return _repair(path, kind, entry, find_damaged, log_step)


def repair_corrupted(path: str, kind: str, entry: Entry, log_step: LogStep) -> int:
    """Rewrite every file of an entry whose content is wrong, reading all; return their number."""
    progress = Progress(f"checking the {kind} that were unpacked")

    def find(tree: str, index: Index) -> list[File]:
        return find_corrupted(tree, index, progress)

    repaired = _repair(path, kind, entry, find, log_step)
    progress.end()
    if entry.may_be_torn:
        entry.mark_durable()
    return repaired


def _repair(path: str, kind: str, entry: Entry, find: Find, log_step: LogStep) -> int:
    archive = Archive(path)
    payload = next(payload for payload in archive.payloads if payload["kind"] == kind)
    bad = find(entry.tree, archive.index(payload))
    if not bad:
        return 0
    others = f" and {len(bad) - 1} others" if bad[1:] else ""
    found = f"{bad[0].path}{others} in {entry.tree}: missing or damaged"
    try:
        rewrite(archive, payload, entry.tree, bad)
    except OSError as error:
        raise StartError(f"{found}; cannot be put back: {error.strerror}") from None
    log_step(f"{found}; put back")
    return len(bad)


def unpack_to(path: str, folder: str, log_step: LogStep) -> list[Entry]:
    """Unpack everything to a folder that becomes a root for --root, readable by all users."""
    archive = Archive(path)
    root = os.path.abspath(folder)
    missing = [one for one in archive.payloads if not Entry(root, one["id"]).is_complete]
    size, inodes = sum(map(bytes_needed, missing)), sum(map(_inodes_needed, missing))
    reason = reason_unusable(root, size, inodes, runs_code=False) if missing else ""
    if reason:
        raise WrongMachine(f"cannot unpack there: {reason}")
    former = os.umask(PUBLIC)
    try:
        os.makedirs(root, exist_ok=True)
    finally:
        os.umask(former)
    entries = [Entry(root, payload["id"]) for payload in archive.payloads]
    for payload, entry in zip(archive.payloads, entries, strict=True):
        entry.ensure_trusted(log_step)
        with entry.lock_to_unpack(log_step) as is_missing:
            if is_missing:
                _unpack_entry(archive, payload, entry, PUBLIC, log_step)
                entry.mark_durable()
    return entries

"""Unpack what this file carries into the cache, after the machine was found fit; mend it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

from .archive import Archive, File, Index
from .cache import Entry, prune
from .errors import StartError, WrongMachine
from .manifest import Payload, size_text
from .payload import deep_faults, faults, unpack, write_anew
from .places import make_root, obstacle, places
from .progress import Progress, tell
from .verdict import Finding, judge_machine, refusals

FIXED = 6  # inodes of an entry besides its files: itself, tree, lock, two marks, the root
BLOCK = 4096  # bytes that a file system rounds a file up to
PRIVATE, PUBLIC = 0o077, 0o022  # umasks


def provide(path: str, keys: Mapping[str, str]) -> dict[str, Entry]:
    """Unpack the payloads of these kinds and keys where they are missing; hold their entries."""
    archive = Archive(path)
    require(judge_machine(archive.manifest["built_for"]))
    wanted = [payload for payload in archive.payloads if payload["kind"] in keys]
    root = choose_root(path, wanted)
    make_root(root)
    Entry(root, "").check()  # somebody may have been faster
    held = {}
    for payload in wanted:
        held[payload["kind"]] = entry = Entry(root, payload["id"])
        entry.check()
        while not (entry.is_complete and entry.hold()):
            entry.release()
            with entry.alone(tell):
                if not entry.is_complete:
                    _fill(archive, payload, entry, PRIVATE)
    prune(root)
    _settle_aside(held.values())
    return held


def _settle_aside(entries: Iterable[Entry]) -> None:
    """Let an orphan wait for the disk: a thread that does would keep the process from ending.

    Until it is done, a crash of the machine means that the next start checks every byte.
    """
    if not hasattr(os, "fork"):
        return
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        if os.fork() == 0:
            os.closerange(0, 256)  # whoever reads our output waits for its last writer
            for entry in entries:
                entry.settle()
    finally:
        os._exit(0)


def require(findings: list[Finding]) -> None:
    """Raise WrongMachine, a line for each thing that is not as the file needs it."""
    lines = [finding.line() for finding in refusals(findings)]
    if lines:
        raise WrongMachine("\n".join(lines))


def choose_root(path: str, wanted: list[Payload]) -> str:
    """Return the first place that can take these payloads; raises WrongMachine saying why none."""
    reasons = obstacles(path, wanted)
    for root, reason in reasons.items():
        if not reason:
            return root
    told = "; ".join(reasons.values())
    raise WrongMachine(
        f"nowhere to unpack to: {told}; name a folder by --root DIR or KUWA_MIN_ROOT, of your own, "
        f"on a disk with {size_text(sum(map(room, wanted)))} free"
    )


def obstacles(path: str, wanted: list[Payload]) -> dict[str, str]:
    """Say for every place where these payloads could go why they cannot, or ""."""
    size, inodes = sum(map(room, wanted)), sum(map(_inodes, wanted))
    runs = any(payload["kind"] == "libraries" for payload in wanted)
    return {root: obstacle(root, size, inodes, runs=runs) for root in places(path)}


def _inodes(payload: Payload) -> int:
    """Return how many files and folders a payload is, a little too many."""
    return payload["files"] + payload["folders"] + FIXED


def room(payload: Payload) -> int:
    """Return the bytes that a payload takes on disk, a little too many."""
    return payload["bytes"] + payload["files"] * BLOCK


def _fill(archive: Archive, payload: Payload, entry: Entry, umask: int) -> None:
    """Unpack into a fresh folder and make that the entry; leave nothing behind on failure."""
    what = f"{payload['kind']} ({size_text(payload['bytes'])}, {payload['files']:,} files)"
    tell(f"unpacking {what} to {entry.path}; this is done once")
    progress = Progress(f"unpacking {payload['kind']}")
    try:
        with _clean_end(), entry.fresh_folder(umask) as folder:
            tree = os.path.join(folder, "tree")
            os.mkdir(tree)
            unpack(archive, payload, tree, progress)
    except OSError as error:
        raise StartError(f"cannot unpack to {entry.path}: {error.strerror}") from None
    finally:
        seconds = progress.end()
    tell(f"unpacked in {seconds:.1f} s")


@contextlib.contextmanager
def _clean_end() -> Iterator[None]:
    """Let SIGTERM end this as Ctrl-C does: nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def mend(path: str, kind: str, entry: Entry) -> int:
    """Put back the files that are missing or of a wrong size; return how many those were."""
    return _mend(path, kind, entry, faults)


def mend_deeply(path: str, kind: str, entry: Entry) -> int:
    """Put back every file whose content is wrong; reads them all."""
    progress = Progress(f"checking the {kind} that were unpacked")
    mended = _mend(path, kind, entry, lambda tree, index: deep_faults(tree, index, progress))
    progress.end()
    if entry.survived_a_crash:
        entry.settle()
    return mended


def _mend(path: str, kind: str, entry: Entry, look: Callable[[str, Index], list[File]]) -> int:
    archive = Archive(path)
    payload = next(payload for payload in archive.payloads if payload["kind"] == kind)
    bad = look(entry.tree, archive.index(payload))
    if not bad:
        return 0
    others = f" and {len(bad) - 1} others" if bad[1:] else ""
    found = f"{bad[0].path}{others} in {entry.tree}: missing or damaged"
    try:
        write_anew(archive, payload, entry.tree, bad)
    except OSError as error:
        raise StartError(f"{found}; cannot be put back: {error.strerror}") from None
    tell(f"{found}; put back")
    return len(bad)


def unpack_to(path: str, folder: str) -> list[Entry]:
    """Unpack everything to a folder that becomes a root for --root, readable by all users."""
    archive = Archive(path)
    root = os.path.abspath(folder)
    missing = [one for one in archive.payloads if not Entry(root, one["id"]).is_complete]
    inodes = sum(map(_inodes, missing))
    reason = obstacle(root, sum(map(room, missing)), inodes, runs=False) if missing else ""
    if reason:
        raise WrongMachine(f"cannot unpack there: {reason}")
    former = os.umask(PUBLIC)
    try:
        os.makedirs(root, exist_ok=True)
    finally:
        os.umask(former)
    entries = [Entry(root, payload["id"]) for payload in archive.payloads]
    for payload, entry in zip(archive.payloads, entries, strict=True):
        entry.check()
        with entry.alone(tell):
            if not entry.is_complete:
                _fill(archive, payload, entry, PUBLIC)
                entry.settle()
    return entries

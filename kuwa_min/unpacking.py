"""Unpack what this file carries into the cache, after the machine was found fit; mend it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

from .archive import Archive, File, Index
from .cache import Entry, make_root, obstacle, places, prune
from .errors import StartError, WrongMachine
from .manifest import Payload, size_text
from .payload import deep_faults, faults, unpack, write_anew
from .progress import Progress, tell
from .verdict import Finding, judge_machine, refusals

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
        while not entry.hold():
            with entry.alone(tell):
                if not entry.is_complete:
                    _fill(archive, payload, entry, PRIVATE)
    prune(root)
    threading.Thread(target=_settle, args=(list(held.values()),), daemon=True).start()
    return held


def _settle(entries: list[Entry]) -> None:
    """Wait for the disk beside the start; until then a crash of the machine means a check."""
    for entry in entries:
        entry.settle()


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
        f"nowhere to unpack to: {told}; name a folder by --root DIR or KUWA_ROOT, of your own, "
        f"on a disk with {size_text(sum(map(room, wanted)))} free"
    )


def obstacles(path: str, wanted: list[Payload]) -> dict[str, str]:
    """Say for every place where these payloads could go why they cannot, or ""."""
    size, files = sum(map(room, wanted)), sum(payload["files"] for payload in wanted)
    runs = any(payload["kind"] == "libraries" for payload in wanted)
    return {root: obstacle(root, size, files, runs=runs) for root in places(path)}


def room(payload: Payload) -> int:
    """Return the bytes that a payload takes on disk, a little too many."""
    return payload["bytes"] + payload["files"] * BLOCK


def _fill(archive: Archive, payload: Payload, entry: Entry, umask: int) -> None:
    """Unpack into a fresh folder and make that the entry; leave nothing behind on failure."""
    what = f"{payload['kind']} ({size_text(payload['bytes'])}, {payload['files']:,} files)"
    tell(f"unpacking {what} to {entry.path}; this is done once")
    progress = Progress(f"unpacking {payload['kind']}")
    try:
        with entry.fresh_folder(umask) as folder:
            tree = os.path.join(folder, "tree")
            os.mkdir(tree)
            unpack(archive, payload, tree, progress)
    except OSError as error:
        raise StartError(f"cannot unpack to {entry.path}: {error.strerror}") from None
    finally:
        seconds = progress.end()
    tell(f"unpacked in {seconds:.1f} s")


def mend(path: str, kind: str, entry: Entry) -> int:
    """Put back the files that are missing or of a wrong size; return how many those were."""
    return _mend(path, kind, entry, faults)


def mend_deeply(path: str, kind: str, entry: Entry) -> int:
    """Put back every file whose content is wrong; reads them all."""
    progress = Progress("checking what was unpacked before the machine crashed")
    mended = _mend(path, kind, entry, lambda tree, index: deep_faults(tree, index, progress))
    progress.end()
    entry.settle()
    return mended


def _mend(path: str, kind: str, entry: Entry, look: Callable[[str, Index], list[File]]) -> int:
    archive = Archive(path)
    payload = next(payload for payload in archive.payloads if payload["kind"] == kind)
    bad = look(entry.tree, archive.index(payload))
    if not bad:
        return 0
    found = f"{len(bad)} files in {entry.tree} were missing or damaged, {bad[0].path} among them"
    try:
        write_anew(archive, payload, entry.tree, bad)
    except OSError as error:
        raise StartError(f"{found}; they cannot be put back: {error.strerror}") from None
    tell(f"{found}; put back")
    return len(bad)


def unpack_to(path: str, folder: str) -> list[Entry]:
    """Unpack everything to a folder that becomes a root for --root, readable by all users."""
    archive = Archive(path)
    root = os.path.abspath(folder)
    os.makedirs(root, mode=0o755, exist_ok=True)
    entries = [Entry(root, payload["id"]) for payload in archive.payloads]
    for payload, entry in zip(archive.payloads, entries, strict=True):
        entry.check()
        with entry.alone(tell):
            if not entry.is_complete:
                _fill(archive, payload, entry, PUBLIC)
                entry.settle()
    return entries

"""Where the cache may lie: private, on a disk that suits. Asks before anything is written."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

ROOT_VARIABLE = "KUWA_MIN_ROOT"  # KUWA_ROOT is Kuwa's: its images set it to a shared folder
FOLDER = "kuwa"  # below a user's cache folder
BESIDE = ".kuwa"  # beside the file
TAG = "CACHEDIR.TAG"
TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Libraries unpacked by kuwa-min.\n"
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def places(archive: str) -> list[str]:
    """Return the folders that could be the cache of this file, best first."""
    asked = os.environ.get(ROOT_VARIABLE)
    if asked:
        return [os.path.abspath(asked)]
    base = _user_cache()
    beside = os.path.join(os.path.dirname(os.path.abspath(archive)), BESIDE)
    return [*([os.path.join(base, FOLDER)] if base else []), beside]


def is_asked_for() -> bool:
    """Tell whether somebody named the folder; then there is no other."""
    return bool(os.environ.get(ROOT_VARIABLE))


def _user_cache() -> str:
    """Return the user's cache folder; "" when there is none: HOME may be empty or unknown."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.path.expanduser("~")
        base = "" if home == "/" else os.path.join(home, ".cache")
    return base if os.path.isabs(base) else ""


def intruders(path: str) -> str:
    """Say who else could change what lies at this path, or "": only root and we may.

    A folder on the way that all may write to is allowed if it is sticky, as /tmp is: what we own in
    there stays ours. Folders that do not exist yet are no danger.
    """
    real = os.path.realpath(path)
    me = os.geteuid() if hasattr(os, "geteuid") else 0
    for folder, is_last in [(real, True), *((one, False) for one in _parents(real))]:
        try:
            status = os.lstat(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{folder} cannot be looked at ({error.strerror})"
        owner = status.st_uid
        if owner not in (me, 0) and (is_last or owner != _strangers()):
            return f"{folder} belongs to user {owner}"
        if status.st_mode & OTHERS_WRITE and (is_last or not status.st_mode & stat.S_ISVTX):
            return f"others may write to {folder}"
    return ""


def _strangers() -> int:
    """Return the user whom root and all others outside of our user namespace appear as; -1 if none.

    In a rootless container, / itself belongs to that one.
    """
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/uid_map") as file:
            if file.read().split() == ["0", "0", "4294967295"]:
                return -1
        with open("/proc/sys/kernel/overflowuid") as file:
            return int(file.read())
    return -1


def _parents(path: str) -> Iterator[str]:
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        yield path


def make_root(root: str) -> None:
    """Make the cache's folder, for us alone, whatever the umask."""
    former = os.umask(0o077)
    try:
        os.makedirs(root, exist_ok=True)  # what is missing above it too; others may be as fast
    finally:
        os.umask(former)
    tag = os.path.join(root, TAG)
    if not os.path.exists(tag):
        with open(tag, "w", encoding="ascii") as file:
            file.write(TAG_TEXT)


def obstacle(root: str, needed_bytes: int, needed_files: int, *, runs: bool) -> str:
    """Say why nothing can be unpacked here, or "". runs: whether code will be run from it."""
    base = _nearest(root)
    if not os.path.isdir(base):
        return f"{base} is not a folder"
    found = intruders(root)
    if found:
        return f"{found}; what others could change is not run"
    if not os.access(base, os.W_OK | os.X_OK):
        return f"{base} cannot be written to"
    status = os.statvfs(base)
    if runs and status.f_flag & getattr(os, "ST_NOEXEC", 8):
        return f"{base} is mounted noexec: no library can be loaded from it"
    free = status.f_bavail * status.f_frsize
    if free < needed_bytes:
        from .manifest import size_text

        return f"{size_text(needed_bytes)} are needed and {size_text(free)} are free at {base}"
    if status.f_files > 0 and status.f_favail < needed_files:  # btrfs counts no inodes: 0
        return f"{needed_files:,} inodes are needed and {status.f_favail:,} are free at {base}"
    return ""


def _nearest(path: str) -> str:
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path

"""Choose the cache's root folder: private to this user, on a disk with space; writes nothing else.

A root is checked before anything is written to it.
"""

from __future__ import annotations

import os

from .trust import reason_untrusted

ROOT_VARIABLE = "KUWA_MIN_ROOT"  # KUWA_ROOT is Kuwa's: its images set it to a shared folder
FOLDER = "kuwa"  # below a user's cache folder
BESIDE = ".kuwa"  # beside the file
TAG = "CACHEDIR.TAG"
TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Libraries unpacked by kuwa-min.\n"


def cache_roots(archive: str) -> list[str]:
    """Return the folders that may be the cache of this file, in order of preference."""
    explicit = os.environ.get(ROOT_VARIABLE)
    if explicit:
        return [os.path.abspath(explicit)]
    base = _user_cache()
    beside = os.path.join(os.path.dirname(os.path.abspath(archive)), BESIDE)
    return [*([os.path.join(base, FOLDER)] if base else []), beside]


def is_explicit() -> bool:
    """Tell whether the user named the root, by --root or the variable; then it is the only one."""
    return bool(os.environ.get(ROOT_VARIABLE))


def _user_cache() -> str:
    """Return the user's cache folder; "" without one: HOME may be empty or unknown."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.path.expanduser("~")
        base = "" if home == "/" else os.path.join(home, ".cache")
    return base if os.path.isabs(base) else ""


def create_root(root: str) -> None:
    """Create the cache folder and the folders above it, for this user alone, whatever the umask."""
    former = os.umask(0o077)
    try:
        os.makedirs(root, exist_ok=True)  # another process may do the same now
    finally:
        os.umask(former)
    tag = os.path.join(root, TAG)
    if not os.path.exists(tag):
        with open(tag, "w", encoding="ascii") as file:
            file.write(TAG_TEXT)


def reason_unusable(root: str, needed_bytes: int, needed_inodes: int, *, runs_code: bool) -> str:
    """Say why nothing can be unpacked to this root, or "".

    runs_code: whether shared libraries will be loaded from it.
    """
    base = _nearest_existing(root)
    if not os.path.isdir(base):
        return f"{base} is not a folder"
    found = reason_untrusted(root)
    if found:
        return f"{found}; what others could change is not run"
    if not os.access(base, os.W_OK | os.X_OK):
        return f"{base} cannot be written to"
    status = os.statvfs(base)
    if runs_code and status.f_flag & getattr(os, "ST_NOEXEC", 8):
        return f"{base} is mounted noexec: no library can be loaded from it"
    free = status.f_bavail * status.f_frsize
    if free < needed_bytes:
        from .manifest import size_text

        return f"{size_text(needed_bytes)} are needed and {size_text(free)} are free at {base}"
    if status.f_files > 0 and status.f_favail < needed_inodes:  # btrfs counts no inodes: 0
        return f"{needed_inodes:,} inodes are needed and {status.f_favail:,} are free at {base}"
    return ""


def _nearest_existing(path: str) -> str:
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path

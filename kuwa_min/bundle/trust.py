"""Decide what may be run or obeyed of what lies on the disk, unless the operator named it.

Trusted is what no other user could have put there or changed: the path itself, every folder above
it and every link on the way belong to this user or root, and no other user may write to them. A
folder above that all may write to is allowed if it is sticky, as /tmp is: others cannot replace
what this user owns in there.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
OTHERS_ENTER = stat.S_IXGRP | stat.S_IXOTH
MAX_LINKS = 40  # on one path, as Linux has it
ROOT = 0


def reason_untrusted(path: str, owners: tuple[int, ...] = ()) -> str:
    """Say which other user could change what lies at this path, or "": only root and this user can.

    owners: user ids that are trusted besides. What does not exist yet is skipped.
    """
    if not hasattr(os, "geteuid"):
        return ""  # Windows: its modes say nothing about other users
    trusted = {ROOT, os.geteuid(), *owners}
    strangers = _overflow_uid()  # may own what is above, as / in a rootless container
    last = os.path.realpath(path)
    is_shared = False  # whether others may write to the folder that the step lies in
    for step in _steps(os.path.abspath(path)):
        try:
            status = os.lstat(step)
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{step} cannot be looked at ({error.strerror})"
        is_above = step != last and not is_shared
        if status.st_uid not in trusted and not (is_above and status.st_uid == strangers):
            return f"{step} belongs to user {status.st_uid}"
        if stat.S_ISLNK(status.st_mode):
            continue  # its mode has no meaning
        is_shared = _others_write(status)
        if is_shared and (step == last or not status.st_mode & stat.S_ISVTX):
            return f"others may write to {step}"
    return ""


def _steps(path: str) -> Iterator[str]:
    """Yield the folders and links that the system passes on the way to an absolute path, and it."""
    here, waiting, links = os.sep, path.split(os.sep)[::-1], 0
    yield here
    while waiting:
        name = waiting.pop()
        if name in ("", os.curdir):
            continue
        if name == os.pardir:
            here = os.path.dirname(here)
            continue
        here = os.path.join(here, name)
        yield here
        with contextlib.suppress(OSError):  # not a link, or nothing
            target = os.readlink(here)
            links += 1
            if links > MAX_LINKS:
                return
            here = os.sep if os.path.isabs(target) else os.path.dirname(here)
            waiting += target.split(os.sep)[::-1]


def _others_write(status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _has_private_group(status)


def _has_private_group(status: os.stat_result) -> bool:
    """Tell whether a group is its owner's alone: of the owner's name, with no other member.

    Many systems give each user such a group and the umask 002; pam_umask knows it by the same sign.
    """
    if status.st_uid == ROOT:
        return False
    with contextlib.suppress(ImportError, KeyError):
        import grp
        import pwd

        user, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
        is_own = (user.pw_gid, user.pw_name) == (group.gr_gid, group.gr_name)
        return is_own and set(group.gr_mem) <= {user.pw_name}
    return False


def _overflow_uid() -> int:
    """Return the uid that stands for all users outside of this user namespace; -1 if none does."""
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/uid_map") as file:
            if file.read().split() == ["0", "0", "4294967295"]:
                return -1
        with open("/proc/sys/kernel/overflowuid") as file:
            return int(file.read())
    return -1


def others_may_enter(folder: str) -> bool:
    """Tell whether other users can reach what lies in a folder."""
    return bool(os.stat(folder).st_mode & OTHERS_ENTER)


def untrusted_folders(tree: str) -> Iterator[tuple[str, str]]:
    """Yield each folder of a tree that another user could add files to, and the reason.

    Goes into none of them. The folders above the tree are the caller's to check.
    """
    trusted, waiting = (ROOT, os.geteuid()) if hasattr(os, "geteuid") else (), [tree]
    while waiting and trusted:
        folder = waiting.pop()
        status = os.lstat(folder)
        if status.st_uid not in trusted:
            yield folder, f"{folder} belongs to user {status.st_uid}"
        elif _others_write(status):
            yield folder, f"others may write to {folder}"
        else:
            with os.scandir(folder) as found:
                waiting += [one.path for one in found if one.is_dir(follow_symlinks=False)]

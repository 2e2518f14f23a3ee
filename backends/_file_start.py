"""Tell by a file's first bytes that it is not what its name says; knows no format of weights."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kuwa_min.errors import UsageError

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
LFS_SIZE = re.compile(rb"^size (\d{1,18})\s*$", re.MULTILINE)
HEAD = 1024  # bytes: a pointer is shorter, and a web page says in fewer that it is one
BEFORE_TEXT = b"\xef\xbb\xbf \t\r\n"  # a byte order mark and white space
WEB_PAGES = (b"<!doctype html", b"<html", b"<?xml")  # a login page; a server's error
LONGEST_JSON = 100_000_000  # bytes; the largest models' index files have nine million
LONGEST_NAME, MOST_NAMES = 100, 4  # what a sentence quotes


class Unusable(UsageError):
    """Say what is wrong with a file; its name stands before this message."""


def check_start(path: Path) -> bytes:
    """Return a file's first bytes; raises Unusable if it is no file, or a stand-in for one."""
    head = _read_head(path)
    if not head:
        raise Unusable("is empty; copy it again")
    check_head(head, path.stat().st_size)
    return head


def check_head(head: bytes, size: int) -> None:
    """Raise Unusable if a file of this many bytes begins like a pointer or a web page."""
    if head.startswith(LFS_POINTER):
        stated = LFS_SIZE.search(head)
        needed = f"{int(stated[1]):,} bytes are needed, {size:,} found; " if stated else ""
        raise Unusable(
            f"is a Git-LFS pointer, not the file itself: {needed}"
            "`git lfs pull` on a connected machine fetches it"
        )
    if head.lstrip(BEFORE_TEXT).lower().startswith(WEB_PAGES):
        raise Unusable(
            f"is a web page of {size:,} bytes, not the file itself: "
            "perhaps a login was needed to fetch it; fetch it again"
        )


def check_stand_in(path: Path) -> None:
    """Raise Unusable as check_start does, but for a file that may be empty."""
    check_head(_read_head(path), path.stat().st_size)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raises Unusable saying why there is none."""
    check_start(path)
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST_JSON + 1)
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from None
    if len(text) > LONGEST_JSON:
        raise Unusable(f"is longer than {LONGEST_JSON:,} bytes: it cannot be what its name says")
    return json_object(text)


def json_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object of this text; raises Unusable saying why there is none."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} in line {error.lineno}"
    except (ValueError, RecursionError):  # not UTF-8, a number of 5,000 digits; nested too deep
        reason = "it cannot be read at all"
    else:
        if isinstance(found, dict):
            return found
        reason = "it is no {...}"
    raise Unusable(f"is no JSON object: {reason}; copy it again") from None


def check_size(needed: int, found: int) -> None:
    """Raise Unusable if fewer bytes are there than are needed."""
    if found < needed:
        raise Unusable(
            f"is truncated: {needed:,} bytes are needed, {found:,} are there; copy it again"
        )


def shown(name: str) -> str:
    """Return a name that a stranger chose, fit for a line: short, without control characters."""
    short = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
    return short if short.isprintable() else ascii(short)


def listed(names: Sequence[str]) -> str:
    """Return the first of these names, and how many more there are."""
    more = len(names) - MOST_NAMES
    first = ", ".join(shown(name) for name in names[:MOST_NAMES])
    return f"{first} and {more} more" if more > 0 else first


def _read_head(path: Path) -> bytes:
    try:
        if not path.is_file():  # whoever opens a pipe waits for ever
            raise Unusable(_no_file(path))
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from None


def _no_file(path: Path) -> str:
    if path.exists():
        return "is a folder, not a file" if path.is_dir() else "is no ordinary file"
    if path.is_symlink():
        target = shown(str(path.readlink()))
        return f"is a link to {target}, which leads nowhere; copy the file itself"
    return "is missing"

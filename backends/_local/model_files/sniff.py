"""Detect by its first bytes that a file is not what its name says: a placeholder, a web page.

Knows no format of weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kuwa_min.errors import UsageError
from kuwa_min.options.text_file import InvalidTextFile, decode

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
LFS_SIZE = re.compile(rb"^size (\d{1,18})\s*$", re.MULTILINE)
HEAD = 1024  # bytes: a pointer is shorter, and a web page is recognized by fewer
LEADING = b"\xef\xbb\xbf \t\r\n"  # a byte order mark and white space
WEB_PAGES = (b"<!doctype html", b"<html", b"<?xml")  # a login page; a server's error
MAX_TEXT = 100_000_000  # bytes; the largest models' index files have nine million
MAX_NAME = 100  # characters of a name in a message
MAX_NAMES = 4  # names in a message


class InvalidModelFile(UsageError):
    """Report what is wrong with a file; the catcher puts the file's name before it."""


def read_head(path: Path) -> bytes:
    """Return a file's first bytes; raises InvalidModelFile if it is empty, or a placeholder."""
    head = _read_head(path)
    if not head:
        raise InvalidModelFile("is empty; copy it again")
    check_no_placeholder(head, path.stat().st_size)
    return head


def check_no_placeholder(head: bytes, size: int) -> None:
    """Raise InvalidModelFile if a file begins like a Git-LFS pointer or a web page.

    head: its first bytes; size: in bytes.
    """
    if head.startswith(LFS_POINTER):
        stated = LFS_SIZE.search(head)
        needed = f"{int(stated[1]):,} bytes are needed, {size:,} found; " if stated else ""
        raise InvalidModelFile(
            f"is a Git-LFS pointer, not the file itself: {needed}"
            "`git lfs pull` on a connected machine fetches it"
        )
    if head.lstrip(LEADING).lower().startswith(WEB_PAGES):
        raise InvalidModelFile(
            f"is a web page of {size:,} bytes, not the file itself: "
            "perhaps a login was needed to fetch it; fetch it again"
        )


def check_small_file(path: Path) -> None:
    """Raise InvalidModelFile as read_head() does, but not for an empty file."""
    check_no_placeholder(_read_head(path), path.stat().st_size)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; raises InvalidModelFile if there is none."""
    read_head(path)
    return json_object(decoded(read_bytes(path)))


def read_bytes(path: Path) -> bytes:
    """Return the content of a file that holds text; raises InvalidModelFile."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise InvalidModelFile(f"cannot be read: {error.strerror}") from None
    if len(data) > MAX_TEXT:
        raise InvalidModelFile(
            f"is longer than {MAX_TEXT:,} bytes: it cannot be what its name says"
        )
    return data


def decoded(data: bytes) -> str:
    """Return the text of a file that people write; raises InvalidModelFile if it is none."""
    try:
        return decode(data)
    except InvalidTextFile as error:
        raise InvalidModelFile(str(error)) from None


def json_object(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object; raises InvalidModelFile if the text is something else."""
    found = parse_json(text)
    if isinstance(found, dict):
        return found
    raise InvalidModelFile("is no JSON object: it is no {...}; copy it again")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; raises InvalidModelFile."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        is_cut_off = error.pos >= len(error.doc.rstrip())
        remedy = (
            "it is cut off; copy it again" if is_cut_off else "mend that line, or copy it again"
        )
        reason = f"{error.msg} in line {error.lineno}; {remedy}"
    except (ValueError, RecursionError):  # not UTF-8, a number of 5,000 digits; nested too deep
        reason = "it cannot be read at all; copy it again"
    raise InvalidModelFile(f"is no JSON object: {reason}") from None


def check_size(needed: int, found: int) -> None:
    """Raise InvalidModelFile if a file has fewer bytes than are needed."""
    if found < needed:
        raise InvalidModelFile(
            f"is truncated: {needed:,} bytes are needed, {found:,} are there; copy it again"
        )


def printable(name: str) -> str:
    """Return an untrusted name for a message: short, and without control characters."""
    short = name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."
    return short if short.isprintable() else ascii(short)


def join_names(names: Sequence[str]) -> str:
    """Join the first names for a message, with the number of the others."""
    more = len(names) - MAX_NAMES
    first = ", ".join(printable(name) for name in names[:MAX_NAMES])
    return f"{first} and {more} more" if more > 0 else first


def _read_head(path: Path) -> bytes:
    try:
        if not path.is_file():  # opening a pipe would block
            raise InvalidModelFile(_not_a_file(path))
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise InvalidModelFile(f"cannot be read: {error.strerror}") from None


def _not_a_file(path: Path) -> str:
    if path.exists():
        return "is a folder, not a file" if path.is_dir() else "is no ordinary file"
    if path.is_symlink():
        target = printable(str(path.readlink()))
        return f"is a link to {target}, which leads nowhere; copy the file itself"
    return "is missing"

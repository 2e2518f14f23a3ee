"""Recognise the pieces of a GGUF file that was split by its size, as `split -b` does.

Only the first piece begins as the file does, and it is cut off; joined in order they are the file.
(Parts that llama.cpp's llama-gguf-split makes are another matter: each is a file of its own.)
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from .gguf_header import MAGIC, read_header
from .sniff import InvalidModelFile, printable

# Names of pieces: what precedes the counter, the counter, what follows.
NUMBERS = re.compile(r"(.*?\D|)(\d{1,5})((?:[-_.]?of[-_.]?\d+)?(?:\.gguf)?)", re.DOTALL)
LETTERS = re.compile(r"(.*[^a-z]|x)([a-z]{1,2})()", re.DOTALL)  # xaa, xab is split's default
MARK = re.compile(r"[-._]*(?:part|split|piece|chunk)?[-._]*$", re.IGNORECASE)
UNNAMED = ("", "x")
SHOWN = 8  # names in the command


def advice(path: Path) -> str:
    """Return what to do with a file that is a piece of a GGUF file; "" if it is none."""
    for start, found in _groups(path):
        first, *others = found
        if others and _begins(first) and not any(map(_begins, others)):
            return _advice(start, found)
        if _is_marked(start) and not any(map(_begins, found)):
            return (
                "is, by its name, a later piece of a file that was split by its size; bring all "
                "pieces into one folder and join them in order, the one that begins with GGUF first"
            )
    return ""


def find(folder: Path, names: Sequence[str]) -> str:
    """Return the name of a folder's first piece, and what to do with it; "" if there is none."""
    for name in names:
        if _begins(folder / name) and (said := advice(folder / name)):
            return f"{printable(name)} {said}"
    return ""


def _groups(path: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield the files whose names differ from this one's in their counter, in its order.

    Before each group stands what precedes the counter.
    """
    for pattern in (NUMBERS, LETTERS):
        named = pattern.fullmatch(path.name)
        if not named:
            continue
        alike: list[tuple[int, str, Path]] = []
        for one in path.parent.iterdir():
            match = pattern.fullmatch(one.name)
            if match and (match[1], match[3]) == (named[1], named[3]) and one.is_file():
                alike.append((int(match[2]) if match[2].isdecimal() else 0, match[2], one))
        yield named[1], [one for *_, one in sorted(alike)]


def _is_marked(start: str) -> bool:
    """Tell whether a name says before its counter that it is a piece."""
    mark = MARK.search(start)
    return bool(mark and mark[0].strip("-._"))


def _begins(path: Path) -> bool:
    """Tell whether a file begins as a GGUF file does."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _advice(start: str, pieces: list[Path]) -> str:
    found, needed = sum(one.stat().st_size for one in pieces), _needed(pieces[0])
    if found < needed:
        return (
            f"is one of {len(pieces)} pieces of a file that was split by its size, and a piece is "
            f"missing or cut off: {needed:,} bytes are needed, they have {found:,}"
        )
    names = [shlex.quote(one.name) for one in pieces]
    names = names if len(names) <= SHOWN else [*names[:2], "...", names[-1]]
    stem = MARK.sub("", start).removesuffix(".gguf")
    whole = shlex.quote(f"{'model' if stem in UNNAMED else stem}.gguf")
    command = f"copy /b {'+'.join(names)}" if os.name == "nt" else f"cat {' '.join(names)} >"
    return (
        f"is one of {len(pieces)} pieces of a file that was split by its size; join them in "
        f"their folder: `{command} {whole}`, and give {whole}"
    )


def _needed(first: Path) -> int:
    """Return the bytes of the whole file; 0 if its header is not in its first piece."""
    size = first.stat().st_size
    try:
        with first.open("rb") as file:
            file.seek(len(MAGIC))
            return read_header(file, size).needed
    except InvalidModelFile:
        return 0

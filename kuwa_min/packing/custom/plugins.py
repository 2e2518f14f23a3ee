"""Find the backends that wheels bring by the entry point group kuwa_min.backends."""

from __future__ import annotations

import configparser
import zlib
from collections.abc import Iterable
from email.parser import HeaderParser

from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels.wheel import PayloadFile
from kuwa_min.registry import GROUP, names

from .executor_files import TAKEN

ENTRY_POINTS, METADATA = ".dist-info/entry_points.txt", ".dist-info/METADATA"


def find_plugins(files: Iterable[PayloadFile]) -> dict[str, str]:
    """Return the backends of wheels: name -> the summary of its package; raises UsageError."""
    known = {file.path: file for file in files if file.path.endswith((ENTRY_POINTS, METADATA))}
    found: dict[str, str] = {}
    for path in sorted(known):
        package = path.removesuffix(ENTRY_POINTS)
        for name in _names(_text(known[path])) if path.endswith(ENTRY_POINTS) else ():
            if name in (*found, *names(), *TAKEN):
                raise UsageError(f"{package}: its backend {name} has the name of another one")
            found[name] = _summary(known.get(package + METADATA)) or package
    return found


def _names(text: str) -> list[str]:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(text)
        return [*parser[GROUP]] if GROUP in parser else []
    except configparser.Error:
        return []


def _summary(metadata: PayloadFile | None) -> str:
    text = _text(metadata) if metadata else ""
    return str(HeaderParser().parsestr(text, headersonly=True)["Summary"] or "")


def _text(file: PayloadFile) -> str:
    with file.source.open("rb") as source:
        source.seek(file.offset)
        data = source.read(file.stored)
    inflated = zlib.decompress(data, -zlib.MAX_WBITS) if file.method else data
    return inflated.decode("utf-8", "replace")

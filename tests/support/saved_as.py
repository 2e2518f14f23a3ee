"""Texts as the editors of Windows save them."""

from __future__ import annotations

import codecs
from collections.abc import Callable


def _windows(encoding: str, bom: bytes = b"") -> Callable[[str], bytes]:
    return lambda text: bom + text.replace("\n", "\r\n").encode(encoding)


SAVED_AS = {
    "utf-8": _windows("utf-8"),
    "utf-8-bom": _windows("utf-8", codecs.BOM_UTF8),
    "utf-16-le": _windows("utf-16-le"),
    "utf-16-be": _windows("utf-16-be"),
    "utf-16-le-bom": _windows("utf-16-le", codecs.BOM_UTF16_LE),
    "utf-16-be-bom": _windows("utf-16-be", codecs.BOM_UTF16_BE),
    "utf-32-le-bom": _windows("utf-32-le", codecs.BOM_UTF32_LE),
}

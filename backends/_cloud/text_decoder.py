"""Decode the text of a service's answer as its bytes come. No I/O.

Services send UTF-8; UTF-16 and byte order marks happen where programs of Windows stand between.
"""

from __future__ import annotations

import codecs
import io


class TextDecoder:
    """Decode a body as UTF-8, or as UTF-16 if its first two bytes say so; lines end with LF.

    A byte order mark is dropped; invalid bytes become U+FFFD.
    """

    def __init__(self) -> None:
        self._start = b""
        self._decoder: io.IncrementalNewlineDecoder | None = None

    def feed(self, data: bytes) -> str:
        """Return the text that these bytes complete."""
        if self._decoder is None:
            data, self._start = self._start + data, b""
            if len(data) < 2:
                self._start = data
                return ""
            self._decoder = _decoder(data[:2])
        return self._decoder.decode(data)

    def finish(self) -> str:
        """Return what was held back for its rest."""
        decoder = self._decoder or _decoder(b"")
        return decoder.decode(self._start, final=True)


def _decoder(start: bytes) -> io.IncrementalNewlineDecoder:
    encoding = "utf-8-sig"
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        encoding = "utf-16"
    elif 0 in start:
        encoding = "utf-16-be" if start[:1] == b"\0" else "utf-16-le"
    return io.IncrementalNewlineDecoder(
        codecs.getincrementaldecoder(encoding)("replace"), translate=True
    )

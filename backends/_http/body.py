"""Decode the framing of a response's body: bytes in, bytes out. No I/O.

http.client hands a chunked body out one chunk a read; these give whatever has come, however it is
cut into chunks and segments, so that a burst of events costs one read.
"""

from __future__ import annotations

import re

HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{1,15}")
LONGEST_SIZE_LINE = 4096  # bytes of a chunk's size with its extensions


class IncompleteBody(OSError):
    """Report a body that ended early, or whose chunked framing is damaged."""


class ContentLengthReader:
    """Read a body of a known length; None: one that ends with the connection."""

    def __init__(self, length: int | None) -> None:
        self._remaining = length
        self.ended = length == 0

    def feed(self, data: bytes) -> bytes:
        """Return what these bytes hold of the body."""
        if self._remaining is not None:
            data = data[: self._remaining]
            self._remaining -= len(data)
            self.ended = self._remaining == 0
        return data

    def feed_eof(self) -> bytes:
        """Take the end of the connection; raises IncompleteBody if more was announced."""
        if self._remaining is not None:
            raise IncompleteBody(f"the answer ended {self._remaining} bytes too early")
        self.ended = True
        return b""


class ChunkedReader:
    """Read a body in chunked transfer coding (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self._remaining = 0  # bytes of this chunk, with its CRLF
        self._buffer = b""  # the beginning of a line that is not whole yet
        self._in_trailer = False
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """Return what these bytes hold of the body; raises IncompleteBody for damaged framing."""
        data, self._buffer = self._buffer + data, b""
        parts, at = [], 0
        while at < len(data) and not self.ended:
            if self._remaining:
                end = min(at + self._remaining, len(data))
                self._remaining -= end - at
                parts.append(data[at : max(at, end - max(0, 2 - self._remaining))])
            else:
                end = data.find(b"\n", at) + 1
                if not end:
                    self._keep(data[at:])
                    break
                self._read_line(data[at:end].strip())
            at = end
        return b"".join(parts)

    def _keep(self, rest: bytes) -> None:
        if len(rest) > LONGEST_SIZE_LINE:
            raise IncompleteBody("a chunk of the answer has no size")
        self._buffer = rest

    def _read_line(self, line: bytes) -> None:
        """Read a line between chunks: a chunk's size, or one of the trailer."""
        if self._in_trailer:
            self.ended = not line
            return
        size = line.partition(b";")[0].strip()
        if not HEXADECIMAL.fullmatch(size):
            raise IncompleteBody("a chunk of the answer has no size")
        self._remaining = int(size, 16)
        self._in_trailer = self._remaining == 0
        self._remaining += 0 if self._in_trailer else 2

    def feed_eof(self) -> bytes:
        """Take the end of the connection, which cannot be that of the body: IncompleteBody."""
        raise IncompleteBody("the answer ended within its body")

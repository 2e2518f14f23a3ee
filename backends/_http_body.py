"""Take the framing off a body as its bytes come, as much at a time as there is.

http.client gives a chunked body out one chunk at a time.
"""

from __future__ import annotations

import re

HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{1,15}")
LONGEST_SIZE_LINE = 4096  # bytes of a chunk's size with its extensions


class BrokenOff(OSError):
    """Report an answer that ended before its end."""


class Counted:
    """Take a body whose length is in its head, or that ends with the connection."""

    def __init__(self, length: int | None) -> None:
        self._left = length
        self.ended = length == 0

    def feed(self, data: bytes) -> bytes:
        """Return what these bytes hold of the body."""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
            self.ended = self._left == 0
        return data

    def finish(self) -> bytes:
        """Take the end of the connection for the end of the body; raises BrokenOff if it is not."""
        if self._left is not None:
            raise BrokenOff(f"the answer ended {self._left} bytes too early")
        self.ended = True
        return b""


class Chunks:
    """Take the chunked framing off a body as its bytes come."""

    def __init__(self) -> None:
        self._left = 0  # bytes of the chunk that are still to come, with its line end
        self._rest = b""  # the beginning of a line that is not whole yet
        self._in_trailer = False
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """Return what these bytes hold of the body; raises BrokenOff if they are no chunks."""
        data, self._rest = self._rest + data, b""
        held, at = [], 0
        while at < len(data) and not self.ended:
            if self._left:
                end = min(at + self._left, len(data))
                self._left -= end - at
                held.append(data[at : max(at, end - max(0, 2 - self._left))])
            else:
                end = data.find(b"\n", at) + 1
                if not end:
                    self._keep(data[at:])
                    break
                self._take(data[at:end].strip())
            at = end
        return b"".join(held)

    def _keep(self, rest: bytes) -> None:
        if len(rest) > LONGEST_SIZE_LINE:
            raise BrokenOff("a chunk of the answer has no size")
        self._rest = rest

    def _take(self, line: bytes) -> None:
        """Read a line between chunks: a size, or one of the trailer."""
        if self._in_trailer:
            self.ended = not line
            return
        size = line.partition(b";")[0].strip()
        if not HEXADECIMAL.fullmatch(size):
            raise BrokenOff("a chunk of the answer has no size")
        self._left = int(size, 16)
        self._in_trailer = self._left == 0
        self._left += 0 if self._in_trailer else 2

    def finish(self) -> bytes:
        """Report that the connection ended within the body."""
        raise BrokenOff("the answer ended within its body")

"""Decode the framing and the compression of a response's body: bytes in, bytes out. No I/O.

http.client hands a chunked body out one chunk a read; these give whatever has come, however it is
cut into chunks and segments, so that a burst of events costs one read. The SDKs' libraries
decompress all of a read at once, which may become a thousand times as much.
"""

from __future__ import annotations

import http.client
import re
import zlib

HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{1,15}")
LONGEST_SIZE_LINE = 4096  # bytes of a chunk's size with its extensions
LONGEST_TRAILER = 64 << 10  # bytes
PIECE = 64 << 10  # bytes that are decompressed at once
GZIP, ZLIB, RAW_DEFLATE = 31, 15, -15  # framings of deflate, as zlib numbers them
CODINGS = ("gzip", "x-gzip", "deflate")  # names of compressions that we read; see Decompressor


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
        self._trailer = 0  # bytes of its lines
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
            self._trailer += len(line)
            if self._trailer > LONGEST_TRAILER:
                raise IncompleteBody("the trailer of the answer does not end")
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


class DamagedCompression(http.client.HTTPException):
    """Report a body that is not compressed as its head says."""


class Decompressor:
    """Decompress a body in pieces of a bounded size.

    coding: one of CODINGS. The caller feeds bytes as they come, and after each calls `read` until
    it returns nothing.
    """

    def __init__(self, coding: str) -> None:
        self._is_gzip = coding != "deflate"
        self._zlib = zlib.decompressobj(GZIP) if self._is_gzip else None
        self._compressed = b""
        self._has_member = False  # one of gzip is at its end

    def feed(self, data: bytes) -> None:
        """Add compressed bytes."""
        self._compressed += data
        if self._zlib is None and len(self._compressed) > 1:
            self._zlib = zlib.decompressobj(_deflate_framing(self._compressed))

    def read(self) -> bytes:
        """Return the next PIECE, b"" if there is none yet; raises DamagedCompression.

        What follows gzip's last member, such as zeros, is dropped, as by gzip itself.
        """
        piece = self._decompress()
        while not piece and self._has_next_member():
            self._zlib, self._has_member = zlib.decompressobj(GZIP), True
            piece = self._decompress()
        return piece

    def _has_next_member(self) -> bool:
        is_at_end = self._zlib is not None and self._zlib.eof
        return self._is_gzip and is_at_end and bool(self._compressed)

    def _decompress(self) -> bytes:
        if self._zlib is None or self._zlib.eof:
            return b""
        try:
            piece = self._zlib.decompress(self._compressed, PIECE)
        except zlib.error:
            if not self._has_member:
                raise DamagedCompression("the answer cannot be decompressed") from None
            self._compressed = b""
            return b""
        self._compressed = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
        return piece


def _deflate_framing(data: bytes) -> int:
    """Tell zlib's framing, which "deflate" means, from none, as some servers understand it."""
    is_zlib = data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return ZLIB if is_zlib else RAW_DEFLATE

"""Read requests from a socket, each part within its limit and before its deadline."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from kuwa_min.errors import ClientDisconnected, HTTPError

from . import http1
from .body_budget import Body
from .limits import Limits
from .sentences import TOO_LARGE

RECV_SIZE = 64 << 10  # bytes asked for at once


class RequestReader:
    """The receiving side of one connection; used by its thread alone, but for `peek`.

    can_peek: whether the socket can look at bytes without consuming them, as TLS cannot.
    """

    def __init__(self, sock: socket.socket, limits: Limits, *, can_peek: bool) -> None:
        self._sock, self._limits, self._can_peek = sock, limits, can_peek
        self._buffer, self._at = b"", 0  # what was received; consumed up to here

    def read_head(self, *, is_first: bool) -> http1.RequestHead:
        """Read the head of the next request; raises HTTPError or ClientDisconnected."""
        limits = self._limits
        start = time.monotonic()
        idle = start + (limits.head_seconds if is_first else limits.idle_seconds)
        while not self._skip_empty_lines():
            try:
                self._receive(idle)
            except HTTPError:
                if not is_first:
                    raise ClientDisconnected from None  # an idle connection
                raise
        deadline = idle if is_first else time.monotonic() + limits.head_seconds
        return http1.parse_head(self._read_until(b"\r\n\r\n", http1.HEAD_LIMIT, deadline, 431))

    def read_body(self, head: http1.RequestHead, body: Body, send: Callable[[bytes], None]) -> None:
        """Read the body that belongs to a head; send: for 100 Continue."""
        limit = self._limits.body_bytes
        length = http1.body_length(head)
        if length > limit:
            raise _too_large(limit)
        if head.expects_continue and length and self._at == len(self._buffer):
            send(http1.CONTINUE)
        deadline = time.monotonic() + self._limits.body_seconds
        if length == http1.CHUNKED:
            self._read_chunks(body, limit, deadline)
        else:
            self._read_exactly(body, length, deadline)
        body.complete()

    def discard(self, size: int, seconds: float) -> None:
        """Receive and drop bytes until the limit or the deadline, which raises HTTPError."""
        deadline = time.monotonic() + seconds
        size -= len(self._buffer) - self._at
        while size > 0:
            self._at = len(self._buffer)
            self._receive(deadline)
            size -= len(self._buffer)

    def peek(self) -> bytes:
        """Return bytes of the next request, b"" at the end of the stream; never blocks.

        For a socket that is non-blocking while a body is streamed; called by the flush thread. If
        there is neither, this raises what the socket raises. What is read of TLS is kept.
        """
        if self._can_peek:
            return self._sock.recv(1, socket.MSG_PEEK)
        early = self._sock.recv(4096)
        self._buffer += early
        return early

    def _receive(self, deadline: float) -> None:
        """Add to the buffer; raises HTTPError at the deadline, ClientDisconnected at the end.

        deadline: as time.monotonic() counts.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            raise HTTPError(408)
        self._sock.settimeout(left)
        try:
            data = self._sock.recv(RECV_SIZE)
        except TimeoutError:
            raise HTTPError(408) from None
        except (OSError, ValueError):
            raise ClientDisconnected from None
        if not data:
            raise ClientDisconnected
        self._buffer, self._at = self._buffer[self._at :] + data, 0

    def _skip_empty_lines(self) -> bool:
        """Skip line ends before a request; return whether something else is there."""
        while self._at < len(self._buffer) and self._buffer[self._at] in b"\r\n":
            self._at += 1
        return self._at < len(self._buffer)

    def _read_until(self, mark: bytes, limit: int, deadline: float, status: int) -> bytes:
        """Consume up to a mark, which is dropped; raises HTTPError with `status` past the limit."""
        searched = 0
        while (end := self._buffer.find(mark, self._at + searched, self._at + limit)) < 0:
            if http1.BARE_LF.search(self._buffer, self._at + searched, self._at + limit):
                raise HTTPError(400)
            if len(self._buffer) - self._at >= limit:
                raise HTTPError(status)
            searched = max(0, len(self._buffer) - self._at - len(mark))
            self._receive(deadline)
        part, self._at = self._buffer[self._at : end], end + len(mark)
        return part

    def _read_exactly(self, body: Body, size: int, deadline: float) -> None:
        """Move bytes to a body as they come."""
        while size:
            if self._at == len(self._buffer):
                self._receive(deadline)
            part = self._buffer[self._at : self._at + size]
            self._at, size = self._at + len(part), size - len(part)
            body.append(part)

    def _read_chunks(self, body: Body, limit: int, deadline: float) -> None:
        left, chunks = limit, 0
        while size := http1.chunk_size(self._read_until(b"\r\n", http1.LINE_LIMIT, deadline, 400)):
            left, chunks = left - size, chunks + 1
            if left < 0 or chunks > http1.CHUNKS_LIMIT:
                raise _too_large(limit)
            self._read_exactly(body, size, deadline)
            if self._read_until(b"\r\n", 2, deadline, 400):
                raise HTTPError(400)
        for _ in range(http1.HEADERS_LIMIT):
            trailer = self._read_until(b"\r\n", http1.LINE_LIMIT, deadline, 400)
            if not trailer:
                return
            http1.parse_field(trailer)
        raise HTTPError(431)


def _too_large(limit: int) -> HTTPError:
    return HTTPError(413, TOO_LARGE.format(limit >> 20))

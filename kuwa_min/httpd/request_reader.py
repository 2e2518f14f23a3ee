"""Read requests from a socket, each part within its limit and before its deadline."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from kuwa_min.errors import ClientDisconnected, HTTPError

from . import http1
from .limits import Limits

RECV_SIZE = 64 << 10  # bytes asked for at once


class RequestReader:
    """The receiving side of one connection; used by its thread alone, but for `peek`.

    can_peek: whether the socket can look at bytes without consuming them, as TLS cannot.
    """

    def __init__(self, sock: socket.socket, limits: Limits, *, can_peek: bool) -> None:
        self._sock, self._limits, self._can_peek = sock, limits, can_peek
        self._buffer = b""  # received, not consumed yet

    def read_head(self, *, is_first: bool) -> http1.RequestHead:
        """Read the head of the next request; raises HTTPError or ClientDisconnected."""
        limits = self._limits
        start = time.monotonic()
        idle = start + (limits.head_seconds if is_first else limits.idle_seconds)
        while not self._buffer.strip(b"\r\n"):
            self._buffer = b""
            try:
                self._receive(idle)
            except HTTPError:
                if not is_first:
                    raise ClientDisconnected from None  # an idle connection
                raise
        self._buffer = self._buffer.lstrip(b"\r\n")
        deadline = idle if is_first else time.monotonic() + limits.head_seconds
        return http1.parse_head(self._read_until(b"\r\n\r\n", http1.HEAD_LIMIT, deadline, 431))

    def read_body(self, head: http1.RequestHead, send: Callable[[bytes], None]) -> bytes:
        """Read the body that belongs to a head; send: for 100 Continue."""
        limit = self._limits.body_bytes
        length = http1.body_length(head)
        if length > limit:
            raise HTTPError(413, f"The request is larger than {limit >> 20} MB.")
        if head.expects_continue and length and not self._buffer:
            send(http1.CONTINUE)
        deadline = time.monotonic() + self._limits.body_seconds
        if length != http1.CHUNKED:
            return self._read_exactly(length, deadline)
        return self._read_chunks(limit, deadline)

    def discard(self, size: int, seconds: float) -> None:
        """Receive and drop bytes until the limit or the deadline, which raises HTTPError."""
        deadline = time.monotonic() + seconds
        while size > 0:
            self._buffer = b""
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
        self._buffer += data

    def _read_until(self, mark: bytes, limit: int, deadline: float, status: int) -> bytes:
        """Consume up to a mark, which is dropped; raises HTTPError with `status` past the limit."""
        searched = 0
        while (end := self._buffer.find(mark, searched, limit)) < 0:
            if http1.BARE_LF.search(self._buffer[:limit]):
                raise HTTPError(400)
            if len(self._buffer) >= limit:
                raise HTTPError(status)
            searched = max(0, len(self._buffer) - len(mark))
            self._receive(deadline)
        part, self._buffer = self._buffer[:end], self._buffer[end + len(mark) :]
        return part

    def _read_exactly(self, size: int, deadline: float) -> bytes:
        parts, have = [self._buffer], len(self._buffer)
        while have < size:
            self._buffer = b""
            self._receive(deadline)
            parts.append(self._buffer)
            have += len(self._buffer)
        data = b"".join(parts)
        self._buffer = data[size:]
        return data[:size]

    def _read_chunks(self, limit: int, deadline: float) -> bytes:
        body = bytearray()
        while size := http1.chunk_size(self._read_until(b"\r\n", http1.LINE_LIMIT, deadline, 400)):
            if len(body) + size > limit:
                raise HTTPError(413, f"The request is larger than {limit >> 20} MB.")
            body += self._read_exactly(size, deadline)
            if self._read_exactly(2, deadline) != b"\r\n":
                raise HTTPError(400)
        for _ in range(http1.HEADERS_LIMIT):
            trailer = self._read_until(b"\r\n", http1.LINE_LIMIT, deadline, 400)
            if not trailer:
                return bytes(body)
            http1.parse_field(trailer)
        raise HTTPError(431)

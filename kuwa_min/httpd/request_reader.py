"""Read requests from a socket, each part within its limit and before its deadline."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable

from kuwa_min.errors import ClientDisconnected, HTTPError

from . import http1
from .body_budget import Body
from .limits import Limits
from .sentences import TOO_LARGE

RECV_SIZE = 64 << 10  # bytes asked for at once
PROMPT_READS = 2  # short reads of one request before the next ones are delayed
SHORT_READ, LONG_READ = 512, 4096  # bytes: one counts against the client, the other clears it
FIRST_DELAY, MAX_DELAY = 0.03, 1.0  # seconds; each short read makes the delay three times as long


class RequestReader:
    """The receiving side of one connection; used by its thread alone, but for `peek`.

    A client that sends a few bytes at a time would cost a wake-up for each. So after PROMPT_READS
    the reader waits a little before it reads on, each time longer, and takes many bytes at once.

    can_peek: whether the socket can look at bytes without consuming them, as TLS cannot.
    """

    def __init__(self, sock: socket.socket, limits: Limits, *, can_peek: bool) -> None:
        self._sock, self._limits, self._can_peek = sock, limits, can_peek
        self._buffer, self._at = b"", 0  # what was received; consumed up to here
        self._short_reads = 0  # of this request

    def read_head(self, *, is_first: bool) -> http1.RequestHead:
        """Read the head of the next request; raises HTTPError or ClientDisconnected."""
        limits = self._limits
        start, self._short_reads = time.monotonic(), 0
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
        if head.expects_continue and length and not self.buffered:
            send(http1.CONTINUE)
        deadline = time.monotonic() + self._limits.body_seconds
        if length == http1.CHUNKED:
            self._read_chunks(body, limit, deadline)
        else:
            self._read_exactly(body, length, deadline)
        body.complete()

    @property
    def buffered(self) -> int:
        """Return how many bytes were received and not consumed."""
        return len(self._buffer) - self._at

    def has_more(self) -> bool:
        """Tell whether the client has sent more than was received; never blocks."""
        self._sock.settimeout(0)
        with contextlib.suppress(OSError, ValueError):
            return self._can_peek and self.peek() != b""
        return False

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
        delay = self._delay()
        if delay and deadline - time.monotonic() > delay:
            _wait_while_connected(self._sock, delay)
        left = deadline - time.monotonic()
        if left <= 0:
            raise HTTPError(408)
        data = self._receive_some(left)
        while delay and not self._can_peek and len(data) < RECV_SIZE:
            try:  # TLS returns a record at a time, and they may be short
                data += self._receive_some(0)
            except ClientDisconnected:
                break
        if len(data) < SHORT_READ:
            self._short_reads += 1
        else:
            self._short_reads = 0 if len(data) >= LONG_READ else max(0, self._short_reads - 1)
        self._buffer, self._at = self._buffer[self._at :] + data, 0

    def _delay(self) -> float:
        """Return the seconds to wait before the next read."""
        excess = self._short_reads - PROMPT_READS
        return min(MAX_DELAY, FIRST_DELAY * 3**excess) if excess >= 0 else 0.0

    def _receive_some(self, seconds: float) -> bytes:
        """Return what comes within the time; raises HTTPError or ClientDisconnected."""
        self._sock.settimeout(seconds)
        try:
            data = self._sock.recv(RECV_SIZE)
        except TimeoutError:
            raise HTTPError(408) from None
        except (OSError, ValueError):
            raise ClientDisconnected from None
        if not data:
            raise ClientDisconnected
        return data

    def _skip_empty_lines(self) -> bool:
        """Skip line ends before a request; return whether something else is there."""
        while self.buffered and self._buffer[self._at] in b"\r\n":
            self._at += 1
        return self.buffered > 0

    def _read_until(self, mark: bytes, limit: int, deadline: float, status: int) -> bytes:
        """Consume up to a mark, which is dropped; raises HTTPError with `status` past the limit."""
        searched = 0
        while (end := self._buffer.find(mark, self._at + searched, self._at + limit)) < 0:
            if http1.BARE_LF.search(self._buffer, self._at + searched, self._at + limit):
                raise HTTPError(400)
            if self.buffered >= limit:
                raise HTTPError(status)
            searched = max(0, self.buffered - len(mark))
            self._receive(deadline)
        part, self._at = self._buffer[self._at : end], end + len(mark)
        return part

    def _read_exactly(self, body: Body, size: int, deadline: float) -> None:
        """Move bytes to a body as they come."""
        while size:
            if not self.buffered:
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


def _wait_while_connected(sock: socket.socket, seconds: float) -> None:
    """Sleep, on Linux no longer than until one side shuts the connection down."""
    if not hasattr(select, "POLLRDHUP"):
        time.sleep(seconds)
        return
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    poll.poll(seconds * 1000)

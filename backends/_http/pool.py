"""A pool of persistent HTTP/1.1 connections whose waits another thread can cancel.

http.client frames requests and reads heads; bodies are read as they arrive.

Strategy:
- Keep-alive: a connection whose response was read to its end is kept for the next request to the
  same origin, the one used last on top, so that a quiet pool shrinks to the few that are needed.
- A server may close a kept connection at any moment. Before reuse, a connection must be younger
  than IDLE_SECONDS and have nothing to read, not even an end of file. If it turns out to be closed
  all the same before a byte of the response came, the request is sent on the next connection: it
  most probably reached no server, and a completion changes nothing there if it did (RFC 9112,
  section 9.3.1). A new connection that fails is not retried here; that is up to the caller.
- Cancellation: while a thread waits in a socket, the socket is watched by the thread's cancel
  scope, and by none while it lies in the pool: a cancelled chat cannot hit another one's request.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
import time
from collections.abc import Callable

from kuwa_min.process import deadline

from .body import CODINGS, ChunkedReader, ContentLengthReader, Decompressor
from .cancellation import CancelScope, current_scope
from .connection import Connection, Request, Timeouts
from .origin import Origin
from .tls import create_tls_context
from .transport_errors import ConnectionFailed, translated

IDLE_SECONDS = 30.0  # after which a kept connection is not trusted any more
MAX_IDLE = 256  # connections to one origin that are kept
READ_SIZE = 32768  # bytes
DRAIN_SECONDS = 0.02  # that a body's last bytes may be late without costing the connection
# One user's requests must not be told from another's; bodies are decompressed here.
DROPPED_HEADERS = ("set-cookie", "content-encoding", "content-length")


class ConnectionPool:
    """Idle connections by origin; safe for threads."""

    def __init__(
        self, create_tls_context: Callable[[], ssl.SSLContext] = create_tls_context
    ) -> None:
        self._create_tls_context = create_tls_context
        self._tls_context: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._idle: dict[Origin, list[tuple[float, Connection]]] = {}

    def send(self, request: Request, timeouts: Timeouts) -> Response:
        """Send a request; return its response, whose body is still to come.

        Blocks; the thread's cancel scope ends the wait. Raises ConnectionFailed.
        """
        with translated():
            return self._send(request, timeouts)

    def _send(self, request: Request, timeouts: Timeouts) -> Response:
        scope = current_scope()
        while True:
            connection = self._acquire(request.origin) or Connection(request.origin, self._tls)
            try:
                head = connection.send_request(request, timeouts, scope)
            except BaseException as error:
                scope.unwatch()
                connection.close()
                if not (connection.is_reused and _is_stale(error)) or scope.is_cancelled:
                    raise
            else:
                return Response(self, connection, head, scope)

    def _tls(self) -> ssl.SSLContext:
        """Return the one TLS context, made when first needed: reading all CAs takes a while."""
        with self._lock:
            self._tls_context = self._tls_context or self._create_tls_context()
            return self._tls_context

    def _acquire(self, origin: Origin) -> Connection | None:
        """Take the idle connection that was used last, if one is still usable."""
        with self._lock:
            idle = self._idle.get(origin, [])
            while idle:
                since, connection = idle.pop()
                if time.monotonic() - since < IDLE_SECONDS and not connection.is_readable():
                    return connection
                connection.close()
        return None

    def release(self, connection: Connection) -> None:
        """Keep a connection whose response was read to its end."""
        connection.is_reused = True
        with self._lock:
            idle = self._idle.setdefault(connection.origin, [])
            idle.append((time.monotonic(), connection))
            oldest = idle.pop(0)[1] if len(idle) > MAX_IDLE else None
        if oldest is not None:
            oldest.close()

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            kept, self._idle = self._idle, {}
        for idle in kept.values():
            for _, connection in idle:
                connection.close()


def _is_stale(error: BaseException) -> bool:
    """Tell whether the server closed a kept connection before it answered."""
    return isinstance(error, (http.client.RemoteDisconnected, ConnectionError))


class Response:
    """A response: its head, and its body as it comes. Used by one thread, which must close it.

    coding: how the body is compressed; "": not at all.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        connection: Connection,
        head: deadline.Response,
        scope: CancelScope,
    ) -> None:
        self._pool, self._head, self._scope = pool, head, scope
        self._connection: Connection | None = connection
        self._body = ChunkedReader() if head.chunked else ContentLengthReader(head.length)
        self.status = head.status
        self.coding = head.getheader("content-encoding", "").strip().lower()
        self._decompressor = Decompressor(self.coding) if self.coding in CODINGS else None
        self.headers = [
            pair for pair in head.getheaders() if pair[0].lower() not in DROPPED_HEADERS
        ]

    def read(self) -> bytes:
        """Return the bytes of the body that have come, waiting for the first; b"" at its end.

        Compressed ones are decompressed if we can, else returned as they are. Raises
        ConnectionFailed, also if the body ends too early.
        """
        decompressor = self._decompressor
        if decompressor is None:
            return self._receive()
        with translated():
            while not (data := decompressor.read()) and (received := self._receive()):
                decompressor.feed(received)
        return data

    def _receive(self) -> bytes:
        data, body = b"", self._body
        with translated():
            while not data and not body.ended:
                received = self._head.fp.read1(READ_SIZE)
                data = body.feed(received) if received else body.feed_eof()
        return data

    def close(self) -> None:
        """Return the connection to the pool if its response is at its end, else close it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        keep = not (self._head.will_close or self._scope.is_cancelled) and self._drain()
        self._scope.unwatch()
        self._head.close()
        self._pool.release(connection) if keep else connection.close()

    def _drain(self) -> bool:
        """Tell whether the body is at its end, or what comes within DRAIN_SECONDS ends it."""
        if not self._body.ended:
            self._head.lift_deadline(DRAIN_SECONDS)
            with contextlib.suppress(ConnectionFailed):
                return not self._receive()
        return self._body.ended

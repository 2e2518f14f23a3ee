"""Ask a web service over connections that are kept for the next request, and that can be cut.

http.client does the framing of requests and heads; bodies are read as much at a time as has come.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
import time
from collections.abc import Callable

from . import _line
from ._http_body import Chunks, Counted
from ._http_connection import Connection, Origin, Timeouts

IDLE_SECONDS = 30.0  # after which a kept connection is not trusted any more
MOST_IDLE = 256  # connections that are kept
READ_SIZE = 32768
MOMENT = 0.02  # seconds that the end of a body may be late without costing the connection
UNWANTED = ("set-cookie",)  # the connections serve many people


class Pool:
    """Connections that nobody uses now, the one used last on top; safe for threads."""

    def __init__(self, create_tls: Callable[[], ssl.SSLContext]) -> None:
        self._create_tls = create_tls
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._idle: dict[Origin, list[tuple[float, Connection]]] = {}

    def ask(
        self,
        origin: Origin,
        method: str,
        target: str,
        fields: list[tuple[str, str]],
        body: bytes,
        timeouts: Timeouts,
    ) -> Answer:
        """Send a request and return its answer, whose body is still to come.

        Raises OSError or http.client.HTTPException. A kept connection that turns out to be closed
        before a byte of the answer came is replaced once.
        """
        line = _line.current()
        while True:
            connection = self._take(origin) or Connection(origin, self._context)
            try:
                head = connection.ask(line, method, target, fields, body, timeouts)
            except BaseException as error:
                line.release()
                connection.close()
                if not (connection.is_used and _is_stale(error)) or line.is_cut:
                    raise
            else:
                return Answer(self, connection, head, line)

    def _context(self) -> ssl.SSLContext:
        """Return what checks certificates; reading all of those that are trusted takes a while."""
        with self._lock:
            self._tls = self._tls or self._create_tls()
            return self._tls

    def _take(self, origin: Origin) -> Connection | None:
        with self._lock:
            idle = self._idle.get(origin, [])
            while idle:
                since, connection = idle.pop()
                if time.monotonic() - since < IDLE_SECONDS and connection.is_quiet():
                    return connection
                connection.close()
        return None

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end."""
        connection.is_used = True
        with self._lock:
            idle = self._idle.setdefault(connection.origin, [])
            idle.append((time.monotonic(), connection))
            old = idle.pop(0)[1] if len(idle) > MOST_IDLE else None
        if old is not None:
            old.close()

    def close(self) -> None:
        """Close what nobody uses."""
        with self._lock:
            kept, self._idle = self._idle, {}
        for idle in kept.values():
            for _, connection in idle:
                connection.close()


def _is_stale(error: BaseException) -> bool:
    """Tell whether a connection was closed before it answered."""
    return isinstance(error, (http.client.RemoteDisconnected, ConnectionError))


class Answer:
    """The answer to a request: its head, and its body as it comes."""

    def __init__(
        self, pool: Pool, connection: Connection, head: http.client.HTTPResponse, line: _line.Line
    ) -> None:
        self._pool, self._head, self._line = pool, head, line
        self._connection: Connection | None = connection
        self._framing = Chunks() if head.chunked else Counted(head.length)
        self.status = head.status
        self.fields = [pair for pair in head.getheaders() if pair[0].lower() not in UNWANTED]

    def read(self) -> bytes:
        """Return what has come of the body, waiting for it; nothing at its end.

        Raises BrokenOff if the body ends too early, and OSError.
        """
        body, framing = b"", self._framing
        while not body and not framing.ended:
            data = self._head.fp.read1(READ_SIZE)
            body = framing.feed(data) if data else framing.finish()
        return body

    def close(self) -> None:
        """Keep the connection for the next request if nothing more comes on it, else close it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        keep = not (self._head.will_close or self._line.is_cut) and self._is_whole(connection)
        self._line.release()
        self._head.close()
        self._pool.give_back(connection) if keep else connection.close()

    def _is_whole(self, connection: Connection) -> bool:
        """Tell whether the body is at its end, or what comes within a moment ends it."""
        if not self._framing.ended:
            connection.sock.settimeout(MOMENT)
            with contextlib.suppress(OSError):
                return not self.read()
        return self._framing.ended

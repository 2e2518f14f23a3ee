"""Serve one client's connection: strict heads, absolute deadlines, an answer to everything."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple, Protocol

from kuwa_min.errors import UNEXPECTED, ClientDisconnected, HTTPError, describe

from . import http1
from .body_writer import BodyWriter
from .flush_thread import FlushThread
from .messages import Request, Response, Routes, StreamingResponse, json_message

logger = logging.getLogger(__name__)

LINGER_SECONDS, LINGER_BYTES = 2.0, 1 << 20  # of what a rejected client still sends
DEAD_PEER_MS = 30_000  # milliseconds of unacknowledged data after which the peer counts as dead
RECV_SIZE = 64 << 10  # bytes asked for at once

# The life of a connection
#
# Each connection has a thread, which reads a head and a body, calls the route, sends the answer,
# and begins again while both sides keep the connection alive. Bytes of the next request that came
# early (pipelining) wait in `_buffer`.
#
# - Order. Host and Origin are checked before the body is read. The body is read, or refused, before
#   the route is called: no route waits for a client, and no unread body is taken for a request.
# - Limits. Each part is bounded while it is read: the head by http1.HEAD_LIMIT and HEADERS_LIMIT,
#   the body by Limits.body_bytes, whether it has a length or comes in chunks.
# - Deadlines are absolute, not a timeout per recv(): a client that sends a byte a second cannot
#   keep a thread. The first head must be there head_seconds after the connection; a later one must
#   begin within idle_seconds and then end within head_seconds; a body within body_seconds. An
#   answer that is not streamed must be taken within send_seconds. A streamed one may take any time,
#   but its client must take something every send_seconds (see body_writer).
# - Errors. A request whose framing cannot be trusted gets its status and message, then the
#   connection ends. Before that, the rest of what the client sends is read and dropped for a while:
#   closing a socket with unread bytes resets the connection, and the client would lose the answer.
#   An idle keep-alive connection ends without a word.


class Limits(NamedTuple):
    """Limits of a server and of each of its clients."""

    body_bytes: int = 8 << 20
    head_seconds: float = 10
    body_seconds: float = 20
    idle_seconds: float = 8  # between an answer and the next request
    send_seconds: float = 10  # of an answer, or between two reads of a streamed one
    connections: int = 1024  # above which idle ones are dropped


class AcceptingServer(Protocol):
    """What a connection needs of the server that accepted it; every method may run on any thread.

    flush_thread: sends the streamed bodies. closing: no connection reads a further request.
    would_block: what a socket of this server raises instead of blocking.
    """

    routes: Routes
    limits: Limits
    flush_thread: FlushThread
    closing: bool
    tls: Any
    would_block: tuple[type[OSError], ...]
    check_origin: Callable[[http1.RequestHead], None]  # raises HTTPError

    def tls_handshake(self, sock: socket.socket) -> socket.socket:
        """Return the TLS socket, or the socket itself without TLS; raises ClientDisconnected."""

    def mark_busy(self, sock: socket.socket) -> None:
        """Keep the connection from being dropped in favour of a new one."""

    def mark_idle(self, sock: socket.socket) -> None:
        """Allow the connection to be dropped in favour of a new one."""

    def shutdown_request(self, request: Any) -> None:
        """Forget and close a connection."""


class Connection(BaseHTTPRequestHandler):
    """One client's connection, served on a thread of its own."""

    server: AcceptingServer  # type: ignore[assignment]
    request: socket.socket

    def setup(self) -> None:
        """Prepare the socket."""
        self._buffer = b""  # received, not consumed yet
        self._head: http1.RequestHead | None = None
        self._keep_alive = self._has_served = False
        self._plain = sock = self.request
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)

    def finish(self) -> None:
        """Close the TLS socket; the plain one is closed by socketserver."""
        if self.request is not self._plain:
            self.server.shutdown_request(self.request)

    def handle(self) -> None:
        """Serve requests until one side ends the connection."""
        with contextlib.suppress(ClientDisconnected):
            try:
                self.request = self.server.tls_handshake(self.request)
                self._serve_one()
                while self._keep_alive and not self.server.closing:
                    self._serve_one()
            except HTTPError as error:
                self._reject(error)

    def _serve_one(self) -> None:
        self._head, self._keep_alive = None, False
        self._head = head = self._read_head()
        self.server.mark_busy(self.request)
        self.server.check_origin(head)
        body = self._read_body(head)
        peer, local = str(self.client_address[0]), str(self.request.getsockname()[0])
        request = Request(head.method, head.path, head, body, peer, local)
        del body
        self._keep_alive = head.keep_alive
        response = self._call_route(request)
        del request  # its body may be large, and a streamed answer takes long
        self._respond(response)
        self._has_served = True
        self.server.mark_idle(self.request)

    def _reject(self, error: HTTPError) -> None:
        """Answer a request that cannot be read, and let the client read the answer."""
        self._keep_alive = False
        self._respond(_error_response(error))
        if error.status == HTTPStatus.REQUEST_TIMEOUT:
            return
        with contextlib.suppress(OSError, HTTPError):
            self.request.shutdown(socket.SHUT_WR)
            deadline, left = time.monotonic() + LINGER_SECONDS, LINGER_BYTES
            while left > 0:
                self._buffer = b""
                self._receive(deadline)
                left -= len(self._buffer)

    def _call_route(self, request: Request) -> Response | StreamingResponse:
        """Find and call the route; its exception becomes an answer."""
        methods = self.server.routes.get(request.path)
        if methods is None:
            return json_message(404, "There is nothing at this address.")
        route = methods.get(request.method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            return json_message(405, f"This address takes {allowed}.", (("Allow", allowed),))
        try:
            return route(request)
        except HTTPError as error:
            return _error_response(error)
        except Exception as error:  # noqa: BLE001 - the Kernel forgets who does not answer
            logger.error("answering %s failed: %s", _loggable(request), describe(error))
            return json_message(500, UNEXPECTED)

    def _respond(self, response: Response | StreamingResponse) -> None:
        if isinstance(response, StreamingResponse):
            self._send_stream(response)
            return
        try:
            self._send_response(response)
        finally:
            if response.after is not None:
                response.after()

    def _send_response(self, response: Response) -> None:
        head_only = self._head is not None and self._head.method == "HEAD"
        headers = list(response.headers)
        if response.status != HTTPStatus.NO_CONTENT:
            headers += [("Content-Type", response.content_type)]
            headers += [("Content-Length", str(len(response.body)))]
        head = http1.response_head(response.status, headers, keep_alive=self._keep_alive)
        self._send(head + (b"" if head_only else response.body))
        if self._head is not None:
            logger.debug("%s: %d", _loggable(self._head), response.status)

    def _send_stream(self, response: StreamingResponse) -> None:
        assert self._head is not None
        headers = [("Content-Type", response.content_type), ("Cache-Control", "no-store")]
        if self._head.http10:
            self._keep_alive = False
        else:
            headers.append(("Transfer-Encoding", "chunked"))
        writer = BodyWriter(
            self.request,
            self.server.flush_thread.request_flush,
            peek=self._peek,
            would_block=self.server.would_block,
            chunked=not self._head.http10,
            stall_seconds=self.server.limits.send_seconds,
        )
        head = http1.response_head(200, headers, keep_alive=self._keep_alive)
        try:
            self._start_stream(head, writer)
            response.produce(writer)
        finally:
            self.server.flush_thread.unregister(writer)
        if writer.disconnected:
            self._keep_alive = False

    def _start_stream(self, head: bytes, writer: BodyWriter) -> None:
        """Send the head. The producer runs even if the client has left: it must free its slot."""
        try:
            self._send(head)
            self.request.settimeout(0)
            self.server.flush_thread.register(writer)
        except (ClientDisconnected, OSError, ValueError):
            writer.disconnected = True

    # -- reading and writing, each with a deadline

    def _peek(self) -> bytes:
        """Return bytes of the next request, b"" at the end of the stream, without blocking.

        Raises one of the server's would_block if there is neither. TLS cannot peek: what it has is
        moved to `_buffer`.
        """
        if self.server.tls is None:
            return self.request.recv(1, socket.MSG_PEEK)
        early = self.request.recv(4096)
        self._buffer += early
        return early

    def _receive(self, deadline: float) -> None:
        """Add to the buffer; raises HTTPError at the deadline, ClientDisconnected at the end.

        deadline: as time.monotonic() counts.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            raise HTTPError(408)
        self.request.settimeout(left)
        try:
            data = self.request.recv(RECV_SIZE)
        except TimeoutError:
            raise HTTPError(408) from None
        except (OSError, ValueError):
            raise ClientDisconnected from None
        if not data:
            raise ClientDisconnected
        self._buffer += data

    def _read_head(self) -> http1.RequestHead:
        limits = self.server.limits
        start = time.monotonic()
        idle = start + (limits.idle_seconds if self._has_served else limits.head_seconds)
        while not self._buffer.strip(b"\r\n"):
            self._buffer = b""
            try:
                self._receive(idle)
            except HTTPError:
                if self._has_served:
                    raise ClientDisconnected from None  # an idle connection
                raise
        self._buffer = self._buffer.lstrip(b"\r\n")
        deadline = time.monotonic() + limits.head_seconds if self._has_served else idle
        return http1.parse_head(self._read_until(b"\r\n\r\n", http1.HEAD_LIMIT, deadline, 431))

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

    def _read_body(self, head: http1.RequestHead) -> bytes:
        limit = self.server.limits.body_bytes
        length = http1.body_length(head)
        if length > limit:
            raise HTTPError(413, f"The request is larger than {limit >> 20} MB.")
        if head.expects_continue and length and not self._buffer:
            self._send(http1.CONTINUE)
        deadline = time.monotonic() + self.server.limits.body_seconds
        if length != http1.CHUNKED:
            return self._read_exactly(length, deadline)
        return self._read_chunks(limit, deadline)

    def _read_chunks(self, limit: int, deadline: float) -> bytes:
        body = bytearray()
        while size := http1.chunk_size(self._read_until(b"\r\n", http1.LINE_LIMIT, deadline, 400)):
            if len(body) + size > limit:
                raise HTTPError(413, f"The request is larger than {limit >> 20} MB.")
            body += self._read_exactly(size, deadline)
            if self._read_exactly(2, deadline) != b"\r\n":
                raise HTTPError(400)
        for _ in range(http1.HEADERS_LIMIT):
            if not self._read_until(b"\r\n", http1.LINE_LIMIT, deadline, 400):
                return bytes(body)
        raise HTTPError(431)

    def _send(self, data: bytes) -> None:
        self.request.settimeout(self.server.limits.send_seconds)
        try:
            self.request.sendall(data)
        except (OSError, ValueError):
            raise ClientDisconnected from None


def _error_response(error: HTTPError) -> Response:
    text = error.message or HTTPStatus(error.status).phrase + "."
    return json_message(error.status, text, tuple(error.headers.items()))


def _loggable(request: Request | http1.RequestHead) -> str:
    """Name a request for the log; the path has no query, which may quote a user."""
    return f"{request.method[:12]} {request.path[:120]}"

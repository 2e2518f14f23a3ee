"""Serve one client's connection: strict heads, absolute deadlines, an answer to everything."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol

from kuwa_min.chat.sentence import language_of, render
from kuwa_min.errors import UNEXPECTED, ClientDisconnected, HTTPError, describe
from kuwa_min.log.redaction import content

from . import http1
from .body_budget import Body, BodyBudget
from .body_writer import BodyWriter
from .connection_table import ConnectionTable, State
from .flush_thread import FlushThread
from .limits import Limits
from .messages import (
    Beginning,
    CheckedRoute,
    RenderError,
    Request,
    Response,
    Route,
    Routes,
    StreamingResponse,
)
from .request_reader import RequestReader

logger = logging.getLogger(__name__)

LINGER_SECONDS, LINGER_BYTES = 2.0, 1 << 20  # of what a client of doubtful framing still sends
DEAD_PEER_MS = 30_000  # milliseconds of unacknowledged data after which the peer counts as dead

# The life of a connection
#
# Each connection has a thread, which reads a head, finds the route, reads the body, calls the
# route, sends the answer, and begins again while both sides keep the connection alive. Bytes of the
# next request that came early (pipelining) wait in the reader's buffer.
#
# - Order. Host and Origin are checked, the route is found and may refuse (`CheckedRoute`) on the
#   head alone. Then the body is read, or refused, before the route is called: no route waits for a
#   client, and no unread body is taken for a request.
# - Limits. Each part is bounded while it is read: the head by http1.HEAD_LIMIT and HEADERS_LIMIT,
#   the body by Limits.body_bytes, whether it has a length or comes in chunks, and the bodies of all
#   connections together by `body_budget`.
# - Deadlines are absolute, not a timeout per recv(): a client that sends a byte a second cannot
#   keep a thread. The first head must be there head_seconds after the connection; a later one must
#   begin within idle_seconds and then end within head_seconds; a body within body_seconds. An
#   answer that is not streamed must be taken within send_seconds. A streamed one may take any time,
#   but its client must take something every send_seconds (see body_writer).
# - Errors. A request whose framing cannot be trusted, or whose body is not read, gets its status
#   and message, then the connection ends, and so does its thread. Where bytes of the client are
#   unread, the socket lingers (see lingering): it is closed once they were dropped. A sound body is
#   dropped to its end, within body_seconds: the Kernel sends all of it, and only then reads the
#   answer. Meanwhile the connection counts as idle, and makes room for others.
#   An idle keep-alive connection ends without a word.


class AcceptingServer(Protocol):
    """What a connection needs of the server that accepted it; every method may run on any thread.

    connections: of which idle ones may be dropped. body_budget: of the bodies that are received.
    flush_thread: sends the streamed ones. closing: no connection reads a further request.
    would_block: what a socket of this server raises instead of blocking.
    """

    routes: Routes
    limits: Limits
    connections: ConnectionTable
    body_budget: BodyBudget
    flush_thread: FlushThread
    closing: bool
    tls: Any
    would_block: tuple[type[OSError], ...]
    check_origin: Callable[[http1.RequestHead], None]  # raises HTTPError
    render_error: RenderError

    def tls_handshake(self, sock: socket.socket) -> socket.socket:
        """Return the TLS socket, or the socket itself without TLS; raises ClientDisconnected."""

    def shutdown_request(self, request: Any) -> None:
        """Forget and close a connection."""

    def linger(self, sock: socket.socket, size: int, seconds: float) -> None:
        """Close a connection, whose socket is taken over, once its client has ceased to send."""


class Connection(BaseHTTPRequestHandler):
    """One client's connection, served on a thread of its own."""

    server: AcceptingServer  # type: ignore[assignment]
    request: socket.socket

    def setup(self) -> None:
        """Prepare the socket."""
        self._head: http1.RequestHead | None = None
        self._keep_alive = self._has_served = False
        self._linger: tuple[int, float] | None = None  # bytes and seconds, before it is closed
        self._plain = sock = self.request
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)

    def finish(self) -> None:
        """Close the TLS socket, or let it linger; socketserver closes a plain one that is left."""
        if self._linger is not None:
            self.server.linger(self.request, *self._linger)
        elif self.request is not self._plain:
            self.server.shutdown_request(self.request)

    def handle(self) -> None:
        """Serve requests until one side ends the connection."""
        with contextlib.suppress(ClientDisconnected):
            try:
                self.request = self.server.tls_handshake(self.request)
                can_peek = self.server.tls is None
                self._reader = RequestReader(self.request, self.server.limits, can_peek=can_peek)
                self._serve_one()
                while self._keep_alive and not self.server.closing:
                    self._serve_one()
                self._linger_if_unread()
            except HTTPError as error:
                self._reject(error)

    def _serve_one(self) -> None:
        self._head, self._keep_alive = None, False
        self._unread = LINGER_BYTES, LINGER_SECONDS
        self._head = head = self._reader.read_head(is_first=not self._has_served)
        self._mark(State.RECEIVING)
        self.server.check_origin(head)
        self._respond(self._answer(head))
        self._has_served = True
        self._mark(State.IDLE)

    def _mark(self, state: State) -> None:
        self.server.connections.mark(self.request, state)

    def _answer(self, head: http1.RequestHead) -> Response | StreamingResponse:
        """Find the route, read the body, call the route; raises HTTPError for an unread body."""
        length, limits = http1.body_length(head), self.server.limits
        if length <= limits.body_bytes:
            self._unread = length if length >= 0 else limits.body_bytes, limits.body_seconds
        peer, local = map(_plain, (self.client_address[0], self.request.getsockname()[0]))
        request = Request(head.method, head.path, head, b"", peer, local)
        try:
            route = self._find_route(request)
        except HTTPError as refusal:
            if length:
                raise
            self._keep_alive = head.keep_alive
            return self._error_response(refusal, head)
        with Body(self.server.body_budget) as body:
            self._reader.read_body(head, body, self._send)
            self._mark(State.BUSY)
            self._keep_alive = head.keep_alive
            return self._call_route(route, request._replace(body=body.data))

    def _find_route(self, request: Request) -> Route:
        """Return the route of a request; raises HTTPError if there is none, or its check does."""
        methods = self.server.routes.get(request.path)
        if methods is None:
            raise HTTPError(404, "There is nothing at this address.")
        route = methods.get(request.method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            raise HTTPError(405, f"This address takes {allowed}.", Allow=allowed)
        if not isinstance(route, CheckedRoute):
            return route
        route.check(request)
        return route.route

    def _reject(self, error: HTTPError) -> None:
        """Answer a request that is not read to its end, and let the client read the answer."""
        self._keep_alive = False
        self._respond(self._error_response(error, self._head))
        size, seconds = self._unread
        size -= self._reader.buffered
        if size > 0 and error.status != HTTPStatus.REQUEST_TIMEOUT:
            self._linger = size, seconds
        else:
            self._linger_if_unread()

    def _linger_if_unread(self) -> None:
        """Let the connection linger if its client has sent more than it should."""
        if self._reader.buffered or self._reader.has_more():
            self._linger = LINGER_BYTES, LINGER_SECONDS

    def _call_route(self, route: Route, request: Request) -> Response | StreamingResponse:
        """Call a route; its exception becomes an answer."""
        try:
            return route(request)
        except HTTPError as error:
            return self._error_response(error, request.head)
        except Exception as error:  # noqa: BLE001 - the Kernel forgets who does not answer
            logger.error("answering %s failed: %s", self._loggable(request), describe(error))
            return self._error_response(HTTPError(500, UNEXPECTED), request.head)

    def _error_response(self, error: HTTPError, head: http1.RequestHead | None) -> Response:
        """Answer with an error's sentence, in the language that the request asks for."""
        languages = head.headers.get("accept-language", []) if head is not None else []
        text = error.message or HTTPStatus(error.status).phrase + "."
        text = render(text, language_of(", ".join(languages)))
        return self.server.render_error(error, head, text)

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
        self._send(response.encode(keep_alive=self._keep_alive, head_only=head_only))
        if self._head is not None:
            logger.debug("%s: %d", self._loggable(self._head), response.status)

    def _loggable(self, request: Request | http1.RequestHead) -> str:
        """Name a request for the log, without what its client made up: a query, an odd path."""
        known = request.path in self.server.routes
        return f"{request.method[:12]} {request.path if known else content(request.path)}"

    def _send_stream(self, response: StreamingResponse) -> None:
        assert self._head is not None
        chunked = not self._head.http10
        self._keep_alive = self._keep_alive and chunked
        writer = BodyWriter(
            self.request,
            self.server.flush_thread.request_flush,
            peek=self._reader.peek,
            would_block=self.server.would_block,
            chunked=chunked,
            stall_seconds=self.server.limits.send_seconds,
        )
        head = b""
        if response.begin is not None:
            writer.begin = partial(self._late_head, response.begin, chunked=chunked)
        else:
            head = self._stream_head(Beginning(200, response.content_type), chunked=chunked)
        try:
            self._start_stream(head, writer)
            response.produce(writer)
        finally:
            self.server.flush_thread.unregister(writer)
        if writer.disconnected:
            self._keep_alive = False

    def _stream_head(self, beginning: Beginning, *, chunked: bool) -> bytes:
        headers = [("Content-Type", beginning.content_type), ("Cache-Control", "no-store")]
        headers += beginning.headers
        if chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        return http1.response_head(beginning.status, headers, keep_alive=self._keep_alive)

    def _late_head(self, begin: Callable[[], Beginning], *, chunked: bool) -> bytes:
        """Return the head and the first frame of a response that is decided now."""
        beginning = begin()
        frame = beginning.frame
        if frame and chunked:
            frame = http1.chunk(frame)
        return self._stream_head(beginning, chunked=chunked) + frame

    def _start_stream(self, head: bytes, writer: BodyWriter) -> None:
        """Send the head. The producer runs even if the client has left: it must free its slot."""
        try:
            if head:
                self._send(head)
            self.request.settimeout(0)
            self.server.flush_thread.register(writer)
        except (ClientDisconnected, OSError, ValueError):
            writer.disconnected = True

    def _send(self, data: bytes) -> None:
        self.request.settimeout(self.server.limits.send_seconds)
        try:
            self.request.sendall(data)
        except (OSError, ValueError):
            raise ClientDisconnected from None


def _plain(address: str) -> str:
    """Return an address; IPv4 as such also where a socket of both IP versions has it mapped."""
    return address.removeprefix("::ffff:") if "." in address else address

"""One client's connection: strict heads, absolute deadlines, and an answer to everything."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol

from . import http1
from .delivery import Courier, Delivery
from .errors import UNEXPECTED, Gone, Refused, describe
from .exchange import Limits, Reply, Request, Routes, Streaming, message

logger = logging.getLogger(__name__)

LINGER_SECONDS, LINGER_BYTES = 2.0, 1 << 20
DEAD_PEER_MS = 30_000  # unacknowledged data for this long: the peer is dead


class Host(Protocol):
    """What a connection needs of the server that accepted it."""

    routes: Routes
    limits: Limits
    courier: Courier
    closing: bool
    tls: Any
    would_block: tuple[type[OSError], ...]

    def secure(self, sock: socket.socket) -> socket.socket:
        """Do the TLS handshake, if there is to be one."""

    def screen(self, head: http1.Head) -> None:
        """Raise Refused for hosts and origins that are not ours."""

    def note(self, sock: socket.socket, *, busy: bool) -> None:
        """Remember whether a request is under way."""

    def shutdown_request(self, request: Any) -> None:
        """Forget and close a connection."""


class Connection(BaseHTTPRequestHandler):
    """One client's connection, served on a thread of its own."""

    server: Host  # type: ignore[assignment]
    request: socket.socket

    def setup(self) -> None:
        """Prepare the socket; bytes that came early wait in `_buffer`."""
        self._buffer = b""
        self._head: http1.Head | None = None
        self._keep = self._served = False
        self._plain = sock = self.request
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)

    def finish(self) -> None:
        """Close what TLS wrapped; the plain socket is the server's to close."""
        if self.request is not self._plain:
            self.server.shutdown_request(self.request)

    def handle(self) -> None:
        """Serve requests until one side has had enough."""
        with contextlib.suppress(Gone):
            try:
                self.request = self.server.secure(self.request)
                self._serve_one()
                while self._keep and not self.server.closing:
                    self._serve_one()
            except Refused as error:
                self._refuse(error)

    def _serve_one(self) -> None:
        self._head, self._keep = None, False
        self._head = head = self._read_head()
        self.server.note(self.request, busy=True)
        self.server.screen(head)
        body = self._read_body(head)
        peer, own = str(self.client_address[0]), str(self.request.getsockname()[0])
        request = Request(head.method, head.path, head, body, peer, own)
        del body
        self._keep = head.keep_alive
        reply = self._route(request)
        del request  # its body may be large, and an answer takes long
        self._answer(reply)
        self._served = True
        self.server.note(self.request, busy=False)

    def _refuse(self, error: Refused) -> None:
        """Answer a request that was not understood, and let the client read the answer."""
        self._keep = False
        fields = tuple(error.fields.items())
        self._answer(message(error.status, error.message or _phrase(error.status), fields))
        if error.status == HTTPStatus.REQUEST_TIMEOUT:
            return
        with contextlib.suppress(OSError, Refused):
            self.request.shutdown(socket.SHUT_WR)
            deadline, left = time.monotonic() + LINGER_SECONDS, LINGER_BYTES
            while left > 0:
                self._buffer = b""
                self._receive(deadline)
                left -= len(self._buffer)

    def _route(self, request: Request) -> Reply | Streaming:
        """Find and call the route; whatever it raises becomes an answer."""
        methods = self.server.routes.get(request.path)
        if methods is None:
            return message(404, "There is nothing at this address.")
        route = methods.get(request.method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            return message(405, f"This address takes {allowed}.", (("Allow", allowed),))
        try:
            return route(request)
        except Refused as error:
            fields = tuple(error.fields.items())
            return message(error.status, error.message or _phrase(error.status), fields)
        except Exception as error:  # noqa: BLE001 - the Kernel forgets whoever does not answer
            logger.error("answering %s failed: %s", _loggable(request), describe(error))
            return message(500, UNEXPECTED)

    def _answer(self, reply: Reply | Streaming) -> None:
        if isinstance(reply, Streaming):
            self._stream(reply)
            return
        try:
            self._complete(reply)
        finally:
            if reply.after is not None:
                reply.after()

    def _complete(self, reply: Reply) -> None:
        head_only = self._head is not None and self._head.method == "HEAD"
        fields = list(reply.fields)
        if reply.status != HTTPStatus.NO_CONTENT:
            fields += [("Content-Type", reply.content_type)]
            fields += [("Content-Length", str(len(reply.body)))]
        head = http1.response_head(reply.status, fields, keep_alive=self._keep)
        self._send(head + (b"" if head_only else reply.body))
        if self._head is not None:
            logger.debug("%s: %d", _loggable(self._head), reply.status)

    def _stream(self, reply: Streaming) -> None:
        assert self._head is not None
        fields = [("Content-Type", reply.content_type), ("Cache-Control", "no-store")]
        if self._head.http10:
            self._keep = False
        else:
            fields.append(("Transfer-Encoding", "chunked"))
        delivery = Delivery(
            self.request,
            self.server.courier.request_flush,
            peek=self._peek,
            would_block=self.server.would_block,
            chunked=not self._head.http10,
            stall_seconds=self.server.limits.send_seconds,
        )
        head = http1.response_head(200, fields, keep_alive=self._keep)
        try:
            self._start_stream(head, delivery)
            reply.produce(delivery)
        finally:
            self.server.courier.unregister(delivery)
        if delivery.gone:
            self._keep = False

    def _start_stream(self, head: bytes, delivery: Delivery) -> None:
        """Send the head; if nobody is there, the producer must still run, to give back its slot."""
        try:
            self._send(head)
            self.request.settimeout(0)
            self.server.courier.register(delivery)
        except (Gone, OSError, ValueError):
            delivery.gone = True

    # -- reading and writing, each with a deadline

    def _peek(self) -> bytes:
        """Return bytes of a next request, empty bytes at the end; raises if there is neither."""
        if self.server.tls is None:
            return self.request.recv(1, socket.MSG_PEEK)
        early = self.request.recv(4096)
        self._buffer += early
        return early

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Refused(408)
        self.request.settimeout(left)
        try:
            data = self.request.recv(65536)
        except TimeoutError:
            raise Refused(408) from None
        except (OSError, ValueError):
            raise Gone from None
        if not data:
            raise Gone
        self._buffer += data

    def _read_head(self) -> http1.Head:
        limits = self.server.limits
        start = time.monotonic()
        idle = start + (limits.idle_seconds if self._served else limits.head_seconds)
        while not self._buffer.strip(b"\r\n"):
            self._buffer = b""
            try:
                self._receive(idle)
            except Refused:
                if self._served:
                    raise Gone from None  # an idle connection is closed without a word
                raise
        self._buffer = self._buffer.lstrip(b"\r\n")
        deadline = time.monotonic() + limits.head_seconds if self._served else idle
        return http1.parse_head(self._read_until(b"\r\n\r\n", http1.HEAD_LIMIT, deadline, 431))

    def _read_until(self, mark: bytes, limit: int, deadline: float, status: int) -> bytes:
        searched = 0
        while (end := self._buffer.find(mark, searched, limit)) < 0:
            if http1.BARE_LF.search(self._buffer[:limit]):
                raise Refused(400)
            if len(self._buffer) >= limit:
                raise Refused(status)
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

    def _read_body(self, head: http1.Head) -> bytes:
        limit = self.server.limits.body_bytes
        length = http1.body_length(head)
        if length > limit:
            raise Refused(413, f"The request is larger than {limit >> 20} MB.")
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
                raise Refused(413, f"The request is larger than {limit >> 20} MB.")
            body += self._read_exactly(size, deadline)
            if self._read_exactly(2, deadline) != b"\r\n":
                raise Refused(400)
        for _ in range(http1.FIELDS_LIMIT):
            if not self._read_until(b"\r\n", http1.LINE_LIMIT, deadline, 400):
                return bytes(body)
        raise Refused(431)

    def _send(self, data: bytes) -> None:
        self.request.settimeout(self.server.limits.send_seconds)
        try:
            self.request.sendall(data)
        except (OSError, ValueError):
            raise Gone from None


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase + "."


def _loggable(request: Request | http1.Head) -> str:
    return f"{request.method[:12]} {request.path[:120]}"

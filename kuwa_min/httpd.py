"""A hardened http.server: strict heads, limits, deadlines, bounded connections, streamed bodies.

Python's http.server is not meant for production. What it lacks is replaced here: absolute deadlines
instead of a timeout per read, a cap on connections that drops the oldest idle one, bodies read and
bounded before a route is called, an answer to everything, and no reverse DNS look-up at the start.
Knows nothing of chats or Kernels: a route is a function from Request to Reply or Streaming.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import http1
from .delivery import Courier, Delivery
from .errors import Gone, Refused, StartError

if TYPE_CHECKING:
    import ssl

logger = logging.getLogger(__name__)

LINGER_SECONDS, LINGER_BYTES = 2.0, 1 << 20
DEAD_PEER_MS = 30_000  # unacknowledged data for this long: the peer is dead
UNEXPECTED = "Error occurred. Please consult support."
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
PORT = re.compile(r":\d+$")


@dataclass(frozen=True)
class Limits:
    """How much of everything a client may take: bytes, seconds, connections."""

    body_bytes: int = 8 << 20
    head_seconds: float = 10
    body_seconds: float = 20
    idle_seconds: float = 8
    send_seconds: float = 10
    connections: int = 1024


@dataclass(frozen=True)
class Request:
    """One complete request; its body is read already."""

    method: str
    path: str
    head: http1.Head
    body: bytes

    def field(self, name: str) -> str | None:
        """Return the value of a header field, or None; several are joined with commas."""
        values = self.head.fields.get(name)
        return ", ".join(values) if values else None


@dataclass(frozen=True)
class Reply:
    """A complete answer."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Streaming:
    """A 200 whose body `produce` writes on the connection's thread; it must finish the delivery."""

    produce: Callable[[Delivery], None]
    content_type: str


Route = Callable[[Request], "Reply | Streaming"]
Routes = Mapping[str, Mapping[str, Route]]  # path -> method -> what answers


def message(status: int, text: str, fields: tuple[tuple[str, str], ...] = ()) -> Reply:
    """Answer with the short JSON sentence that the Kernel shows to people."""
    return Reply(status, json.dumps({"msg": text}, ensure_ascii=False).encode(), JSON, fields)


class Connection(BaseHTTPRequestHandler):
    """One client's connection, served on a thread of its own."""

    server: Server
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
        self._keep = head.keep_alive
        self._answer(self._route(Request(head.method, head.path, head, body)))
        self._served = True
        self.server.note(self.request, busy=False)

    def _refuse(self, error: Refused) -> None:
        """Answer a request that was not understood, and let the client read the answer."""
        self._keep = False
        fields = tuple(error.fields.items())
        self._answer(message(error.status, error.message or _phrase(error.status), fields))
        if error.status == HTTPStatus.REQUEST_TIMEOUT:
            return
        with contextlib.suppress(OSError):
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
            return self._stream(reply)
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
            self.server.courier,
            peek=self._peek,
            not_yet=self.server.not_yet,
            chunked=not self._head.http10,
            stall_seconds=self.server.limits.send_seconds,
        )
        head = http1.response_head(200, fields, keep_alive=self._keep)
        try:
            self._send(head)
        except Gone:
            delivery.gone = True  # the producer must still run, to give back what it holds
        else:
            self.request.settimeout(0)
            self.server.courier.watch(delivery)
        try:
            reply.produce(delivery)
        finally:
            self.server.courier.forget(delivery)
        if delivery.gone:
            self._keep = False

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


class Server(ThreadingHTTPServer):
    """A listening socket, its connections and the courier of their streamed bodies."""

    request_queue_size = 1024
    daemon_threads = True
    allow_reuse_address = os.name == "posix"
    block_on_close = False

    def __init__(
        self,
        address: tuple[str, int],
        routes: Routes,
        *,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.routes, self.limits, self.tls = routes, limits or Limits(), tls
        self.origins = {name.lower() for name in origins}
        self.hosts = {"localhost", *(name.lower() for name in hosts), *self.origins}
        self.not_yet: tuple[type[OSError], ...] = (BlockingIOError, InterruptedError)
        if tls is not None:
            import ssl

            self.not_yet += (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self.courier = Courier()
        self.closing = False
        self._guard = threading.Lock()
        self._open: dict[int, tuple[socket.socket, bool]] = {}  # oldest first; True while busy
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        try:
            super().__init__(address, Connection)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StartError(
                f"cannot listen on {address[0]} port {address[1]}: {reason}; "
                "choose another --port or --bind"
            ) from None

    def __enter__(self) -> Server:
        """Serve from now on, on threads of its own."""
        self.courier.__enter__()
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.2,), name="httpd", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Stop listening; idle connections end, running answers are cut."""
        self.closing = True
        self.shutdown()
        self.server_close()
        self.courier.__exit__(None, None, None)

    @property
    def port(self) -> int:
        """Return the port that is really listened on."""
        return int(self.socket.getsockname()[1])

    def server_bind(self) -> None:
        """Bind without the reverse DNS look-up of http.server, which can hang for seconds."""
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def secure(self, sock: socket.socket) -> socket.socket:
        """Do the TLS handshake, if there is to be one."""
        if self.tls is None:
            return sock
        sock.settimeout(self.limits.head_seconds)
        try:
            secured = self.tls.wrap_socket(sock, server_side=True)
        except (OSError, ValueError):
            raise Gone from None
        with self._guard:
            self._open.pop(id(sock), None)
            self._open[id(secured)] = (secured, False)
        return secured

    def screen(self, head: http1.Head) -> None:
        """Refuse what a web page of somebody else may have sent: foreign names and origins."""
        host = head.authority if head.authority is not None else head.field("host")
        if host is None and not head.http10:
            raise Refused(400, "The request has no Host.")
        if host is not None and not self._is_ours(PORT.sub("", host).lower()):
            raise Refused(421, "This host name is not known here; --allowed_hosts adds one.")
        origin = head.field("origin")
        if origin is not None and not self._is_same(origin, host):
            raise Refused(403, "Requests from other web sites are refused.")
        if origin is None and head.field("sec-fetch-site") in ("cross-site", "same-site"):
            raise Refused(403, "Requests from other web sites are refused.")

    def _is_ours(self, name: str) -> bool:
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _is_same(self, origin: str, host: str | None) -> bool:
        authority = origin.lower().partition("://")[2]
        same = bool(authority) and authority == (host or "").lower()
        return same or PORT.sub("", authority) in self.origins

    def note(self, sock: socket.socket, *, busy: bool) -> None:
        """Remember whether a request is under way; the newest stands last."""
        with self._guard:
            if self._open.pop(id(sock), None):
                self._open[id(sock)] = (sock, busy)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; out of descriptors, drop an idle one instead of spinning."""
        try:
            return super().get_request()
        except OSError:
            self._drop_oldest_idle()
            threading.Event().wait(0.05)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own, if there is room for one."""
        with self._guard:
            self._open[id(request)] = (request, False)
            full = len(self._open) > self.limits.connections
        if full:
            self._drop_oldest_idle()
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads: the Kernel forgets whoever does not answer
            self._turn_away(request)

    def _turn_away(self, request: socket.socket) -> None:
        body = b"Too many connections. Please try again."
        fields = [("Content-Type", TEXT), ("Content-Length", str(len(body)))]
        with contextlib.suppress(OSError):
            request.settimeout(0.1)
            request.sendall(http1.response_head(503, fields, keep_alive=False) + body)
        self.shutdown_request(request)

    def _drop_oldest_idle(self) -> None:
        with self._guard:
            idle = next((sock for sock, busy in self._open.values() if not busy), None)
        if idle is not None:
            with contextlib.suppress(OSError):
                idle.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Forget and close a connection."""
        with self._guard:
            self._open.pop(id(request), None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what nobody foresaw in one line."""
        error = sys.exc_info()[1]
        if error is not None:
            logger.error("a connection failed: %s", describe(error))


def describe(error: BaseException) -> str:
    """Name an exception and its place, without its message, which may quote a person."""
    trace, place = error.__traceback__, "?"
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{os.path.basename(code.co_filename)}:{trace.tb_lineno} in {code.co_name}"  # noqa: PTH119
        trace = trace.tb_next
    return f"{type(error).__name__} at {place}"


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase + "."


def _loggable(request: Request | http1.Head) -> str:
    return f"{request.method[:12]} {request.path[:120]}"

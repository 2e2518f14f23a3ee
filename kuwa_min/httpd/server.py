"""A hardened http.server: bounded connections, checked hosts and origins, TLS, clean shutdown.

Python's http.server is not meant for production. What it lacks is replaced here and in connection:
absolute deadlines instead of a timeout per read, a cap on connections that drops the oldest idle
one, bodies read and bounded before a route is called, an answer to everything, and no reverse DNS
lookup at the start. Knows nothing of chats or Kernels: a route is a function of a request.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Collection
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from kuwa_min.errors import ClientDisconnected, StartError, describe

from . import http1
from .body_budget import BodyBudget
from .connection import Connection
from .flush_thread import FlushThread
from .limits import Limits
from .messages import TEXT, Routes
from .origin_policy import OriginPolicy

if TYPE_CHECKING:
    import ssl

logger = logging.getLogger(__name__)

SHUTDOWN_POLL = 0.1  # seconds between two looks of the accepting thread at a shutdown
ACCEPT_BACKOFF = 0.05  # seconds without accept() once the process is out of descriptors
REJECT_TIMEOUT = 0.1  # seconds that the accepting thread may take to send a 503


class Server(ThreadingHTTPServer):
    """A listening socket and the threads of its connections; a `with` block serves.

    One thread accepts, each connection has a thread, and a flush thread serves the streamed bodies.
    Raises StartError if the address cannot be listened on.

    address: IP address or host name, and port; 0 is any free one, see `port`.
    hosts: names that may stand in Host; localhost and every IP address may, too.
    origins: hosts of further web sites whose pages may send requests.
    any_host_paths: paths whose GET is answered under any Host, unless a browser sends it.
    """

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
        any_host_paths: Collection[str] = (),
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.routes, self.limits, self.tls = routes, limits or Limits(), tls
        self.body_budget = BodyBudget(self.limits.bodies_bytes)
        self.check_origin = OriginPolicy(hosts, origins, any_host_paths).check
        self.would_block: tuple[type[OSError], ...] = (BlockingIOError, InterruptedError)
        if tls is not None:
            import ssl

            self.would_block += (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self.closing = False
        self._lock = threading.Lock()  # guards _connections
        # By id(socket), the longest unchanged first; True from a request's head to its answer's end
        self._connections: dict[int, tuple[socket.socket, bool]] = {}
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
        self.flush_thread = FlushThread()

    def __enter__(self) -> Server:
        """Start the threads."""
        self.flush_thread.__enter__()
        self._thread = threading.Thread(
            target=self.serve_forever, args=(SHUTDOWN_POLL,), name="httpd", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening and close all connections; answers under way are cut."""
        self.closing = True
        self.shutdown()
        self.server_close()
        with self._lock:
            remaining = [sock for sock, _ in self._connections.values()]
        for sock in remaining:
            _shut_down(sock)
        self.flush_thread.__exit__()

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        return int(self.socket.getsockname()[1])

    def server_bind(self) -> None:
        """Bind without the reverse DNS lookup of http.server, which can block for seconds."""
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        if self.server_address[0] == "::":  # both families, whatever the default of the system is
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def tls_handshake(self, sock: socket.socket) -> socket.socket:
        """Return the TLS socket of a new connection, or the socket itself without TLS.

        Called on the connection's thread: a client that is slow to shake hands delays no other.
        """
        if self.tls is None:
            return sock
        try:
            wrapped = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):  # it left, or sent something before the handshake
            raise ClientDisconnected from None
        with self._lock:
            self._connections.pop(id(sock), None)
            self._connections[id(wrapped)] = (wrapped, False)
        wrapped.settimeout(self.limits.head_seconds)
        try:
            wrapped.do_handshake()
        except (OSError, ValueError):
            self.shutdown_request(wrapped)
            raise ClientDisconnected from None
        return wrapped

    def mark_busy(self, sock: socket.socket) -> None:
        """Keep a connection from being dropped: a request has begun."""
        self._mark(sock, busy=True)

    def mark_idle(self, sock: socket.socket) -> None:
        """Allow a connection to be dropped: its request is answered."""
        self._mark(sock, busy=False)

    def _mark(self, sock: socket.socket, *, busy: bool) -> None:
        with self._lock:
            if self._connections.pop(id(sock), None):
                self._connections[id(sock)] = (sock, busy)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; out of descriptors, drop an idle one instead of spinning."""
        try:
            return super().get_request()
        except OSError:
            self._drop_oldest_idle()
            threading.Event().wait(ACCEPT_BACKOFF)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own; at the limit, drop the oldest idle one.

        The new one may be the Kernel's, which forgets an executor that does not answer. So it is
        refused with a 503 only if there are twice as many as the limit, or no more threads.
        """
        with self._lock:
            others = len(self._connections)
        if others >= self.limits.connections:
            self._drop_oldest_idle()
        with self._lock:
            self._connections[id(request)] = (request, False)
        try:
            if others >= 2 * self.limits.connections:
                raise RuntimeError("too many connections are busy")
            super().process_request(request, client_address)
        except RuntimeError:  # also of a thread that cannot be started
            self._reject(request)

    def _reject(self, request: socket.socket) -> None:
        body = b"Too many connections. Please try again."
        headers = [("Content-Type", TEXT), ("Content-Length", str(len(body)))]
        with contextlib.suppress(OSError):
            request.settimeout(REJECT_TIMEOUT)
            request.sendall(http1.response_head(503, headers, keep_alive=False) + body)
        self.shutdown_request(request)

    def _drop_oldest_idle(self) -> None:
        with self._lock:
            idle = next((key for key, (_, busy) in self._connections.items() if not busy), None)
            sock = self._connections.pop(idle)[0] if idle is not None else None
        if sock is not None:
            _shut_down(sock)

    def shutdown_request(self, request: Any) -> None:
        """Forget and close a connection."""
        with self._lock:
            self._connections.pop(id(request), None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an unexpected error of a connection in one line, without the traceback."""
        error = sys.exc_info()[1]
        if error is not None:
            logger.error("a connection failed: %s", describe(error))


def _shut_down(sock: socket.socket) -> None:
    """Interrupt the thread that waits for this socket; that thread closes it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)

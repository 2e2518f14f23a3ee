"""A hardened http.server: bounded connections, screened hosts and origins, TLS, clean shutdown.

Python's http.server is not meant for production. What it lacks is replaced here and in connection:
absolute deadlines instead of a timeout per read, a cap on connections that drops the oldest idle
one, bodies read and bounded before a route is called, an answer to everything, and no reverse DNS
look-up at the start. Knows nothing of chats or Kernels: routes are functions of an exchange.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Collection
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from . import http1
from .connection import Connection
from .delivery import Courier
from .errors import Gone, Refused, StartError, describe
from .exchange import TEXT, Limits, Routes

if TYPE_CHECKING:
    import ssl

logger = logging.getLogger(__name__)

REFUSED_NAMES = 10  # names that are explained in the log
PORT = re.compile(r":\d+$")
GET = ("GET", "HEAD")


class Server(ThreadingHTTPServer):
    """A listening socket, its connections and the courier of their streamed bodies.

    hosts: names that may stand in Host; localhost and every address may, too.
    origins: hosts of further web sites whose pages may call.
    any_host: paths whose GET is answered under any name, unless a browser asks.
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
        any_host: Collection[str] = (),
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.routes, self.limits, self.tls = routes, limits or Limits(), tls
        self.origins = {name.lower() for name in origins}
        self.hosts = {"localhost", *(name.lower() for name in hosts), *self.origins}
        self.any_host = frozenset(any_host)
        self.would_block: tuple[type[OSError], ...] = (BlockingIOError, InterruptedError)
        if tls is not None:
            import ssl

            self.would_block += (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self.closing = False
        self._refused: set[str] = set()
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
        self.courier = Courier()

    def __enter__(self) -> Server:
        """Serve from now on, on threads of its own."""
        self.courier.__enter__()
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.1,), name="httpd", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening; idle connections end, running answers are cut."""
        self.closing = True
        self.shutdown()
        self.server_close()
        with self._guard:
            left = [sock for sock, _ in self._open.values()]
        for sock in left:
            _hang_up(sock)
        self.courier.__exit__()

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
        if self.server_address[0] == "::":  # of both families, whatever the system's default is
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def secure(self, sock: socket.socket) -> socket.socket:
        """Do the TLS handshake, if there is to be one."""
        if self.tls is None:
            return sock
        try:
            secured = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):  # it left, or said something before the handshake
            raise Gone from None
        with self._guard:
            self._open.pop(id(sock), None)
            self._open[id(secured)] = (secured, False)
        secured.settimeout(self.limits.head_seconds)
        try:
            secured.do_handshake()
        except (OSError, ValueError):
            self.shutdown_request(secured)
            raise Gone from None
        return secured

    def screen(self, head: http1.Head) -> None:
        """Raise Refused for what a page of another web site may have sent.

        The Kernel forwards its client's Host, so any name is fine for a POST, unless it comes from
        a browser: then Host must be ours, which no DNS rebinding can arrange, and Origin the same.
        """
        host = head.authority if head.authority is not None else head.field("host")
        if host is None and not head.http10:
            raise Refused(400, "The request has no Host.")
        if head.from_browser or not self._serves_any_host(head):
            self._check_host(host)
        self._check_origin(head, host)

    def _serves_any_host(self, head: http1.Head) -> bool:
        return head.method == "POST" or (head.method in GET and head.path in self.any_host)

    def _check_host(self, host: str | None) -> None:
        name = PORT.sub("", host).lower() if host is not None else None
        if name is not None and not self._is_ours(name):
            self._explain(name)
            raise Refused(421, "This host name is not known here; --allowed_hosts adds one.")

    def _check_origin(self, head: http1.Head, host: str | None) -> None:
        origin = head.field("origin")
        if origin is not None and not self._is_same(origin, host):
            self._explain(PORT.sub("", origin.lower().partition("://")[2]))
            raise Refused(403, "Requests from other web sites are refused.")
        if origin is None and head.field("sec-fetch-site") in ("cross-site", "same-site"):
            raise Refused(403, "Requests from other web sites are refused.")

    def _explain(self, name: str) -> None:
        """Tell the operator once about each name that is refused, up to a few names."""
        if len(self._refused) < REFUSED_NAMES and name not in self._refused:
            self._refused.add(name)
            logger.warning(
                "requests for or from %.80r are refused; --allowed_hosts would let them in", name
            )

    def _is_ours(self, name: str) -> bool:
        if name in self.hosts:
            return True
        for family, literal in ((socket.AF_INET, name), (socket.AF_INET6, name.strip("[]"))):
            with contextlib.suppress(OSError, ValueError):
                socket.inet_pton(family, literal)
                return True
        return False

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
        """Serve a connection on a thread of its own, making room by dropping the oldest idle one.

        The newest may be the Kernel, which forgets whoever does not answer: it is always answered.
        """
        with self._guard:
            others = len(self._open)
        if others >= self.limits.connections:
            self._drop_oldest_idle()
        with self._guard:
            self._open[id(request)] = (request, False)
        try:
            if others >= 2 * self.limits.connections:
                raise RuntimeError("too many connections are busy")
            super().process_request(request, client_address)
        except RuntimeError:  # or no more threads
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
            idle = next((key for key, (_, busy) in self._open.items() if not busy), None)
            sock = self._open.pop(idle)[0] if idle is not None else None
        if sock is not None:
            _hang_up(sock)

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


def _hang_up(sock: socket.socket) -> None:
    """Wake whoever waits for this socket; its own thread closes it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)

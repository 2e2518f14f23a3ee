"""One HTTP/1.1 connection, plain or with TLS, perhaps through a proxy; its waits can be cancelled.

Every socket on which a thread waits is watched by its cancel scope, name look-ups included.
Proxies of the environment are used, but never for this machine itself.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast
from urllib.parse import urlsplit

from kuwa_min.options.proxies import PORTS
from kuwa_min.process.deadline import Deadline, Response

from .cancellation import CancelScope, current_scope
from .lookup import look_up
from .origin import Origin, join_host_and_port, proxy_credentials

# Seconds and probes after which a peer that vanished without a word is noticed.
KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4))


class ConnectTimeout(OSError):
    """Report a service to which no connection was made in time."""


class Request(NamedTuple):
    """A request as it is sent; the headers name the host, and the body's length if it has one."""

    origin: Origin
    method: str
    target: str  # path and query
    headers: list[tuple[str, str]]
    body: bytes = b""


class Timeouts(NamedTuple):
    """Seconds that a step may take; None: without a limit."""

    connect: float | None  # the name, all addresses, proxy and TLS together
    read: float | None  # the whole head, or the whole of an error; then until the next bytes
    total: float | None = None  # head and body, of a request that does not stream


class Connection(http.client.HTTPConnection):
    """One connection; used by one thread at a time."""

    def __init__(self, origin: Origin, tls_context: Callable[[], ssl.SSLContext]) -> None:
        super().__init__(origin.host, origin.port)
        self.origin, self._tls_context = origin, tls_context
        self._scope = current_scope()
        self._connecting = Deadline(None)
        self.is_reused = False

    def send_request(self, request: Request, timeouts: Timeouts, scope: CancelScope) -> Response:
        """Send a request, connecting first if need be; return the head of its response."""
        self._scope = scope
        if self.sock is not None:
            scope.watch(self.sock)
        else:
            self._connect_in_time(timeouts.connect)
        answering = Deadline(timeouts.read if timeouts.total is None else timeouts.total)
        self.response_class = partial(Response, deadline=answering)  # type: ignore[assignment]
        self.sock.settimeout(timeouts.read)
        target = self._request_target(request.target)
        self.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in (*request.headers, *self._proxy_headers()):
            self.putheader(name, value)
        self.endheaders(request.body)
        response = cast(Response, self.getresponse())
        if timeouts.total is None and response.status < 400:
            response.lift_deadline(timeouts.read)
        return response

    @property
    def _is_forwarded(self) -> bool:
        """Tell whether a proxy forwards each request: plain HTTP needs no tunnel."""
        return bool(self.origin.proxy) and self.origin.scheme == "http"

    def _request_target(self, target: str) -> str:
        """Return the target in absolute form for a proxy that forwards, else as it is."""
        return f"http://{self.origin.authority}{target}" if self._is_forwarded else target

    def _proxy_headers(self) -> list[tuple[str, str]]:
        return proxy_credentials(self.origin.proxy) if self._is_forwarded else []

    def _connect_in_time(self, seconds: float | None) -> None:
        self._connecting = Deadline(seconds)
        try:
            self.connect()
        except TimeoutError:
            raise ConnectTimeout(f"no connection within {seconds:g} s") from None

    def connect(self) -> None:
        """Connect to the service, by way of the proxy if there is one."""
        origin = self.origin
        if origin.proxy:
            proxy = urlsplit(origin.proxy)
            sock = self._dial(proxy.hostname or "", proxy.port or PORTS.get(proxy.scheme, 1080))
            if proxy.scheme == "https":
                sock = self._wrap_tls(sock, proxy.hostname or "")
            elif proxy.scheme != "http":
                raise OSError(f"proxies of the kind {proxy.scheme} are not supported")
            self.sock = sock
            if origin.scheme == "https":
                self._open_tunnel(sock)
        else:
            self.sock = sock = self._dial(origin.host, origin.port)
        if origin.scheme == "https":
            self.sock = self._wrap_tls(sock, origin.host)

    def _dial(self, host: str, port: int) -> socket.socket:
        """Connect to the first address of a host that accepts."""
        problem: OSError = OSError(f"{host} has no address")
        addresses = look_up(host, port, self._connecting.left())
        for tried, (family, kind, proto, _, address) in enumerate(addresses):
            sock = socket.socket(family, kind, proto)
            try:
                sock.settimeout(self._connecting.share(len(addresses) - tried))
                self._scope.watch(sock)
                sock.connect(address)
                _tune(sock)
                return sock
            except OSError as error:
                problem = error
                self._scope.unwatch()
                sock.close()
                if self._scope.is_cancelled:
                    break
        raise problem

    def _wrap_tls(self, sock: socket.socket, host: str) -> socket.socket:
        """Return a TLS socket over a connected one, whose descriptor it takes over."""
        self._scope.unwatch()
        context = self._tls_context()
        wrapped = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        self.sock = wrapped
        self._scope.watch(wrapped)
        wrapped.settimeout(self._connecting.left())
        wrapped.do_handshake()
        return wrapped

    def _open_tunnel(self, sock: socket.socket) -> None:
        """Open a CONNECT tunnel to the service through the proxy; raises OSError if refused."""
        target = join_host_and_port(self.origin.host, self.origin.port)
        headers = [("Host", target), *proxy_credentials(self.origin.proxy)]
        lines = [f"CONNECT {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        sock.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        response = Response(sock, method="CONNECT", deadline=self._connecting)
        try:
            response.begin()
            if response.status != 200:
                raise OSError(f"the proxy refuses to connect us: {response.status}")
        finally:
            response.close()

    def is_readable(self) -> bool:
        """Tell whether an idle connection has something to read, such as its end, or is closed."""
        if self.sock is None:
            return True
        with contextlib.suppress(OSError, ValueError):
            return bool(select.select([self.sock], [], [], 0)[0])
        return True


def _tune(sock: socket.socket) -> None:
    """Send small writes at once, and notice a peer that vanished without a word."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

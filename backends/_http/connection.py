"""One HTTP/1.1 connection, plain or with TLS, perhaps through a proxy; its waits can be cancelled.

Every socket on which a thread waits is watched by its cancel scope, name look-ups included.
Proxies of the environment are used, but never for this machine itself.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import os
import queue
import select
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment

from .cancellation import Cancelled, CancelScope, current_scope

PORTS = {"http": 80, "https": 443}
# Seconds and probes after which a peer that vanished without a word is noticed.
KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4))
CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS
)
CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class ConnectTimeout(OSError):
    """Report a service to which no connection was made in time."""


class Origin(NamedTuple):
    """Where requests go, and through which proxy."""

    scheme: str
    host: str
    port: int
    proxy: str = ""  # its URL; empty: none

    @classmethod
    def of(cls, scheme: str, host: str, port: int | None) -> Origin:
        """Return an origin with the proxy that the environment names for it."""
        found = cls(scheme, host, port or PORTS[scheme])
        return found._replace(proxy=_proxy_for(found))

    @property
    def authority(self) -> str:
        """Return host and port as a Host header has them: without the scheme's default port."""
        if self.port == PORTS[self.scheme]:
            return f"[{self.host}]" if ":" in self.host else self.host
        return _host_and_port(self.host, self.port)


class Request(NamedTuple):
    """A request as it is sent; the headers name the host, and the body's length if it has one."""

    origin: Origin
    method: str
    target: str  # path and query
    headers: list[tuple[str, str]]
    body: bytes = b""


class Timeouts(NamedTuple):
    """Seconds that a step may take; None: without a limit."""

    connect: float | None  # each address, TLS included
    read: float | None  # until the next bytes


def create_tls_context() -> ssl.SSLContext:
    """Return a context that verifies certificates; raises OSError for CAs that cannot be read.

    Trusted are the CAs in all files and folders that CA_VARIABLES of the environment name; if none
    does, those of the system, or of certifi where the system has none. OpenSSL, httpx, requests and
    curl each read some of these variables: here one rule holds for every service.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    named = {path: name for name in CA_VARIABLES if (path := os.environ.get(name))}
    for path, name in named.items():  # each once: they often name the same
        is_folder = name == "SSL_CERT_DIR" or Path(path).is_dir()
        context.load_verify_locations(**{"capath" if is_folder else "cafile": path})
    if named:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate CA will do
        return context
    context.load_default_certs()
    if not _has_default_cas() and (path := _find_cas()):
        context.load_verify_locations(path)
    return context


def _has_default_cas() -> bool:
    """Tell whether there are CAs where this Python was built to look for them."""
    paths = ssl.get_default_verify_paths()
    folder = paths.capath and any(Path(paths.capath).glob("*.0"))
    return bool(paths.cafile or folder or os.name == "nt")


def _find_cas() -> str | None:
    """Return a file of CAs: the system's, else certifi's."""
    for path in CA_FILES:
        if Path(path).is_file():
            return path
    with contextlib.suppress(ImportError):
        import certifi

        return certifi.where()
    return None


def _proxy_for(origin: Origin) -> str:
    proxies: Mapping[str, str] = getproxies_environment()
    host_and_port = f"{origin.host}:{origin.port}"
    if is_loopback(origin.host) or proxy_bypass_environment(host_and_port):
        return ""
    proxy = proxies.get(origin.scheme) or proxies.get("all") or ""
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine: what is sent there cannot be read on the way."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Connection(http.client.HTTPConnection):
    """One connection; used by one thread at a time."""

    def __init__(self, origin: Origin, tls_context: Callable[[], ssl.SSLContext]) -> None:
        super().__init__(origin.host, origin.port)
        self.origin, self._tls_context = origin, tls_context
        self._scope = current_scope()
        self._connect_timeout: float | None = None
        self.is_reused = False

    def send_request(
        self, request: Request, timeouts: Timeouts, scope: CancelScope
    ) -> http.client.HTTPResponse:
        """Send a request, connecting first if need be; return the head of its response."""
        self._scope, self._connect_timeout = scope, timeouts.connect
        if self.sock is not None:
            scope.watch(self.sock)
        else:
            self._connect_in_time()
        self.sock.settimeout(timeouts.read)
        target = self._request_target(request.target)
        self.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in (*request.headers, *self._proxy_headers()):
            self.putheader(name, value)
        self.endheaders(request.body)
        return self.getresponse()

    @property
    def _is_forwarded(self) -> bool:
        """Tell whether a proxy forwards each request: plain HTTP needs no tunnel."""
        return bool(self.origin.proxy) and self.origin.scheme == "http"

    def _request_target(self, target: str) -> str:
        """Return the target in absolute form for a proxy that forwards, else as it is."""
        return f"http://{self.origin.authority}{target}" if self._is_forwarded else target

    def _proxy_headers(self) -> list[tuple[str, str]]:
        return _credentials(self.origin.proxy) if self._is_forwarded else []

    def _connect_in_time(self) -> None:
        try:
            self.connect()
        except TimeoutError:
            raise ConnectTimeout(f"no connection within {self._connect_timeout:g} s") from None

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
        addresses = look_up(host, port, self._connect_timeout)
        for family, kind, proto, _, address in addresses:
            sock = socket.socket(family, kind, proto)
            try:
                sock.settimeout(self._connect_timeout)
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
        wrapped.do_handshake()
        return wrapped

    def _open_tunnel(self, sock: socket.socket) -> None:
        """Have a proxy connect us to the service."""
        target = _host_and_port(self.origin.host, self.origin.port)
        headers = [("Host", target), *_credentials(self.origin.proxy)]
        lines = [f"CONNECT {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        sock.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        response = http.client.HTTPResponse(sock, method="CONNECT")
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


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _credentials(proxy: str) -> list[tuple[str, str]]:
    """Return the header for the user and password in a proxy's URL, if it has them."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return []
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return [("Proxy-Authorization", f"Basic {base64.b64encode(pair).decode()}")]


def _tune(sock: socket.socket) -> None:
    """Send small writes at once, and notice a peer that vanished without a word."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def look_up(host: str, port: int, seconds: float | None) -> list[Any]:
    """Return what getaddrinfo() does, which cannot be interrupted: another thread waits in it.

    The thread's cancel scope ends the wait. Raises TimeoutError after `seconds`, and OSError.
    """
    scope = current_scope()
    with contextlib.suppress(socket.gaierror, UnicodeError):
        flags = socket.AI_NUMERICHOST
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    found: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.put(error)
        except UnicodeError:
            found.put(socket.gaierror(socket.EAI_NONAME, f"{host} is no name of a host"))

    scope.on_cancel(lambda: found.put(Cancelled("the chat was stopped")))
    threading.Thread(target=resolve, name="look-up", daemon=True).start()
    try:
        answer = found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no name server says where {host} is") from None
    finally:
        scope.unwatch()
    if isinstance(answer, OSError):
        raise answer
    return answer

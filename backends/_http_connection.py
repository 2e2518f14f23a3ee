"""Connect to a web service, perhaps through a proxy, so that any thread can cut it off.

Whoever waits in a socket holds it on the thread's line. Proxies of the environment are used, but
never for this machine itself.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import queue
import select
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment

from . import _line

PORTS = {"http": 80, "https": 443}
KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4))  # a peer that is gone


class NotConnected(OSError):
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


class Timeouts(NamedTuple):
    """Seconds that a step may take; None: for ever."""

    connect: float | None
    read: float | None  # until the next bytes


def _proxy_for(origin: Origin) -> str:
    proxies: Mapping[str, str] = getproxies_environment()
    place = f"{origin.host}:{origin.port}"
    if _is_this_machine(origin.host) or proxy_bypass_environment(place):
        return ""
    proxy = proxies.get(origin.scheme) or proxies.get("all") or ""
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Connection(http.client.HTTPConnection):
    """One connection, plain or with TLS, perhaps through a proxy."""

    def __init__(self, origin: Origin, tls: Callable[[], ssl.SSLContext]) -> None:
        super().__init__(origin.host, origin.port)
        self.origin, self._tls = origin, tls
        self._line = _line.current()
        self._seconds: float | None = None
        self.is_used = False

    def ask(
        self,
        line: _line.Line,
        method: str,
        target: str,
        fields: list[tuple[str, str]],
        body: bytes,
        timeouts: Timeouts,
    ) -> http.client.HTTPResponse:
        """Send a request; return the head of its answer."""
        self._line, self._seconds = line, timeouts.connect
        if self.sock is not None:
            line.hold(self.sock)
        else:
            self._connect_in_time()
        self.sock.settimeout(timeouts.read)
        self.putrequest(method, self._target(target), skip_host=True, skip_accept_encoding=True)
        for name, value in fields:
            self.putheader(name, value)
        self.endheaders(body)
        return self.getresponse()

    def _target(self, target: str) -> str:
        """Return what the request line names: a proxy without a tunnel wants the whole address."""
        if not self.origin.proxy or self.origin.scheme == "https":
            return target
        return f"http://{_authority(self.origin.host, self.origin.port)}{target}"

    def _connect_in_time(self) -> None:
        try:
            self.connect()
        except TimeoutError:
            raise NotConnected(f"no connection within {self._seconds:g} s") from None

    def connect(self) -> None:
        """Connect to the service, by way of the proxy if there is one."""
        origin = self.origin
        if origin.proxy:
            proxy = urlsplit(origin.proxy)
            plug = self._dial(proxy.hostname or "", proxy.port or PORTS.get(proxy.scheme, 1080))
            if proxy.scheme == "https":
                plug = self._encrypt(plug, proxy.hostname or "")
            elif proxy.scheme != "http":
                raise OSError(f"proxies of the kind {proxy.scheme} are not supported")
            self.sock = plug
            if origin.scheme == "https":
                self._tunnel_through(plug, _credentials(proxy.username, proxy.password))
        else:
            self.sock = plug = self._dial(origin.host, origin.port)
        if origin.scheme == "https":
            self.sock = self._encrypt(plug, origin.host)

    def _dial(self, host: str, port: int) -> socket.socket:
        """Connect to the first address of a host that answers."""
        problem: OSError = OSError(f"{host} has no address")
        for family, kind, proto, _, address in _look_up(host, port, self._line, self._seconds):
            plug = socket.socket(family, kind, proto)
            try:
                plug.settimeout(self._seconds)
                self._line.hold(plug)
                plug.connect(address)
                _tune(plug)
                return plug
            except OSError as error:
                problem = error
                self._line.release()
                plug.close()
                if self._line.is_cut:
                    break
        raise problem

    def _encrypt(self, plug: socket.socket, host: str) -> socket.socket:
        """Return a socket with TLS over a connected one, which that takes over."""
        self._line.release()
        context = self._tls()
        secret = context.wrap_socket(plug, server_hostname=host, do_handshake_on_connect=False)
        self.sock = secret
        self._line.hold(secret)
        secret.do_handshake()
        return secret

    def _tunnel_through(self, plug: socket.socket, fields: bytes) -> None:
        """Have a proxy connect us to the service."""
        place = _authority(self.origin.host, self.origin.port).encode()
        plug.sendall(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (place, place, fields))
        answer = http.client.HTTPResponse(plug, method="CONNECT")
        try:
            answer.begin()
            if answer.status != 200:
                raise OSError(f"the proxy refuses to connect us: {answer.status}")
        finally:
            answer.close()

    def is_quiet(self) -> bool:
        """Tell whether nothing has come that nobody asked for, such as the end."""
        if self.sock is None:
            return False
        with contextlib.suppress(OSError, ValueError):
            return not select.select([self.sock], [], [], 0)[0]
        return False


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _credentials(name: str | None, password: str | None) -> bytes:
    if name is None:
        return b""
    pair = f"{unquote(name)}:{unquote(password or '')}".encode()
    return b"Proxy-Authorization: Basic " + base64.b64encode(pair) + b"\r\n"


def _tune(plug: socket.socket) -> None:
    """Send small pieces at once, and notice a machine that went away without a word."""
    plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(socket, name):
            plug.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _look_up(host: str, port: int, line: _line.Line, seconds: float | None) -> list[Any]:
    """Return the addresses of a host; the system's own call cannot be interrupted, a thread can."""
    with contextlib.suppress(socket.gaierror):
        flags = socket.AI_NUMERICHOST
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    found: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.put(error)
        except UnicodeError:
            found.put(OSError(f"{host} is no name of a host"))

    line.hold_call(lambda: found.put(_line.Cut("the line was cut")))
    threading.Thread(target=ask, name="look-up", daemon=True).start()
    try:
        answer = found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no name server says where {host} is") from None
    finally:
        line.release()
    if isinstance(answer, OSError):
        raise answer
    return answer

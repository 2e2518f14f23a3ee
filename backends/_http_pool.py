"""Ask a web service over connections that are kept for the next request, and that can be cut.

http.client does the framing of requests and heads. What is added: whoever waits in a socket holds
it on the thread's line, bodies are read as much at a time as has come, and proxies of the
environment are used, but never for this machine itself.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import queue
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment

from . import _line

IDLE_SECONDS = 30.0  # after which a kept connection is not trusted any more
MOST_IDLE = 256  # connections that are kept
READ_SIZE = 32768
MOMENT = 0.02  # seconds that the end of a body may be late without costing the connection
UNWANTED = ("set-cookie",)  # the connections serve many people
HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{1,15}")
LONGEST_SIZE_LINE = 4096  # bytes of a chunk's size with its extensions
PORTS = {"http": 80, "https": 443}
KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4))  # a peer that is gone


class BrokenOff(OSError):
    """Report an answer that ended before its end."""


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


class Counted:
    """Take a body whose length is in its head, or that ends with the connection."""

    def __init__(self, length: int | None) -> None:
        self._left = length
        self.ended = length == 0

    def feed(self, data: bytes) -> bytes:
        """Return what these bytes hold of the body."""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
            self.ended = self._left == 0
        return data

    def finish(self) -> bytes:
        """Take the end of the connection for the end of the body; raises BrokenOff if it is not."""
        if self._left is not None:
            raise BrokenOff(f"the answer ended {self._left} bytes too early")
        self.ended = True
        return b""


class Chunks:
    """Take the chunked framing off a body as its bytes come."""

    def __init__(self) -> None:
        self._left = 0  # bytes of the chunk that are still to come, with its line end
        self._rest = b""  # the beginning of a line that is not whole yet
        self._in_trailer = False
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """Return what these bytes hold of the body; raises BrokenOff if they are no chunks."""
        data, self._rest = self._rest + data, b""
        held, at = [], 0
        while at < len(data) and not self.ended:
            if self._left:
                end = min(at + self._left, len(data))
                self._left -= end - at
                held.append(data[at : max(at, end - max(0, 2 - self._left))])
            else:
                end = data.find(b"\n", at) + 1
                if not end:
                    self._keep(data[at:])
                    break
                self._take(data[at:end].strip())
            at = end
        return b"".join(held)

    def _keep(self, rest: bytes) -> None:
        if len(rest) > LONGEST_SIZE_LINE:
            raise BrokenOff("a chunk of the answer has no size")
        self._rest = rest

    def _take(self, line: bytes) -> None:
        """Read a line between chunks: a size, or one of the trailer."""
        if self._in_trailer:
            self.ended = not line
            return
        size = line.partition(b";")[0].strip()
        if not HEXADECIMAL.fullmatch(size):
            raise BrokenOff("a chunk of the answer has no size")
        self._left = int(size, 16)
        self._in_trailer = self._left == 0
        self._left += 0 if self._in_trailer else 2

    def finish(self) -> bytes:
        """Report that the connection ended within the body."""
        raise BrokenOff("the answer ended within its body")

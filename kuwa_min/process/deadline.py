"""Absolute deadlines for the requests that we make: a peer cannot draw them out byte by byte.

A timeout of a socket is for one call, and begins anew with each byte that comes. Here a whole
request has one end: the look-up of the name, all addresses that are tried, TLS, head and body.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import queue
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import SplitResult

from .supervision import spawn


class Deadline:
    """The moment at which several steps must be done; seconds from now, None: never."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Return the seconds that are left, None without an end; raises TimeoutError at it."""
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def share(self, parts: int) -> float | None:
        """Return a fair part of the seconds that are left, for one of several attempts."""
        left = self.left()
        return None if left is None else left / parts


def look_up(
    host: str,
    port: int,
    seconds: float | None,
    on_wait: Callable[[Callable[[OSError], None]], None] = lambda _: None,
) -> list[Any]:
    """Call getaddrinfo() on a thread of its own, as the call itself cannot be interrupted.

    on_wait: gets a function that ends the wait with an error, for any thread. Raises TimeoutError
    after `seconds`, and OSError.
    """
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

    on_wait(found.put)
    try:
        spawn("look-up", resolve)
        answer = found.get(timeout=seconds)
    except RuntimeError as error:  # the system has no thread left
        raise OSError(str(error)) from None
    except queue.Empty:
        raise TimeoutError(f"no name server says where {host} is") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def connect(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first address of a host that accepts; each gets its share of the time."""
    problem: OSError = OSError(f"{host} has no address")
    addresses = look_up(host, port, deadline.left())
    for tried, (family, kind, proto, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, proto)
        try:
            sock.settimeout(deadline.share(len(addresses) - tried))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(deadline.left())
            return sock
        except OSError as error:
            problem = error
            sock.close()
    raise problem


class Response(http.client.HTTPResponse):
    """A response that must have come by a deadline, unless `lift_deadline` is called."""

    def __init__(self, sock: socket.socket, *args: Any, deadline: Deadline, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._reader = _Reader(self.fp.detach(), sock, deadline)
        self.fp = io.BufferedReader(self._reader)

    def lift_deadline(self, seconds: float | None) -> None:
        """Allow any time for the rest; seconds: until the next bytes from now on."""
        self._reader.lift_deadline(seconds)


class _Reader(io.RawIOBase):
    """A socket's file, read under a deadline."""

    def __init__(self, file: Any, sock: socket.socket, deadline: Deadline) -> None:
        self._file, self._sock = file, sock
        self._deadline: Deadline | None = deadline

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what has come, waiting for it until the deadline."""
        if self._deadline is not None:
            self._sock.settimeout(self._deadline.left())
        count: int | None = self._file.readinto(buffer)
        return count

    def lift_deadline(self, seconds: float | None) -> None:
        self._deadline = None
        self._sock.settimeout(seconds)

    def close(self) -> None:
        """Close the file, and with it the socket if its owner has closed that."""
        self._file.close()
        super().close()


class _WithDeadline:
    """Lay one deadline over all that a connection of http.client does, from its making on.

    Its `timeout` is the seconds that all has together.
    """

    timeout: float
    sock: socket.socket | None
    address = ""  # to connect to in place of the host that the URL names

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline = deadline = Deadline(self.timeout)
        self._create_connection = lambda target, *_: connect(
            self.address or target[0], target[1], deadline
        )
        self.response_class = partial(Response, deadline=deadline)

    def send(self, data: Any) -> None:
        """Send bytes until the deadline, connecting first if need be."""
        if self.sock is not None:
            self.sock.settimeout(self._deadline.left())
        super().send(data)  # type: ignore[misc]


class HTTPConnection(_WithDeadline, http.client.HTTPConnection):  # type: ignore[misc]
    """A connection for one plain HTTP request."""


class HTTPSConnection(_WithDeadline, http.client.HTTPSConnection):  # type: ignore[misc]
    """A connection for one HTTPS request."""


def open_connection(
    url: SplitResult, seconds: float, address: str = ""
) -> http.client.HTTPConnection:
    """Return a connection, still to be made, for one request to a URL; never through a proxy.

    address: to connect to, if the URL's host must not be looked up (again).
    """
    kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=seconds)
    connection.address = address
    return connection

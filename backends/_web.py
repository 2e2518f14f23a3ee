"""Fetch what a link in a chat leads to, without reaching what only this machine may reach.

Strategy against server-side request forgery: every hop, redirects included, is judged by its own
URL. The name is resolved once, all of its addresses are judged, and the connection goes to one of
those (DNS pinning). Proxies of the environment are not used, no cookies or credentials are sent.
A FetchPolicy says what may be private.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urljoin

from kuwa_min import sentences

from . import _line
from ._fetch_policy import PORTS, FetchPolicy, LinkError, Target, parse
from ._file_types import START

SECONDS = 10.0  # for one link: look-up, redirects and body together
REDIRECTS = 3
MOVED = frozenset({301, 302, 303, 307, 308})
# All others are of this network or carry an IPv4 address inside: mapped, NAT64, 6to4, Teredo.
IPV6_PUBLIC = ipaddress.IPv6Network("2000::/3")
IPV6_WRAPPED = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("2001::/32"))
HEAD = {"Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}


class Deadline:
    """The time that everything together may take."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left; raises TimeoutError if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def fetch(
    url: str, policy: FetchPolicy, *, limit: Callable[[bytes], int], seconds: float = SECONDS
) -> bytes:
    """Return the body that a URL leads to; raises LinkError, also when `seconds` have passed.

    limit: given the first bytes of the body, returns how many it may have in all; may raise
    LinkError for a kind of file that nobody wants, whose rest is not read then. The thread's
    _line is held: whoever cuts it ends the fetch.
    """
    deadline = Deadline(seconds)
    for _ in range(REDIRECTS + 1):
        target = parse(url)
        try:
            with _answer(target, deadline, policy) as answer:
                if answer.status not in MOVED:
                    return _body(answer, limit)
                url = urljoin(url, answer.getheader("Location") or "")
        except TimeoutError:
            raise LinkError(sentences.LINK_SLOW) from None
        except ssl.SSLCertVerificationError:
            raise LinkError(sentences.LINK_NOT_TRUSTED) from None
        except (OSError, http.client.HTTPException, ValueError):
            raise LinkError(sentences.LINK_NO_SERVER) from None
    raise LinkError(sentences.LINK_REDIRECTED)


@contextlib.contextmanager
def _answer(
    target: Target, deadline: Deadline, policy: FetchPolicy
) -> Iterator[http.client.HTTPResponse]:
    """Send the request; give the answer, whose body is still to come."""
    addresses = _look_up(target, deadline)
    if not addresses or not (policy.trusts(target) or all(map(is_public, addresses))):
        raise LinkError(sentences.LINK_PRIVATE)
    line = _line.current()
    with _connect(addresses, target, deadline) as sock:
        line.hold(sock)
        try:
            connection = http.client.HTTPConnection(target.host, target.port)
            connection.default_port = PORTS[target.scheme]
            connection.sock = _Socket(sock, deadline)
            connection.request("GET", target.path, headers=HEAD)
            with connection.getresponse() as answer:
                yield answer
        finally:
            line.release()


def _look_up(target: Target, deadline: Deadline) -> list[str]:
    """Resolve a name; returns no address for an unknown one, or when the time is up.

    A thread does it, because the system's own call has no time-out.
    """
    found: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            found.put([str(address[0]) for *_, address in answers])
        except (OSError, UnicodeError, OverflowError):
            found.put([])

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    try:
        return list(dict.fromkeys(found.get(timeout=deadline.left())))
    except queue.Empty:
        return []


def is_public(address: str) -> bool:
    """Tell whether an address is reachable from the whole internet."""
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv6Address) and (
        number not in IPV6_PUBLIC or any(number in one for one in IPV6_WRAPPED)
    ):
        return False
    return number.is_global and not (number.is_multicast or number.is_reserved)


def _connect(addresses: list[str], target: Target, deadline: Deadline) -> socket.socket:
    sock = _connect_to_any(addresses, target.port, deadline)
    if target.scheme == "http":
        return sock
    sock.settimeout(deadline.left())
    return ssl.create_default_context().wrap_socket(sock, server_hostname=target.host)


def _connect_to_any(addresses: list[str], port: int, deadline: Deadline) -> socket.socket:
    problem: OSError = OSError()
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=deadline.left())
        except OSError as error:
            problem = error
    raise problem


class _Socket:
    """A connected socket as http.client uses it; the caller of `_connect` closes it."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock, self._deadline = sock, deadline

    def sendall(self, data: bytes) -> None:
        """Send everything."""
        self._sock.settimeout(self._deadline.left())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return what the answer is read from."""
        return io.BufferedReader(_SocketReader(self._sock, self._deadline))

    def close(self) -> None:
        """Leave it open: the answer's body is still to come."""


class _SocketReader(io.RawIOBase):
    """The bytes of a socket, read under one deadline: a time-out per read could be drawn out."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has come, or wait for it as long as there is time."""
        self._sock.settimeout(self._deadline.left())
        return self._sock.recv_into(buffer)


def _body(answer: http.client.HTTPResponse, limit: Callable[[bytes], int]) -> bytes:
    if answer.status != 200:
        raise LinkError(sentences.LINK_STATUS, answer.status)
    start = answer.read(START)
    largest = limit(start)
    if len(start) + (answer.length or 0) > largest:
        raise LinkError(sentences.LINK_TOO_LARGE, largest >> 20)
    data = start + answer.read(largest + 1 - len(start))
    if len(data) > largest:
        raise LinkError(sentences.LINK_TOO_LARGE, largest >> 20)
    if answer.length:
        raise LinkError(sentences.LINK_INCOMPLETE)
    return data

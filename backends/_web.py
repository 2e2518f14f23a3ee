"""Fetch a file from the web because a stranger asked for it, without reaching what only we may.

A name is looked up once, and the connection goes to exactly the addresses that were checked, so
that no name changes its mind in between; proxies of the environment are not used.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import queue
import socket
import ssl
import string
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

SECONDS = 10.0  # for everything together
REDIRECTS = 3
MOVED = frozenset({301, 302, 303, 307, 308})
PORTS = {"http": 80, "https": 443}
# All others are of this network or carry an IPv4 address inside: mapped, NAT64, 6to4, Teredo.
IPV6_PUBLIC = ipaddress.IPv6Network("2000::/3")
IPV6_WRAPPED = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("2001::/32"))
HEAD = {"Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}


class Unreachable(Exception):
    """Say in half a sentence why an address gives nothing; it tells nothing of our network."""


class Goal(NamedTuple):
    """Where a request goes, and what it asks for."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def name(self) -> str:
        """Return the host as people are told of it: never longer than a line."""
        return self.host if len(self.host) <= 80 else self.host[:77] + "..."


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


def fetch(url: str, *, largest: int, allow_private: bool) -> bytes:
    """Return what an address gives, at most so many bytes; raises Unreachable saying why not."""
    deadline = Deadline(SECONDS)
    for _ in range(REDIRECTS + 1):
        goal = parse(url)
        try:
            with _answer(goal, deadline, allow_private=allow_private) as answer:
                if answer.status not in MOVED:
                    return _body(answer, goal, largest)
                url = urljoin(url, answer.getheader("Location") or "")
        except TimeoutError:
            raise Unreachable(f"{goal.name} took longer than {SECONDS:g} s") from None
        except ssl.SSLCertVerificationError:
            raise Unreachable(f"the certificate of {goal.name} cannot be verified") from None
        except (OSError, http.client.HTTPException, ValueError):
            raise Unreachable(f"{goal.name} does not answer as a web server does") from None
    raise Unreachable(f"it was redirected more than {REDIRECTS} times")


def parse(url: str) -> Goal:
    """Take an address apart; raises Unreachable if it is none that we follow."""
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme.lower(), parts.port
        host = _ascii(parts.hostname or "")
    except ValueError:
        raise Unreachable("the address is not written as one") from None
    if scheme not in PORTS or not host:
        raise Unreachable("the address must begin with http:// or https:// and a name")
    if "@" in parts.netloc:
        raise Unreachable("the address must not hold a name and a password")
    return Goal(scheme, host, PORTS[scheme] if port is None else port, _path(parts))


def _ascii(host: str) -> str:
    return host if host.isascii() else host.encode("idna").decode("ascii")


def _path(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe=string.punctuation)
    return f"{path}?{quote(parts.query, safe=string.punctuation)}" if parts.query else path


@contextlib.contextmanager
def _answer(
    goal: Goal, deadline: Deadline, *, allow_private: bool
) -> Iterator[http.client.HTTPResponse]:
    """Send the request; give the answer, whose body is still to come."""
    addresses = _look_up(goal, deadline)
    if not (addresses and (allow_private or all(map(is_public, addresses)))):
        # one sentence for both: which names our network knows is nobody's business
        raise Unreachable(
            f"{goal.name} is unknown here or is on a private network; "
            "a picture can also be sent as a data: address"
        )
    with _connect(addresses, goal, deadline) as plug:
        connection = http.client.HTTPConnection(goal.host, goal.port)
        connection.default_port = PORTS[goal.scheme]
        connection.sock = Wire(plug, deadline)
        connection.request("GET", goal.path, headers=HEAD)
        with connection.getresponse() as answer:
            yield answer


def _look_up(goal: Goal, deadline: Deadline) -> list[str]:
    """Return the addresses of a name, none if it has none; the system's own call has no limit."""
    found: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers = socket.getaddrinfo(goal.host, goal.port, type=socket.SOCK_STREAM)
            found.put([str(address[0]) for *_, address in answers])
        except (OSError, UnicodeError, OverflowError):
            found.put([])

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    try:
        return list(dict.fromkeys(found.get(timeout=deadline.left())))
    except queue.Empty:
        return []


def is_public(address: str) -> bool:
    """Tell whether anybody on the internet could reach this address."""
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv6Address) and (
        number not in IPV6_PUBLIC or any(number in one for one in IPV6_WRAPPED)
    ):
        return False
    return number.is_global and not (number.is_multicast or number.is_reserved)


def _connect(addresses: list[str], goal: Goal, deadline: Deadline) -> socket.socket:
    plug = _first_that_answers(addresses, goal.port, deadline)
    if goal.scheme == "http":
        return plug
    plug.settimeout(deadline.left())
    return ssl.create_default_context().wrap_socket(plug, server_hostname=goal.host)


def _first_that_answers(addresses: list[str], port: int, deadline: Deadline) -> socket.socket:
    problem: OSError = OSError()
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=deadline.left())
        except OSError as error:
            problem = error
    raise problem


class Wire:
    """A connected socket as http.client uses it; whoever connected it also closes it."""

    def __init__(self, plug: socket.socket, deadline: Deadline) -> None:
        self._plug, self._deadline = plug, deadline

    def sendall(self, data: bytes) -> None:
        """Send everything."""
        self._plug.settimeout(self._deadline.left())
        self._plug.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return what the answer is read from."""
        return io.BufferedReader(Reader(self._plug, self._deadline))

    def close(self) -> None:
        """Leave it open: the answer's body is still to come."""


class Reader(io.RawIOBase):
    """What comes from a socket; every read minds the deadline, as no timeout of its own does."""

    def __init__(self, plug: socket.socket, deadline: Deadline) -> None:
        self._plug, self._deadline = plug, deadline

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has come, or wait for it as long as there is time."""
        self._plug.settimeout(self._deadline.left())
        return self._plug.recv_into(buffer)


def _body(answer: http.client.HTTPResponse, goal: Goal, largest: int) -> bytes:
    if answer.status != 200:
        raise Unreachable(f"{goal.name} answers {answer.status}")
    too_large = Unreachable(f"it is larger than {largest >> 20} MiB")
    if (answer.length or 0) > largest:
        raise too_large
    data = answer.read(largest + 1)
    if len(data) > largest:
        raise too_large
    if answer.length:
        raise Unreachable("it broke off in the middle")
    return data

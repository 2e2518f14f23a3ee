"""Fetch what a link in a chat leads to, without reaching what only this machine may reach.

Strategy against server-side request forgery: every hop, redirects included, is judged by its own
URL. The name is resolved once, all of its addresses are judged, and the connection goes to one of
those (DNS pinning). Proxies of the environment are not used, no cookies or credentials are sent.
What may be private is a matter of a FetchPolicy.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import posixpath
import queue
import socket
import ssl
import string
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from kuwa_min import sentences

from . import _line
from ._file_types import START

SECONDS = 10.0  # for one link: look-up, redirects and body together
REDIRECTS = 3
MOVED = frozenset({301, 302, 303, 307, 308})
PORTS = {"http": 80, "https": 443}
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# Kuwa's front end keeps uploads in /storage/root/homes/<user id>/ (0.4) or /storage/pdfs/ (0.3).
UPLOADS = "/storage/"
# All others are of this network or carry an IPv4 address inside: mapped, NAT64, 6to4, Teredo.
IPV6_PUBLIC = ipaddress.IPv6Network("2000::/3")
IPV6_WRAPPED = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("2001::/32"))
HEAD = {"Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}


class LinkError(Exception):
    """Report why a link gives nothing: one of sentences.LINK_*, whose first gap is for the link.

    It tells nothing of our network: unknown names and private addresses read alike.
    """

    def __init__(self, sentence: str, *values: object) -> None:
        super().__init__(sentence.format("a link", *values))
        self.sentence, self._values = sentence, values

    def about(self, link: str) -> str:
        """Return the sentence about this link."""
        return self.sentence.format(link, *self._values)


class Target(NamedTuple):
    """Where a request goes, and what it asks for."""

    scheme: str
    host: str
    port: int
    path: str


class FetchPolicy(NamedTuple):
    """Which hosts may be fetched from although their addresses are private.

    uploads: host and port as the operator named them. kernel: those of the Kernel's host, of which
    only uploads may be fetched: the Kernel itself takes orders by GET, and asks for no password.
    """

    allow_private: bool = False
    uploads: frozenset[tuple[str, int]] = frozenset()
    kernel: frozenset[tuple[str, int]] = frozenset()

    def trusts(self, target: Target) -> bool:
        """Tell whether a target may be private."""
        place = (target.host, target.port)
        return (
            self.allow_private
            or place in self.uploads
            or (place in self.kernel and _is_upload(target.path))
        )


def policy(args: Namespace) -> FetchPolicy:
    """Return the policy of --allow_private_urls, --upload_hosts and --kernel_url."""
    uploads = {
        (host.lower(), number)
        for host, port in args.upload_hosts
        for number in ((port,) if port else PORTS.values())
    }
    return FetchPolicy(args.allow_private_urls, frozenset(uploads), _kernel_places(args))


def _kernel_places(args: Namespace) -> frozenset[tuple[str, int]]:
    """Return the Kernel's host with its own port and those of a front end beside it."""
    if args.ignore_kernel or args.embedded_kernel:
        return frozenset()
    parts = urlsplit(args.kernel_url)
    host = parts.hostname or ""
    hosts = LOOPBACK if host in LOOPBACK else {host}
    ports = {*PORTS.values(), parts.port or PORTS[parts.scheme]}
    return frozenset((host, port) for host in hosts for port in ports)


def _is_upload(path: str) -> bool:
    """Tell whether a path leads to an upload, and by no detour through dot segments."""
    plain = unquote(path.partition("?")[0])
    return UPLOADS in plain and "\\" not in plain and posixpath.normpath(plain) == plain


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
    """Return the body that a URL leads to; raises LinkError, also after so many seconds.

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


def parse(url: str) -> Target:
    """Take a URL apart; raises LinkError if it is none that we follow."""
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme.lower(), parts.port
        host = _ascii(parts.hostname or "")
    except ValueError:
        raise LinkError(sentences.LINK_BAD_ADDRESS) from None
    if scheme not in PORTS or not host or "@" in parts.netloc:
        raise LinkError(sentences.LINK_BAD_ADDRESS)
    return Target(scheme, host, PORTS[scheme] if port is None else port, _path(parts))


def _ascii(host: str) -> str:
    return host if host.isascii() else host.encode("idna").decode("ascii")


def _path(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe=string.punctuation)
    return f"{path}?{quote(parts.query, safe=string.punctuation)}" if parts.query else path


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

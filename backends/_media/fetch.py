"""Fetch what a link in a chat leads to, under limits of time and size.

Strategy against server-side request forgery (SSRF): a link must not reach what only this machine
can reach.
- Each hop, redirects included, is judged by its own URL: a public server cannot redirect us inside.
- The name is resolved once, every one of its addresses must be public and none this machine's own,
  and the connection goes to one of those (DNS pinning): a name cannot be public when it is judged
  and private when it is used.
- Proxies of the environment are not used, for they would resolve the name again; no cookies or
  credentials are sent.
- A FetchPolicy says which hosts may be private. Unknown names and private addresses are refused
  with the same sentence: links cannot be used to map a network.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urljoin

from backends._http.cancellation import current_scope
from backends._http.lookup import look_up
from backends._http.tls import create_tls_context
from kuwa_min.options.proxies import PORTS
from kuwa_min.process.deadline import Deadline

from .addresses import is_metadata, is_own, is_public
from .fetch_policy import FetchPolicy, LinkError, Target, parse
from .file_types import START
from .sentences import (
    LINK_INCOMPLETE,
    LINK_NO_SERVER,
    LINK_NOT_TRUSTED,
    LINK_PRIVATE,
    LINK_REDIRECTED,
    LINK_SLOW,
    LINK_STATUS,
    LINK_TOO_LARGE,
)

TIMEOUT = 10.0  # seconds for one link: look-up, redirects and body together
MAX_REDIRECTS = 3
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}


def fetch(
    url: str, policy: FetchPolicy, *, limit: Callable[[bytes], int], timeout: float = TIMEOUT
) -> bytes:
    """Return the body that a URL leads to; raises LinkError, also after `timeout` seconds.

    limit: returns how many bytes a body with these first bytes may have; raises LinkError for an
    unwanted kind of file, whose rest is not read then. Blocks; the thread's cancel scope ends it.
    """
    deadline = Deadline(timeout)
    for _ in range(MAX_REDIRECTS + 1):
        target = parse(url)
        try:
            with _get(target, deadline, policy) as response:
                if response.status not in REDIRECT_STATUSES:
                    return _read_body(response, limit)
                url = urljoin(url, response.getheader("Location") or "")
        except TimeoutError:
            raise LinkError(LINK_SLOW) from None
        except ssl.SSLCertVerificationError:
            raise LinkError(LINK_NOT_TRUSTED) from None
        except (OSError, http.client.HTTPException, ValueError):
            raise LinkError(LINK_NO_SERVER) from None
    raise LinkError(LINK_REDIRECTED)


@contextlib.contextmanager
def _get(
    target: Target, deadline: Deadline, policy: FetchPolicy
) -> Iterator[http.client.HTTPResponse]:
    """Send one request; yield the response, whose body is still to come."""
    addresses = _resolve(target, deadline)
    if not addresses or not _may_be_asked(policy, target, addresses):
        raise LinkError(LINK_PRIVATE)
    scope = current_scope()
    with _connect(addresses, target, deadline) as sock:
        scope.watch(sock)
        try:
            connection = http.client.HTTPConnection(target.host, target.port)
            connection.default_port = PORTS[target.scheme]
            connection.sock = _Socket(sock, deadline)
            connection.request("GET", target.path, headers=HEADERS)
            with connection.getresponse() as response:
                yield response
        finally:
            scope.unwatch()


def _resolve(target: Target, deadline: Deadline) -> list[str]:
    """Return the addresses of a host; none for an unknown one, or when the time is up."""
    seconds = deadline.left()
    try:
        found = look_up(target.host, target.port, seconds)
    except (OSError, OverflowError):
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _may_be_asked(policy: FetchPolicy, target: Target, addresses: list[str]) -> bool:
    """Tell whether a target may be connected to at all of these addresses.

    A public address of this machine reaches what its loopback address does, and is judged as that.
    """
    if policy.names(target):
        return True
    if policy.allow_private:
        return not any(map(is_metadata, addresses))
    names_own = policy.names(target._replace(host="127.0.0.1"))
    return all(is_public(one) and (names_own or not is_own(one)) for one in addresses)


def _connect(addresses: list[str], target: Target, deadline: Deadline) -> socket.socket:
    sock = _connect_to_any(addresses, target.port, deadline)
    if target.scheme == "http":
        return sock
    sock.settimeout(deadline.left())
    return create_tls_context().wrap_socket(sock, server_hostname=target.host)


def _connect_to_any(addresses: list[str], port: int, deadline: Deadline) -> socket.socket:
    problem: OSError = OSError()
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=deadline.left())
        except OSError as error:
            problem = error
    raise problem


class _Socket:
    """A connected socket as http.client uses it, under one deadline; _get() closes it."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock, self._deadline = sock, deadline

    def sendall(self, data: bytes) -> None:
        """Send everything."""
        self._sock.settimeout(self._deadline.left())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a reader of the response."""
        return io.BufferedReader(_SocketReader(self._sock, self._deadline))

    def close(self) -> None:
        """Leave it open: the body is still to come."""


class _SocketReader(io.RawIOBase):
    """Read from a socket under one deadline: a server could draw out a timeout per read."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has come, waiting for it until the deadline."""
        self._sock.settimeout(self._deadline.left())
        return self._sock.recv_into(buffer)


def _read_body(response: http.client.HTTPResponse, limit: Callable[[bytes], int]) -> bytes:
    if response.status != 200:
        raise LinkError(LINK_STATUS, response.status)
    start = response.read(START)
    largest = limit(start)
    if len(start) + (response.length or 0) > largest:
        raise LinkError(LINK_TOO_LARGE, largest >> 20)
    data = start + response.read(largest + 1 - len(start))
    if len(data) > largest:
        raise LinkError(LINK_TOO_LARGE, largest >> 20)
    if response.length:
        raise LinkError(LINK_INCOMPLETE)
    return data

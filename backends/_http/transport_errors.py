"""Classify connection failures (DNS, TLS, sockets, http.client), alike for every service.

Knows no service and no sentence: a backend decides what its user reads, and what is retried.
"""

from __future__ import annotations

import contextlib
import enum
import http.client
import socket
import ssl
from collections.abc import Iterator

from .connection import ConnectTimeout


class Failure(enum.Enum):
    """What failed between this machine and a service; the value is its name in the log."""

    CERTIFICATE = "certificate"  # the service's cannot be verified
    TLS = "garbled TLS"  # such as plain HTTP where TLS was expected
    LOOKUP = "no address"
    CONNECT_TIMEOUT = "no connection in time"
    READ_TIMEOUT = "timeout"
    PROTOCOL = "garbled"  # what came is no HTTP
    REDIRECT = "redirected"  # to where the request would lose its body
    CONNECTION = "no connection"  # refused, reset, or ended within a response


# The first row whose class an error belongs to counts: subclasses stand before their bases.
FAILURES: tuple[tuple[type[BaseException], Failure], ...] = (
    (ssl.SSLCertVerificationError, Failure.CERTIFICATE),
    (ssl.SSLError, Failure.TLS),
    (socket.gaierror, Failure.LOOKUP),
    (ConnectTimeout, Failure.CONNECT_TIMEOUT),
    (TimeoutError, Failure.READ_TIMEOUT),
    (http.client.RemoteDisconnected, Failure.CONNECTION),
    (http.client.HTTPException, Failure.PROTOCOL),
    (OSError, Failure.CONNECTION),
)


class ConnectionFailed(Exception):
    """Report a request without a response, or with a part of one; the message is for the log."""

    def __init__(self, failure: Failure, cause: str) -> None:
        super().__init__(cause)
        self.failure = failure

    @classmethod
    def by(cls, error: BaseException) -> ConnectionFailed:
        """Classify an error of sockets, TLS or http.client."""
        failure = next((one for kind, one in FAILURES if isinstance(error, kind)), Failure.PROTOCOL)
        return cls(failure, _cause(error))


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise ConnectionFailed in place of OSError and http.client.HTTPException."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionFailed.by(error) from error


def _cause(error: BaseException) -> str:
    """Return an error for the log; http.client's own words may quote what the peer sent."""
    words = ""
    if isinstance(error, OSError):
        words = getattr(error, "verify_message", "") or error.strerror or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        words += "; SSL_CERT_FILE=... names a file of certificates to trust"
    return f"{type(error).__name__}: {words}" if words else type(error).__name__

"""What a network does instead of bringing a response, as one table names it."""

from __future__ import annotations

import http.client
import socket
import ssl

import pytest

from backends._http.body import IncompleteBody
from backends._http.connection import ConnectTimeout
from backends._http.transport_errors import ConnectionFailed, Failure, translated


@pytest.mark.parametrize(
    ("error", "failure", "cause"),
    [
        (ssl.SSLCertVerificationError(1, "?"), Failure.CERTIFICATE, "SSLCertVerificationError: ?"),
        (ssl.SSLError(1, "wrong version"), Failure.TLS, "SSLError: wrong version"),
        (socket.gaierror(-2, "Name unknown"), Failure.LOOKUP, "gaierror: Name unknown"),
        (ConnectTimeout("none within 1 s"), Failure.CONNECT_TIMEOUT, "ConnectTimeout: none"),
        (TimeoutError("timed out"), Failure.READ_TIMEOUT, "TimeoutError: timed out"),
        (
            http.client.RemoteDisconnected("Remote end closed"),
            Failure.CONNECTION,
            "RemoteDisconnected: Remote end closed",
        ),
        (IncompleteBody("2 bytes too early"), Failure.CONNECTION, "IncompleteBody: 2 bytes"),
        (
            ConnectionResetError(104, "Connection reset by peer"),
            Failure.CONNECTION,
            "ConnectionResetError: Connection reset by peer",
        ),
        (http.client.BadStatusLine("a secret"), Failure.PROTOCOL, "BadStatusLine"),
        (http.client.LineTooLong("a secret"), Failure.PROTOCOL, "LineTooLong"),
    ],
)
def test_each_error_has_its_row(error: Exception, failure: Failure, cause: str) -> None:
    """The system's words go to the log; the peer's never do."""
    with pytest.raises(ConnectionFailed) as failed, translated():
        raise error
    assert failed.value.failure is failure
    assert str(failed.value).startswith(cause)
    assert "secret" not in str(failed.value)


def test_other_errors_pass() -> None:
    """They are mistakes in the program."""
    with pytest.raises(ZeroDivisionError), translated():
        raise ZeroDivisionError


def test_a_certificate_that_is_not_trusted_comes_with_advice() -> None:
    """The operator reads it in the log."""
    failed = ConnectionFailed.by(ssl.SSLCertVerificationError(1, "?"))
    assert "SSL_CERT_FILE=... names a file of certificates to trust" in str(failed)

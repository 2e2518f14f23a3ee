"""A pool keeps connections, and finds those that were closed.

The module lookup is covered by the tests of chatgpt's cancellation.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from backends._http.cancellation import CancelScope
from backends._http.connection import Request, Timeouts
from backends._http.origin import Origin
from backends._http.pool import ConnectionPool, Response
from backends._http.transport_errors import ConnectionFailed, Failure
from kuwa_min.process import deadline
from tests.fakes.kuwa.kernel_hangs import trickling
from tests.support.programs import TIMEOUT

from .asking import TIMEOUTS

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"


class Server:
    """Answer each connection with the next list of answers, then close it; count connections."""

    def __init__(self, listener: socket.socket, *connections: list[bytes]) -> None:
        self._listener, self._connections = listener, connections
        self.accepted = 0
        self.requests: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for answers in self._connections:
            with contextlib.suppress(OSError), self._listener.accept()[0] as sock:
                self.accepted += 1
                for answer in answers:
                    self.requests.append(sock.recv(65536))
                    sock.sendall(answer)
                if answers:
                    sock.settimeout(TIMEOUT)
                    sock.shutdown(socket.SHUT_WR)
                    sock.recv(1)


@pytest.fixture
def pool() -> Iterator[ConnectionPool]:
    """Give a pool; close its connections."""
    found = ConnectionPool()
    yield found
    found.close()


def send(pool: ConnectionPool, listener: socket.socket) -> Response:
    """Send a request to a listener."""
    return send_to(pool, listener.getsockname()[1], TIMEOUTS)


def send_to(pool: ConnectionPool, port: int, timeouts: Timeouts) -> Response:
    """Send a request to a port of this machine."""
    origin = Origin("http", "127.0.0.1", port)
    return pool.send(Request(origin, "GET", "/", [("Host", "one.test")]), timeouts)


def port_of(url: str) -> int:
    """Return the port that a URL names."""
    return urlsplit(url).port or 80


def body(response: Response) -> bytes:
    """Read a body to its end, and close the response."""
    with contextlib.closing(response):
        return b"".join(iter(response.read, b""))


def test_a_connection_is_kept_for_the_next_request(
    pool: ConnectionPool, listener: socket.socket
) -> None:
    """If the response was read to its end; its last bytes may come a moment later."""
    server = Server(listener, [OK, CHUNKED + b"0\r\n\r\n", OK])
    assert body(send(pool, listener)) == b"ok"
    response = send(pool, listener)
    assert response.read() == b"ok"
    response.close()
    assert body(send(pool, listener)) == b"ok"
    assert server.accepted == 1


def test_a_kept_connection_that_was_closed_is_replaced(
    pool: ConnectionPool, listener: socket.socket
) -> None:
    """Whether its end has come already or comes in answer to the request."""
    server = Server(listener, [OK], [OK, b""], [OK])
    for _ in range(3):
        assert body(send(pool, listener)) == b"ok"
    assert server.accepted == 3


def test_a_new_connection_that_fails_is_not_retried(
    pool: ConnectionPool, listener: socket.socket
) -> None:
    """That is up to the caller."""
    server = Server(listener, [b""], [OK])
    with pytest.raises(ConnectionFailed) as failed:
        send(pool, listener)
    assert failed.value.failure is Failure.CONNECTION
    assert server.accepted == 1


def test_a_connection_with_an_unread_body_is_closed(
    pool: ConnectionPool, listener: socket.socket
) -> None:
    """As a stopped answer leaves it; also if its scope was cancelled at its end."""
    server = Server(listener, [CHUNKED], [OK], [OK])
    send(pool, listener).close()
    with CancelScope() as scope:
        response = send(pool, listener)
        assert response.read() == b"ok"
        scope.cancel()
        response.close()
    assert body(send(pool, listener)) == b"ok"
    assert server.accepted == 3


@pytest.mark.parametrize(
    ("at_once", "total"),
    [
        (b"", None),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", None),
        (b"HTTP/1.1 500 Odd\r\nContent-Length: 400\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n", 0.1),
    ],
)
def test_a_service_that_trickles_is_given_up(
    pool: ConnectionPool, at_once: bytes, total: float | None
) -> None:
    """In its head, in an error, and in what is no stream: a byte does not prolong the wait."""
    with trickling(at_once) as url, pytest.raises(ConnectionFailed) as failed:
        body(send_to(pool, port_of(url), Timeouts(20.0, 0.1, total)))
    assert failed.value.failure is Failure.READ_TIMEOUT


def test_a_stream_may_take_longer_than_its_head(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its limit is for the silence between two reads."""
    limits: list[float | None] = []
    monkeypatch.setattr(
        deadline.Response, "lift_deadline", lambda _, seconds: limits.append(seconds)
    )
    with trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n") as url:
        send_to(pool, port_of(url), Timeouts(20.0, 19.0)).close()
    assert limits[0] == 19.0


def test_cookies_are_dropped(pool: ConnectionPool, listener: socket.socket) -> None:
    """They would tell one user's requests from another's."""
    Server(listener, [OK.replace(b"\r\n", b"\r\nSet-Cookie: a=b\r\nX-Other: c\r\n", 1)])
    response = send(pool, listener)
    assert response.headers == [("X-Other", "c")]
    response.close()

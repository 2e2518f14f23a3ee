"""Connections that are answered while their clients still send."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from kuwa_min.httpd.lingering import RECV_SIZE, LingeringConnections

TIMEOUT = 60.0  # seconds until a test gives up


class Closing:
    """Lingering connections whose selector the test drives, and those that were closed."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.selector, self.closed = selector, list[socket.socket]()
        self.connections = LingeringConnections(selector, threading.Lock())
        self._clients: list[socket.socket] = []

    def open(self, size: int = 1 << 20, seconds: float = TIMEOUT) -> socket.socket:
        """Return the client of a connection that lingers."""
        near, client = socket.socketpair()
        client.settimeout(TIMEOUT)
        self._clients.append(client)
        self.connections.add(near, size, seconds, self._close)
        return client

    def _close(self, sock: socket.socket) -> None:
        sock.close()
        self.closed.append(sock)

    def turn(self) -> int:
        """Handle what is ready; return how many sockets were."""
        ready = self.selector.select(0)
        for key, events in ready:
            key.data(events)
        return len(ready)

    def end(self) -> None:
        """Close everything."""
        self.connections.close()
        for client in self._clients:
            client.close()


@pytest.fixture
def closing() -> Iterator[Closing]:
    """Make lingering connections."""
    with selectors.DefaultSelector() as selector:
        made = Closing(selector)
        yield made
        made.end()


def test_the_client_reads_the_end_and_closes(closing: Closing) -> None:
    """Shut down our side at once; close when the client has."""
    client = closing.open()
    assert client.recv(1) == b""
    client.sendall(b"x" * 5000)
    assert closing.turn() == 1
    assert not closing.closed
    client.close()
    closing.turn()
    assert len(closing.closed) == 1
    assert not closing.connections
    assert not closing.selector.get_map()


def _turns(closing: Closing) -> None:
    while closing.turn():
        pass


@pytest.mark.parametrize("piece", [RECV_SIZE, 5000])
def test_bytes_are_dropped_up_to_the_limit(closing: Closing, piece: int) -> None:
    """Send more than the limit."""
    client, sent = closing.open(size=300_000), 0
    while not closing.closed:
        assert sent < 300_000 + piece
        client.sendall(b"x" * piece)
        sent += piece
        _turns(closing)
    assert sent >= 300_000


def test_a_client_that_drips_is_looked_at_now_and_then(closing: Closing) -> None:
    """Send a byte: the connection is not watched until the next look."""
    client = closing.open()
    client.sendall(b"x")
    assert closing.turn() == 1
    client.sendall(b"x")
    assert closing.turn() == 0
    closing.connections.look()
    assert closing.turn() == 1
    client.close()
    closing.connections.look()
    closing.turn()
    assert len(closing.closed) == 1


@pytest.mark.parametrize("rests", [True, False])
def test_a_client_that_stays_is_closed_when_its_time_is_over(
    closing: Closing, rests: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Look before the deadline and after it."""
    client, other = closing.open(seconds=10), closing.open(seconds=TIMEOUT)
    if rests:
        client.sendall(b"x")
        closing.turn()
    closing.connections.look()
    assert not closing.closed
    later = closing.connections._open
    monkeypatch.setattr(next(iter(later.values())), "deadline", 0.0)
    closing.connections.look()
    assert len(closing.closed) == 1
    assert client.recv(1) == b""
    other.sendall(b"x" * 5000)
    assert closing.turn() == 1
    assert len(closing.closed) == 1


@pytest.mark.parametrize("leave", [socket.socket.close, lambda sock: sock.shutdown(socket.SHUT_WR)])
def test_a_client_that_left_before_is_closed_at_once(
    closing: Closing, leave: Callable[[socket.socket], None]
) -> None:
    """Let a connection linger whose client has gone, with bytes unread or not."""
    for data in (b"", b"x" * 5000):
        near, client = socket.socketpair()
        client.sendall(data)
        leave(client)
        closing.connections.add(near, 1 << 20, TIMEOUT, closing._close)
        _turns(closing)
        assert near in closing.closed
        client.close()

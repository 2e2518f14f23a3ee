"""Reading requests from a socket pair; test_server has the matrix of framings."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from kuwa_min.errors import ClientDisconnected
from kuwa_min.httpd import request_reader as module
from kuwa_min.httpd.limits import Limits
from kuwa_min.httpd.request_reader import RequestReader

TIMEOUT = 60.0  # seconds until a test gives up
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


class CountingSocket(socket.socket):
    """A socket that counts its reads."""

    reads = 0

    def recv(self, *args: int) -> bytes:
        """Count and read."""
        self.reads += 1
        return super().recv(*args)


@pytest.fixture
def pair() -> Iterator[tuple[CountingSocket, socket.socket]]:
    """Return the server's end of a connection, which counts, and the client's."""
    near, client = socket.socketpair()
    with CountingSocket(fileno=near.detach()) as counting, client:
        client.settimeout(TIMEOUT)
        yield counting, client


def reader(sock: socket.socket) -> RequestReader:
    """Return a reader with the limits of a test."""
    return RequestReader(sock, Limits(head_seconds=TIMEOUT), can_peek=True)


def drip(client: socket.socket, data: bytes) -> threading.Thread:
    """Send a byte at a time, on a thread of its own."""

    def send() -> None:
        for at in range(len(data)):
            client.sendall(data[at : at + 1])
            time.sleep(0.0005)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("before", [b"", b"\r\n" * 50], ids=["head", "empty lines"])
def test_a_dripping_head_costs_few_reads(
    pair: tuple[CountingSocket, socket.socket], before: bytes
) -> None:
    """Send 150 bytes one by one: they are read many at once, whatever they are."""
    near, client = pair
    field = b"X: " + b"y" * (110 - len(before))
    thread = drip(client, before + HEAD + field + b"\r\n\r\n")
    head = reader(near).read_head(is_first=True)
    assert head.headers["x"] == [field[3:].decode()]
    assert near.reads < 20
    thread.join(TIMEOUT)


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="needs Linux")
@pytest.mark.parametrize("who", ["client", "server"])
def test_a_delay_ends_with_the_connection(
    pair: tuple[CountingSocket, socket.socket], monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Hang up while the reader waits for more bytes at once."""
    near, client = pair
    monkeypatch.setattr(module, "FIRST_DELAY", 2 * TIMEOUT)
    monkeypatch.setattr(module, "MAX_DELAY", 2 * TIMEOUT)
    slow = RequestReader(near, Limits(head_seconds=4 * TIMEOUT), can_peek=True)

    def leave() -> None:
        for byte in (b"G", b"E", b"T"):
            client.sendall(byte)
            deadline = time.monotonic() + TIMEOUT
            while bytes(slow._buffer)[-1:] != byte and slow._short_reads < module.PROMPT_READS:
                assert time.monotonic() < deadline
                time.sleep(0.0005)
        (client if who == "client" else near).shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=leave, daemon=True)
    thread.start()
    started = time.monotonic()
    with pytest.raises(ClientDisconnected):
        slow.read_head(is_first=True)
    assert time.monotonic() - started < TIMEOUT
    thread.join(TIMEOUT)

"""Requests to peers that trickle, hang or have many addresses: one end for all of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from kuwa_min.process import deadline
from kuwa_min.process.deadline import Deadline, Response, look_up, open_connection
from tests.fakes.kuwa.kernel_hangs import hanging_kernel, trickling

LIMIT = 0.1  # seconds of the deadlines of these tests
SLACK = 20.0  # seconds by which a busy machine may miss them
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n"


def ask(url: str, seconds: float = LIMIT) -> bytes:
    """Send one request; return its body."""
    with contextlib.closing(open_connection(urlsplit(url), seconds)) as connection:
        connection.request("GET", "/")
        with connection.getresponse() as response:
            return response.read()


@pytest.mark.parametrize("at_once", [b"", b"HTTP/1.1 200 OK\r\nX-Long: ", HEAD])
def test_no_byte_prolongs_a_request(at_once: bytes) -> None:
    """Neither in the status line, nor in a field, nor in the body."""
    started = time.monotonic()
    with trickling(at_once) as url, pytest.raises(TimeoutError):
        ask(url)
    assert LIMIT * 0.9 < time.monotonic() - started < SLACK


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_silent_peer_ends_with_the_deadline(scheme: str) -> None:
    """TLS, too, does not wait for ever."""
    with hanging_kernel() as url, pytest.raises(TimeoutError):
        ask(url.replace("http", scheme, 1))


@pytest.mark.parametrize("lifted", [True, False])
def test_a_lifted_deadline_leaves_the_body_any_time(
    monkeypatch: pytest.MonkeyPatch, lifted: bool
) -> None:
    """A stream may take longer than its head; others have no time left once it is over."""
    late = contextlib.nullcontext() if lifted else pytest.raises(TimeoutError)
    with trickling(HEAD) as url:
        connection = open_connection(urlsplit(url), SLACK)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            response = connection.getresponse()
            assert isinstance(response, Response)
            if lifted:
                response.lift_deadline(SLACK)
            now = time.monotonic() + SLACK
            monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: now))
            with late:
                assert len(response.read(9)) == 9


def test_a_name_without_an_answer_ends_with_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver itself cannot be interrupted."""
    release = threading.Event()

    def resolve(host: str, *_: object, flags: int = 0, **__: object) -> list[Any]:
        if flags:
            raise socket.gaierror
        release.wait(SLACK)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(TimeoutError, match="no name server says where kernel is"):
        ask("http://kernel/")
    release.set()


def test_a_wait_for_a_name_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error of the one who ends it."""
    monkeypatch.setattr(deadline, "spawn", lambda *_: None)

    def on_wait(end: Callable[[OSError], None]) -> None:
        end(ConnectionAbortedError("enough"))

    with pytest.raises(ConnectionAbortedError):
        look_up("kernel.invalid.", 80, None, on_wait)


def test_no_thread_for_a_look_up_is_an_error_of_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Callers expect OSError."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(deadline, "spawn", refuse)
    with pytest.raises(OSError, match="can't start"):
        look_up("kernel.invalid.", 80, 1)


def test_many_dead_addresses_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one is tried, too, and the limit is one for all."""
    with contextlib.ExitStack() as stack:
        alive = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        dead = [stack.enter_context(full_listener()) for _ in range(3)]
        rows = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", one) for one in dead]
        rows.append((socket.AF_INET, socket.SOCK_STREAM, 0, "", alive.getsockname()))
        monkeypatch.setattr(deadline, "look_up", lambda *_: rows)
        stack.enter_context(deadline.connect("kernel", 80, SharedOut(4 * LIMIT)))
        monkeypatch.setattr(deadline, "look_up", lambda *_: rows[:3] * 10)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            deadline.connect("kernel", 80, Deadline(LIMIT))
        assert time.monotonic() - started < SLACK


@contextmanager
def full_listener() -> Iterator[tuple[str, int]]:
    """Listen where connections are dropped in silence: the queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(address)
        yield address


class SharedOut(Deadline):
    """A deadline without a clock: each share is subtracted from the time left when it is taken."""

    def __init__(self, seconds: float) -> None:
        super().__init__(None)
        self._seconds = seconds

    def left(self) -> float:
        """Return the seconds that no share has taken."""
        return self._seconds

    def share(self, parts: int) -> float:
        """Take a share."""
        taken = self._seconds / parts
        self._seconds -= taken
        return taken


def test_a_deadline_without_an_end_never_comes() -> None:
    """As an option may say."""
    assert Deadline(None).left() is Deadline(None).share(3) is None
    assert 0 < (Deadline(9).share(3) or 0) <= 3
    with pytest.raises(TimeoutError):
        Deadline(0).left()

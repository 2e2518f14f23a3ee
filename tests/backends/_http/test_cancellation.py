"""What a cancelled scope shuts down, and what it leaves alone."""

from __future__ import annotations

import socket

import pytest

from backends._http.cancellation import Cancelled, CancelScope, current_scope


def test_a_cancelled_scope_watches_nothing() -> None:
    """Whatever it is to watch."""
    scope = CancelScope()
    scope.cancel()
    with socket.socket() as sock, pytest.raises(Cancelled):
        scope.watch(sock)


def test_a_scope_shuts_down_what_it_watches_and_nothing_else(listener: socket.socket) -> None:
    """A socket that was released may serve another chat."""
    held, kept = (socket.create_connection(listener.getsockname(), 60) for _ in range(2))
    others = [listener.accept()[0] for _ in range(2)]
    scope = CancelScope()
    scope.watch(kept)
    scope.unwatch()
    scope.watch(held)
    scope.cancel()
    others[0].settimeout(60)
    assert others[0].recv(1) == b"", "the other side sees it"
    others[1].sendall(b"x")
    assert kept.recv(1) == b"x"
    for sock in (held, kept, *others):
        sock.close()


def test_a_thread_has_the_scope_that_it_entered_last() -> None:
    """And the former one again afterwards; without any, one that no thread cancels."""
    with CancelScope() as outer:
        with CancelScope() as inner:
            assert current_scope() is inner
        assert current_scope() is outer
    assert current_scope() not in (outer, inner)

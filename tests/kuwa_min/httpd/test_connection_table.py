"""Which connections are dropped, and how they are counted."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from kuwa_min.httpd.connection_table import ConnectionTable, State

TIMEOUT = 60.0  # seconds until a test gives up

Pairs = Callable[[], tuple[socket.socket, socket.socket]]


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    """Make socket pairs that are closed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def make() -> tuple[socket.socket, socket.socket]:
            near, far = socket.socketpair()
            near.settimeout(TIMEOUT)
            far.settimeout(TIMEOUT)
            return stack.enter_context(near), stack.enter_context(far)

        yield make


def test_the_one_that_is_idle_for_the_longest_is_dropped(pairs: Pairs) -> None:
    """Drop neither busy ones nor those that are dropped already."""
    table = ConnectionTable()
    busy, first, second = pairs(), pairs(), pairs()
    for near, _ in (busy, first, second):
        table.add(near)
    table.mark(busy[0], State.BUSY)
    table.mark(first[0], State.BUSY)
    table.mark(first[0], State.IDLE)
    assert table.drop_oldest(State.IDLE)
    assert second[1].recv(1) == b""
    assert (len(table), table.kept, table.ending) == (3, 2, 1)
    assert table.drop_oldest(State.IDLE)
    assert first[1].recv(1) == b""
    assert not table.drop_oldest(State.IDLE)
    busy[0].sendall(b"still here")
    assert busy[1].recv(10) == b"still here"


def test_what_may_be_dropped_is_the_callers_choice(pairs: Pairs) -> None:
    """The oldest of some states, but not the one that is named."""
    table = ConnectionTable()
    lingering, idle, newest = pairs(), pairs(), pairs()
    for near, _ in (lingering, idle, newest):
        table.add(near)
    table.mark(idle[0], State.IDLE)
    table.mark(lingering[0], State.LINGERING)
    table.mark(newest[0], State.IDLE)
    assert table.drop_oldest(State.IDLE, but=newest[0])
    assert idle[1].recv(1) == b""
    assert not table.drop_oldest(State.IDLE, but=newest[0])
    assert not table.drop_oldest(State.RECEIVING)
    assert table.drop_oldest(State.IDLE, State.LINGERING)
    assert lingering[1].recv(1) == b""


def test_a_dropped_connection_counts_until_it_is_removed(pairs: Pairs) -> None:
    """No mark brings it back; its end makes room for the one that waits."""
    table, (near, _) = ConnectionTable(), pairs()
    table.add(near)
    table.drop_oldest(State.IDLE)
    table.mark(near, State.IDLE)
    assert table.count(State.DROPPED) == 1
    assert not table.wait_for_fewer(1, 0)
    end = threading.Timer(0.01, table.remove, [near])
    end.start()
    assert table.wait_for_fewer(1, TIMEOUT)
    table.remove(near)
    assert (len(table), table.kept, table.ending) == (0, 0, 0)


def test_a_connection_goes_on_under_another_socket(pairs: Pairs) -> None:
    """Replace its socket: the number stays, and it is idle."""
    table, (near, far), (other, _) = ConnectionTable(), pairs(), pairs()
    table.add(near)
    table.mark(near, State.BUSY)
    table.replace(near, other, State.IDLE)
    assert (len(table), table.count(State.IDLE)) == (1, 1)
    table.mark(near, State.BUSY)
    assert table.count(State.IDLE) == 1
    table.shut_down()
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        far.recv(1)
    assert other.recv(1) == b""

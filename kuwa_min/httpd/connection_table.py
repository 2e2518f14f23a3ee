"""The open connections of a server: how many there are, and which may be dropped for others."""

from __future__ import annotations

import contextlib
import socket
import threading
from enum import Enum, auto


class State(Enum):
    """What happens on a connection."""

    IDLE = auto()  # no request yet, or its answer was sent
    RECEIVING = auto()  # the head of a request has come, its body has not
    BUSY = auto()  # from then to the answer's end
    LINGERING = auto()  # answered for the last time, but its client still sends; has no thread
    DROPPED = auto()  # shut down by us, not closed yet


class ConnectionTable:
    """The connections of one server, the longest unchanged first; all methods are thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards the rest
        self._states: dict[int, tuple[socket.socket, State]] = {}  # by id(socket)
        self._dropped = 0

    def __len__(self) -> int:
        """Return how many are open, dropped ones included."""
        return len(self._states)

    def count(self, state: State) -> int:
        """Return how many are in a state."""
        with self._changed:
            return sum(one is state for _, one in self._states.values())

    @property
    def kept(self) -> int:
        """Return how many are open and not dropped."""
        return len(self._states) - self._dropped

    @property
    def ending(self) -> int:
        """Return how many were dropped and are not closed yet."""
        return self._dropped

    def add(self, sock: socket.socket) -> None:
        """Take a connection in, as an idle one."""
        with self._changed:
            self._states[id(sock)] = sock, State.IDLE

    def replace(self, sock: socket.socket, successor: socket.socket, state: State) -> None:
        """Let another socket object stand for a connection."""
        with self._changed:
            self._remove(sock)
            self._states[id(successor)] = successor, state

    def mark(self, sock: socket.socket, state: State) -> None:
        """Note what happens on a connection, unless it was dropped."""
        with self._changed:
            if self._states.get(id(sock), (sock, State.DROPPED))[1] is not State.DROPPED:
                del self._states[id(sock)]
                self._states[id(sock)] = sock, state

    def remove(self, sock: socket.socket) -> None:
        """Forget a connection that is about to be closed."""
        with self._changed:
            self._remove(sock)

    def drop_oldest(self, *states: State, but: socket.socket | None = None) -> bool:
        """Shut the connection down that has been in such a state for the longest; tell if one is.

        but: one that is to be kept.
        """
        with self._changed:
            inside = (sock for sock, state in self._states.values() if state in states)
            sock = next((sock for sock in inside if sock is not but), None)
            if sock is None:
                return False
            self._states[id(sock)] = sock, State.DROPPED
            self._dropped += 1
        _shut_down(sock)
        return True

    def wait_for_fewer(self, count: int, seconds: float) -> bool:
        """Wait until fewer are open; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._states) < count, seconds)

    def shut_down(self) -> None:
        """Interrupt all connections; their threads close them."""
        with self._changed:
            socks = [sock for sock, _ in self._states.values()]
        for sock in socks:
            _shut_down(sock)

    def _remove(self, sock: socket.socket) -> None:
        _, state = self._states.pop(id(sock), (sock, None))
        if state is State.DROPPED:
            self._dropped -= 1
        self._changed.notify_all()


def _shut_down(sock: socket.socket) -> None:
    """Interrupt the thread that waits for this socket; that thread closes it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)

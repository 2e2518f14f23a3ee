"""Close connections whose clients still send, without losing the answer.

Fact: closing a socket with unread bytes, or receiving any after it, resets the connection, and the
client may lose an answer that it has not read yet. So only our side is shut down at first; what the
client sends is dropped until it closes its side, or up to limits of bytes and time.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

RECV_SIZE = 64 << 10  # bytes asked for at once
SHORT_READ = 4096  # bytes; after fewer, a connection rests until the next look
READS_AT_ONCE = 8  # of one connection, before others have their turn


Close = Callable[[socket.socket], None]


class LingeringConnections:
    """Connections that are answered and not closed yet.

    `add` may be called on any thread; the selector's thread calls its callbacks (the data of its
    keys), and `look` every half second or so while there are any.

    lock: guards what the selector watches.
    """

    def __init__(self, selector: selectors.BaseSelector, lock: threading.Lock) -> None:
        self._selector, self._lock = selector, lock
        self._open: dict[socket.socket, _Lingering] = {}

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def add(self, sock: socket.socket, size: int, seconds: float, close: Close) -> None:
        """Close a connection once its client has, or one of the limits is reached.

        size: bytes to drop at most.
        """
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        self._open[sock] = _Lingering(sock, size, time.monotonic() + seconds, close)
        self._watch(sock)

    def look(self) -> None:
        """Close those whose time is over, and watch those again that rest."""
        now = time.monotonic()
        for sock, one in tuple(self._open.items()):
            if now >= one.deadline:
                self._close(sock)
            elif one.rests:
                one.rests = False
                self._watch(sock)

    def close(self) -> None:
        """Close all, now."""
        for sock in tuple(self._open):
            self._close(sock)

    def _watch(self, sock: socket.socket) -> None:
        with self._lock, contextlib.suppress(KeyError, ValueError):
            self._selector.register(sock, selectors.EVENT_READ, partial(self._handle, sock))

    def _handle(self, sock: socket.socket, _: int) -> None:
        one = self._open.get(sock)
        if one is None:
            return
        one.rests = one.drop()
        if one.left <= 0:
            self._close(sock)
        elif one.rests:
            self._unwatch(sock)

    def _close(self, sock: socket.socket) -> None:
        self._unwatch(sock)
        self._open.pop(sock).close(sock)

    def _unwatch(self, sock: socket.socket) -> None:
        with self._lock, contextlib.suppress(KeyError):
            self._selector.unregister(sock)


class _Lingering:
    """One connection.

    left: bytes that may still be dropped. deadline: as time.monotonic() counts. rests: whether it
    is not watched until the next look, because a client that drips would cost a wake-up a byte.
    """

    def __init__(
        self,
        sock: socket.socket,
        left: int,
        deadline: float,
        close: Callable[[socket.socket], None],
    ) -> None:
        self._sock, self.left, self.deadline, self.close = sock, left, deadline, close
        self.rests = False

    def drop(self) -> bool:
        """Drop what has come; return whether that was so little that the next look will do."""
        for _ in range(READS_AT_ONCE):
            try:
                received = len(self._sock.recv(RECV_SIZE))
            except (BlockingIOError, InterruptedError):
                return False
            except (OSError, ValueError, MemoryError):
                received = 0
            self.left = self.left - received if received else 0
            if received < SHORT_READ:
                return True
        return False

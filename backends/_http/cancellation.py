"""Cancel scopes: another thread ends the wait of a chat's thread in a socket.

Strategy: a thread that waits in a socket cannot be interrupted, but another thread can shut the
socket down, which ends the wait at once and tells the peer, too. So each chat has a cancel scope.
While the chat's thread waits, its scope watches the socket, or knows a function that ends another
kind of wait. Low layers find the scope by current_scope(), so that no request, pool or connection
must hand it down.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType

_thread = threading.local()  # .scope: the scope that this thread has entered


class Cancelled(OSError):
    """Report that the scope was cancelled before it could watch."""


class CancelScope:
    """The waits of one chat.

    The chat's thread enters the scope and, before each wait, calls watch() or on_cancel(), and
    afterwards unwatch(). Any thread may call cancel(), at any time, even before the first wait;
    it never blocks. The wait then ends with an OSError or an end of file, and the next call of
    watch() or on_cancel() raises Cancelled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end_wait: Callable[[], None] | None = None
        self.is_cancelled = False

    def __enter__(self) -> CancelScope:
        """Become the scope of the thread."""
        self._outer, _thread.scope = getattr(_thread, "scope", None), self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the thread its former scope back."""
        _thread.scope = self._outer

    def watch(self, sock: socket.socket) -> None:
        """Let cancel() shut this socket down; raises Cancelled if it was called already."""
        self.on_cancel(partial(_shut_down, sock))

    def on_cancel(self, end_wait: Callable[[], None]) -> None:
        """Let cancel() call this, which must not block; raises Cancelled if it was called."""
        with self._lock:
            self._end_wait = end_wait
            if self.is_cancelled:
                raise Cancelled("the chat was stopped")

    def unwatch(self) -> None:
        """Watch nothing: to be called before a socket is closed or may serve another chat."""
        with self._lock:
            self._end_wait = None

    def cancel(self) -> None:
        """End the wait under way, and all later ones."""
        with self._lock:
            self.is_cancelled = True
            if self._end_wait is not None:
                self._end_wait()


def current_scope() -> CancelScope:
    """Return the scope that this thread has entered; else a new one, which no thread cancels."""
    scope: CancelScope | None = getattr(_thread, "scope", None)
    return scope or CancelScope()


def _shut_down(sock: socket.socket) -> None:
    """Shut a socket down below TLS: SSLSocket.shutdown() would take its state from its reader."""
    with contextlib.suppress(OSError):  # it is not connected yet, or not any more
        socket.socket.shutdown(sock, socket.SHUT_RDWR)

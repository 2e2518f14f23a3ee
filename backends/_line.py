"""Hold the line to a service on which a chat waits, so that whoever stops the chat can cut it.

A thread that waits in a socket cannot be interrupted; but its socket can be shut down by another
thread, which ends the wait at once and tells the other side, too.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType

_here = threading.local()  # .line: the one that this thread uses, where it is set


class Cut(OSError):
    """Say that nobody waits for this line any more."""


class Line:
    """What one chat waits on; as a context, the line of the thread that enters it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cut: Callable[[], None] | None = None
        self.is_cut = False

    def __enter__(self) -> Line:
        """Make this the thread's line."""
        self._before, _here.line = getattr(_here, "line", None), self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the thread back the line it had."""
        _here.line = self._before

    def hold(self, plug: socket.socket) -> None:
        """Have this socket shut down by `cut`; raises Cut if that was called already."""
        self.hold_call(partial(_shut_down, plug))

    def hold_call(self, call: Callable[[], None]) -> None:
        """Have this called by `cut`, which it must not keep waiting; raises Cut if it was."""
        with self._lock:
            self._cut = call
            if self.is_cut:
                raise Cut("the line was cut")

    def release(self) -> None:
        """Forget what is held: before a socket is closed or lent to somebody else."""
        with self._lock:
            self._cut = None

    def cut(self) -> None:
        """End the wait, from any thread; never waits."""
        with self._lock:
            self.is_cut = True
            if self._cut is not None:
                self._cut()


def current() -> Line:
    """Return the line of the chat that runs on this thread; one that nobody cuts if none does."""
    line: Line | None = getattr(_here, "line", None)
    return line or Line()


def _shut_down(plug: socket.socket) -> None:
    """Shut a socket down; the method of an encrypted one would take its state from its reader."""
    with contextlib.suppress(OSError):  # it is not connected yet, or not any more
        socket.socket.shutdown(plug, socket.SHUT_RDWR)

"""Where a server's connections come from: its listening socket, or a process that accepts first."""

from __future__ import annotations

import logging
import selectors
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .acceptor import AcceptorProcess
    from .acceptor_child import Settings

logger = logging.getLogger(__name__)

FIRST_RETRY, LAST_RETRY = 1.0, 60.0  # seconds from the end of a process to the next one's start
STEADY = 60.0  # seconds after which a process did not end at its start


class Listener:
    """Takes connections from the socket, or, once `delegate` was called, from a process.

    The process is started again when it ends, with a back-off; meanwhile the socket is used, which
    is non-blocking from then on. All but `delegate` is called by the accepting thread.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._settings: Settings | None = None
        self._process: AcceptorProcess | None = None
        self._retry, self._start_at, self._started_at = FIRST_RETRY, 0.0, 0.0
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ)
        self._accepts = True  # whether the socket is registered
        self._received: tuple[socket.socket, Any] | OSError | None = None  # for `accept`

    def delegate(self, settings: Settings) -> None:
        """Let a process accept from now on, and answer what the settings say."""
        self._sock.setblocking(False)
        self._settings = settings

    def wait(self, seconds: float) -> bool:
        """Wait for connections; return whether `accept` has something to do."""
        if self._received is not None:
            return True
        if self._settings is not None and self._process is None:
            self._start(self._settings)
        ready = [key.fileobj for key, _ in self._selector.select(seconds)]
        if self._process is not None:
            self._hear(self._process, readable=self._process in ready)
        return self._received is not None or self._sock in ready

    def accept(self) -> tuple[socket.socket, Any]:
        """Return a connection and its address; raises BlockingIOError if there is none."""
        received, self._received = self._received, None
        if isinstance(received, OSError):
            raise received
        return received or self._sock.accept()

    def give_up_process(self) -> bool:
        """End the process for good, for its threads; return False if there is none."""
        if self._process is None:
            return False
        self._selector.unregister(self._process)
        self._process.close()
        self._process = self._settings = None
        self._accept_here(True)
        logger.warning(
            "the process that accepts connections ended for lack of threads; "
            "/health may be slow while chats compute"
        )
        return True

    def close(self) -> None:
        """End the process, if any."""
        if isinstance(self._received, tuple):
            self._received[0].close()
        if self._process is not None:
            self._process.close()
            self._process = None
        self._selector.close()

    def _start(self, settings: Settings) -> None:
        now = time.monotonic()
        if now < self._start_at:
            return
        self._started_at = now
        from .acceptor import AcceptorProcess  # none of this is needed to listen

        try:
            self._process = AcceptorProcess(self._sock, settings)
        except OSError as error:
            self._back_off(f"cannot start: {error.strerror or error}")
            return
        self._selector.register(self._process, selectors.EVENT_READ)

    def _hear(self, process: AcceptorProcess, *, readable: bool) -> None:
        """Take what the process has sent, if any."""
        try:
            if readable:
                self._received = process.receive()
            elif process.stuck:
                self._end(process, "is stuck")
        except EOFError:
            self._end(process, "ended")
        except OSError as error:
            self._received = error
        self._accept_here(self._process is None or not process.started)

    def _accept_here(self, accepts: bool) -> None:
        if accepts != self._accepts:
            self._accepts = accepts
            if accepts:
                self._selector.register(self._sock, selectors.EVENT_READ)
            else:
                self._selector.unregister(self._sock)

    def _end(self, process: AcceptorProcess, what: str) -> None:
        """Accept here again, until another process can be started."""
        self._selector.unregister(process)
        process.close()
        self._process = None
        self._back_off(what)

    def _back_off(self, what: str) -> None:
        now = time.monotonic()
        if now - self._started_at > STEADY:
            self._retry = FIRST_RETRY
        self._start_at = now + self._retry
        logger.warning(
            "the process that accepts connections %s; it starts again in %g s, and until then "
            "/health may be slow while chats compute",
            what,
            self._retry,
        )
        self._retry = min(2 * self._retry, LAST_RETRY)

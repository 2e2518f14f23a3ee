"""One thread that flushes coalesced writes and watches the clients of all streamed bodies.

It also closes connections whose clients still send: see lingering.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import threading
import time
from collections import deque
from functools import partial

from kuwa_min.process import supervision

from .body_writer import BodyWriter
from .lingering import Close, LingeringConnections

STALL_POLL = 0.5  # seconds between two looks at clients that take nothing, or still send


class FlushThread:
    """A `with` block during which requested flushes are done and disconnects are noticed.

    A connection registers a body before it is produced and unregisters it afterwards. `register`,
    `unregister`, `request_flush` and `linger` may be called from any thread and do not block.

    The selector is level-triggered, and its data are callbacks: it watches each socket for reading
    until `check_peer` has nothing more to find out, and for writing only while bytes wait for it.
    The wakeup pipe (a socket pair) interrupts select() for requested flushes; until they are done,
    one byte is enough for all.

    Behind unread bytes of a next request, reading cannot tell that the client has left. Linux tells
    by an event of its own, EPOLLRDHUP, which selectors do not know; so such sockets go to an epoll
    object that the selector watches. Elsewhere the next send() to such a client finds out.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._changes_while_waiting = hasattr(self._selector, "fileno")  # epoll and kqueue do
        self._lock = threading.Lock()  # guards what the selector watches
        self._requested: deque[BodyWriter] = deque()
        self._blocked: set[BodyWriter] = set()  # whose bytes wait for their socket
        self._lingering = LingeringConnections(self._selector, self._lock)
        self._looked = time.monotonic()
        self._is_woken = self._closing = False
        self._wakeup_receiver, self._wakeup_sender = socket.socketpair()
        self._wakeup_receiver.setblocking(False)
        self._wakeup_sender.setblocking(False)
        self._selector.register(self._wakeup_receiver, selectors.EVENT_READ, self._drain_wakeups)
        self._hangups = select.epoll() if hasattr(select, "epoll") else None
        self._early: dict[int, BodyWriter] = {}  # by descriptor, whose client sent unread bytes
        if self._hangups is not None:
            self._selector.register(self._hangups, selectors.EVENT_READ, self._handle_hangups)
        self._thread = supervision.SupervisedThread("flush", self._run, essential=True)

    def __enter__(self) -> FlushThread:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread; what is not sent by now is lost."""
        self._closing = True
        self._thread.end_pauses()
        self._wake_up()
        self._thread.join()
        self._lingering.close()
        self._selector.close()
        if self._hangups is not None:
            self._hangups.close()
        self._wakeup_receiver.close()
        self._wakeup_sender.close()

    def register(self, writer: BodyWriter) -> None:
        """Watch for the client's disconnect."""
        with self._lock:
            self._selector.register(
                writer.sock, selectors.EVENT_READ, partial(self._handle, writer)
            )
        if not self._changes_while_waiting:
            self._wake_up()

    def unregister(self, writer: BodyWriter) -> None:
        """Leave this body's socket alone: it may be closed or reused from now on."""
        writer.detach()
        with self._lock, contextlib.suppress(KeyError, ValueError):
            self._forget_early(writer.sock.fileno())
            self._selector.unregister(writer.sock)
        self._blocked.discard(writer)

    def request_flush(self, writer: BodyWriter) -> None:
        """Have a body's buffered data sent soon."""
        self._requested.append(writer)
        self._wake_up()

    def linger(self, sock: socket.socket, size: int, seconds: float, close: Close) -> None:
        """Close a connection when its client does, or at a limit of dropped bytes or of time."""
        if self._closing:
            close(sock)
            return
        self._lingering.add(sock, size, seconds, close)
        self._wake_up()

    def _wake_up(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(BlockingIOError):
                self._wakeup_sender.send(b".")

    def _run(self) -> None:
        while not self._closing:
            self._is_woken = False  # first, also for what was requested before a restart
            while self._requested:
                self._flush(self._requested.popleft())
            self._look()
            for key, events in self._select():
                key.data(events)

    def _select(self) -> list[tuple[selectors.SelectorKey, int]]:
        try:
            waits = self._blocked or self._lingering
            return self._selector.select(STALL_POLL if waits else None)
        except (OSError, ValueError):
            return []  # select() was looking at a socket that has been closed since

    def _drain_wakeups(self, _: int) -> None:
        self._wakeup_receiver.recv(4096)

    def _handle(self, writer: BodyWriter, events: int) -> None:
        try:
            if events & selectors.EVENT_READ and not writer.check_peer():
                writer.read_interest = 0
                self._await_hangup(writer)
        except Exception as error:  # noqa: BLE001 - of this body alone
            self._abandon(writer, error)
        self._flush(writer)

    def _abandon(self, writer: BodyWriter, error: Exception) -> None:
        supervision.report("flush", error)
        writer.abandon()

    def _await_hangup(self, writer: BodyWriter) -> None:
        """Watch a client that sent its next request already, where the system can."""
        with self._lock:
            if self._hangups is not None and not (writer.detached or writer.disconnected):
                self._hangups.register(writer.sock, select.EPOLLRDHUP)
                self._early[writer.sock.fileno()] = writer

    def _handle_hangups(self, _: int) -> None:
        assert self._hangups is not None
        for descriptor, _events in self._hangups.poll(0):
            with self._lock:
                writer = self._forget_early(descriptor)
            if writer is not None:
                writer.hang_up()

    def _forget_early(self, descriptor: int) -> BodyWriter | None:
        writer = self._early.pop(descriptor, None)
        if writer is not None and self._hangups is not None:
            self._hangups.unregister(descriptor)
        return writer

    def _flush(self, writer: BodyWriter) -> None:
        try:
            blocked = writer.flush()
        except Exception as error:  # noqa: BLE001 - of this body alone
            self._abandon(writer, error)
            blocked = False
        change = self._blocked.add if blocked else self._blocked.discard
        change(writer)
        self._set_interest(writer, writer.read_interest | (selectors.EVENT_WRITE if blocked else 0))

    def _look(self) -> None:
        """Look at clients that take nothing, and at those that still send, every STALL_POLL."""
        now = time.monotonic()
        if now - self._looked < STALL_POLL:
            return
        self._looked = now
        self._lingering.look()
        for writer in tuple(self._blocked):
            writer.check_stall(now)
            if writer.detached:
                self._blocked.discard(writer)

    def _set_interest(self, writer: BodyWriter, events: int) -> None:
        """Watch the socket for these events from now on, unless it was given back."""
        with self._lock, contextlib.suppress(KeyError, ValueError):
            if writer.detached:
                return
            known = self._selector.get_map().get(writer.sock)
            if known is None and events:
                self._selector.register(writer.sock, events, partial(self._handle, writer))
            elif known is not None and not events:
                self._selector.unregister(writer.sock)
            elif known is not None and known.events != events:
                self._selector.modify(writer.sock, events, known.data)

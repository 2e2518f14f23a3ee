"""Accept connections in a process of its own: answer health checks, hand over all others.

A fresh interpreter runs the code of this module alone (see `acceptor`), so that no chat can keep it
waiting for the interpreter's lock. It imports nothing of ours, and it decides little: it answers
plain GET requests of one path with bytes that it was given. Every other connection goes to the
parent with all its bytes unread, as do requests that may need another answer.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import time
from collections import deque
from typing import NamedTuple

ALIVE, CONNECTION = b".", b"c"  # what is sent to the parent: a sign of life, a descriptor
TICK = 0.1  # seconds between two looks at connections that wait
PARENT_CHECK = 1.0  # seconds between two looks at whether the parent lives
RETRY = 0.01  # seconds without accept() or a hand-over once the system refuses descriptors
ACCEPT_AT_ONCE = 64  # connections, before those that wait are looked at
PEEK = 4096  # bytes; a longer head is the parent's
# Fields that cannot change the answer, unless they come twice. A browser sends others.
PLAIN_FIELDS = frozenset(
    b"host connection user-agent accept accept-encoding cache-control pragma"
    b" x-request-id traceparent tracestate".split()
)


class Settings(NamedTuple):
    """What the parent says at the start; marshalled, so it holds plain types only.

    answers: by keep-alive. stale: instead of these, once the parent has been silent for
    stale_seconds. full: for connections that can be neither held nor handed over.
    silent_seconds: until a connection without a first byte goes to the parent.
    idle_seconds: until one that was answered is closed.
    connections: that may wait here, for each of both reasons.
    """

    path: str
    answers: tuple[bytes, bytes]
    stale: bytes
    full: bytes
    stale_seconds: float
    silent_seconds: float
    idle_seconds: float
    connections: int
    parent: int  # its process id


class Waiting(NamedTuple):
    """A connection that has sent nothing yet, or nothing since its answer."""

    sock: socket.socket
    deadline: float
    answered: bool


class Acceptor:
    """The loop. control: to the parent; its end of the stream ends this process."""

    def __init__(
        self, control: socket.socket, listening: socket.socket, settings: Settings
    ) -> None:
        self._control, self._listening, self._settings = control, listening, settings
        self._waiting: dict[int, Waiting] = {}  # by descriptor, the longest waiting first
        self._outbox: deque[socket.socket] = deque()  # for the parent, which does not take them
        self._heard = time.monotonic()  # from the parent
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(listening, select.POLLIN)

    def run(self) -> None:
        """Serve until the parent ends."""
        self._say_alive()
        while os.getppid() == self._settings.parent:
            seconds = TICK if self._waiting or self._outbox else PARENT_CHECK
            ready = dict(self._poll.poll(seconds * 1000))
            if ready.pop(self._control.fileno(), 0) & ~select.POLLOUT and not self._listen():
                return
            self._flush()
            may_accept = ready.pop(self._listening.fileno(), 0)
            for number in ready:
                self._look_at(self._waiting[number])
            if may_accept:
                self._accept()
            self._expire()

    def _listen(self) -> bool:
        """Take the parent's heartbeats; return False at its end."""
        with contextlib.suppress(BlockingIOError):
            try:
                if not self._control.recv(PEEK, socket.MSG_DONTWAIT):
                    return False
            except ConnectionError:
                return False
        self._heard = time.monotonic()
        self._say_alive()
        return True

    def _say_alive(self) -> None:
        with contextlib.suppress(OSError):  # it has unread ones, or ends
            self._control.send(ALIVE, socket.MSG_DONTWAIT)

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                sock = self._listening.accept()[0]
            except (BlockingIOError, ConnectionError):
                return
            except OSError:  # out of descriptors
                self._release_oldest()
                time.sleep(RETRY)
                return
            if len(self._waiting) >= self._settings.connections:
                self._release_oldest()
            self._hold(sock, self._settings.silent_seconds, answered=False)
            self._look_at(self._waiting[sock.fileno()])

    def _hold(self, sock: socket.socket, seconds: float, *, answered: bool) -> None:
        self._waiting[sock.fileno()] = Waiting(sock, time.monotonic() + seconds, answered)
        self._poll.register(sock, select.POLLIN)

    def _forget(self, waiting: Waiting) -> socket.socket:
        del self._waiting[waiting.sock.fileno()]
        self._poll.unregister(waiting.sock)
        return waiting.sock

    def _look_at(self, waiting: Waiting) -> None:
        """Answer what has arrived, or hand it over; do nothing if nothing has."""
        sock = waiting.sock
        try:
            data = sock.recv(PEEK, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._forget(waiting)
        if not data:
            sock.close()
            return
        head = data.partition(b"\r\n\r\n")
        keep_alive = plain_request(head[0], self._settings.path) if head[1] else None
        if keep_alive is None:
            self._hand_over(sock)
        else:
            self._answer(sock, len(head[0]) + len(head[1]), keep_alive)

    def _answer(self, sock: socket.socket, size: int, keep_alive: bool) -> None:
        """Consume a request of this many bytes and answer it."""
        settings = self._settings
        answer = settings.answers[keep_alive]
        if time.monotonic() - self._heard > settings.stale_seconds:
            answer, keep_alive = settings.stale, False
        try:
            sock.recv(size, socket.MSG_DONTWAIT)
            complete = sock.send(answer, socket.MSG_DONTWAIT) == len(answer)
        except OSError:
            complete = False
        if complete and keep_alive:
            self._hold(sock, settings.idle_seconds, answered=True)
        else:
            _end(sock)

    def _hand_over(self, sock: socket.socket) -> None:
        if len(self._outbox) < self._settings.connections:
            self._outbox.append(sock)
            self._flush()
            return
        with contextlib.suppress(OSError):
            sock.send(self._settings.full, socket.MSG_DONTWAIT)
        _end(sock)

    def _flush(self) -> None:
        """Hand over as many connections as the parent takes."""
        while self._outbox:
            try:
                _send_descriptor(self._control, self._outbox[0].fileno())
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:  # of this user are in flight
                    time.sleep(RETRY)
                break  # at the parent's end, the next recv() says so
            self._outbox.popleft().close()
        events = select.POLLIN | (select.POLLOUT if self._outbox else 0)
        self._poll.modify(self._control, events)

    def _expire(self) -> None:
        now = time.monotonic()
        for waiting in [one for one in self._waiting.values() if one.deadline <= now]:
            self._release(waiting)

    def _release_oldest(self) -> None:
        for waiting in self._waiting.values():
            self._release(waiting)
            return

    def _release(self, waiting: Waiting) -> None:
        """Close an idle connection; one that has sent nothing yet goes to the parent."""
        sock = self._forget(waiting)
        if waiting.answered:
            _end(sock)
        else:
            self._hand_over(sock)


def plain_request(head: bytes, path: str) -> bool | None:
    """Tell whether a plain GET of this path keeps its connection; None: let the parent answer.

    head: a request's, without its final empty line.
    """
    first, *lines = head.split(b"\r\n")
    versions = [b"GET %s HTTP/1.%d" % (path.encode(), minor) for minor in (0, 1)]
    if first not in versions:
        return None
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or name not in PLAIN_FIELDS or name in fields or not _is_plain(value):
            return None
        fields[name] = value.strip(b" \t").lower()
    is_11 = first == versions[1]
    if (is_11 and b"host" not in fields) or fields.get(b"user-agent", b"").startswith(b"mozilla/"):
        return None
    words = [word.strip() for word in fields.get(b"connection", b"").split(b",")]
    return is_11 and b"close" not in words


def _is_plain(value: bytes) -> bool:
    return value.isascii() and value.replace(b"\t", b" ").decode().isprintable()


def _send_descriptor(control: socket.socket, number: int) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [number]))]
    control.sendmsg([CONNECTION], ancillary, socket.MSG_DONTWAIT)


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    sock.close()


def run(control: socket.socket, values: tuple[object, ...]) -> None:
    """Serve until the parent ends; the listening socket comes first. values: of Settings."""
    listening = socket.socket(fileno=socket.recv_fds(control, 1, 1)[1][0])
    listening.setblocking(False)
    Acceptor(control, listening, Settings(*values)).run()  # type: ignore[arg-type]

"""Bring a streamed body to its reader: at once when it is quiet, in one write when it piles up.

The thread that makes the text writes it to the socket itself as long as the socket takes it and
pieces are at least QUIET apart: no other thread is woken for a piece. What comes faster, or what a
slow reader leaves behind, piles up and is written by one courier thread for all bodies, which also
notices readers that left, or that stopped reading. Knows nothing of requests or chats.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from . import http1
from .errors import Gone, describe

logger = logging.getLogger(__name__)

QUIET = 0.001  # seconds; pieces closer than this are collected into one write
ROOM = 64 << 10  # characters that may pile up before the writer waits for the reader
PATIENCE = 0.1  # seconds that an abandoned body gets to reach its reader
TICK = 0.5  # seconds between two looks at readers that stopped reading


class Delivery:
    """The body of one response on its way; `write` and `finish` may come from any thread."""

    def __init__(
        self,
        sock: socket.socket,
        courier: Courier,
        *,
        peek: Callable[[], bytes],
        not_yet: tuple[type[OSError], ...],
        chunked: bool,
        stall_seconds: float,
    ) -> None:
        self.sock, self._courier = sock, courier
        self._peek, self._not_yet, self._chunked = peek, not_yet, chunked
        self._stall_seconds = stall_seconds
        self._lock = threading.Lock()  # taken as it is where it is hot: a Condition costs two calls
        self._room = threading.Condition(self._lock)
        self.encode: Callable[[str], bytes] = _utf8  # makes one frame of text that piled up
        self._pieces: list[str] = []  # text that is not in a frame yet
        self._frames: list[bytes] = []  # each becomes one chunk
        self._piled = 0  # characters and bytes in both
        self._wire = b""  # framed, not taken by the socket yet
        self._written = self._progress = 0.0  # time.monotonic() of the last write, of the last send
        self._posted = self._finished = self._closed = self._hurried = False
        self.gone = self.let_go = False
        self.watching = selectors.EVENT_READ
        self.on_gone: Callable[[], None] = lambda: None
        self._on_room: Callable[[], None] | None = None

    def write(self, data: str | bytes) -> None:
        """Send text or a frame; wait while too much is piled up; raises Gone without a reader."""
        if not self.put(data):
            self.wait_for_room()

    def put(self, data: str | bytes) -> bool:
        """Send text or a frame without waiting; return whether there is room for more.

        Text that is ready is encoded together; a frame (bytes) is a chunk of its own, to which
        nothing is joined. Raises Gone without a reader. Without room, use `wait_for_room` or
        `when_room` before the next piece: what is put all the same only takes memory.
        """
        with self._lock:
            self._pile(data)
            if not self._posted:
                self._send_or_post()
                if self.gone:
                    raise Gone
            return self._piled <= ROOM

    def _pile(self, data: str | bytes) -> None:
        """Add to what is not sent yet; the lock is held."""
        if self.gone or self._finished:
            raise Gone
        if isinstance(data, str):
            self._pieces.append(data)
        else:
            self._frame_text()
            self._frames.append(data)
        self._piled += len(data)

    def wait_for_room(self) -> None:
        """Wait until the reader has taken most of what is piled up; raises Gone if it left."""
        with self._room:
            while not self._has_room():
                self._room.wait()
            if self.gone:
                raise Gone

    def wait_until_gone(self) -> None:
        """Wait for the thread that abandons the body; raises Gone."""
        with self._room:
            self._room.wait_for(lambda: self.gone)
        raise Gone

    def rest(self, seconds: float) -> None:
        """Wait until all is sent, then `seconds` more; `hurry` and a lost reader end both early."""
        with self._room:
            self._room.wait_for(lambda: self._in_haste() or not self._unsent())
            self._room.wait_for(self._in_haste, seconds)

    def _in_haste(self) -> bool:
        return self.gone or self._finished or self._hurried

    def _unsent(self) -> bool:
        return bool(self._pieces or self._frames or self._wire)

    def hurry(self) -> None:
        """End a `rest`, and every later one at once."""
        with self._room:
            self._hurried = True
            self._room.notify_all()

    def when_room(self, call: Callable[[], None]) -> None:
        """Make this call once when there is room, or no reader any more; it must not wait."""
        with self._room:
            if not self._has_room():
                self._on_room = call
                return
        call()

    def _has_room(self) -> bool:
        return self._piled <= ROOM or self.gone or self._finished

    def _notify(self) -> None:
        """Wake the writer, whichever way it waits; the lock is held."""
        self._room.notify_all()
        self._call_when_room()

    def _call_when_room(self) -> None:
        if self._on_room is not None and self._has_room():
            call, self._on_room = self._on_room, None
            call()

    def _send_or_post(self) -> None:
        now = time.monotonic()
        if now - self._written >= QUIET:
            self._flush(now)
        if self._unsent():
            self._posted = True
            self._courier.post(self)

    def finish(self) -> None:
        """End the body and wait until the reader's system has all of it; raises Gone if not."""
        with self._room:
            self._end()
            while self._wire and not self.gone:
                self._room.wait()
            if self.gone:
                raise Gone

    def abandon(self, last_words: Iterable[str | bytes] = ()) -> None:
        """End the body although its writer has not ended, and the connection with it."""
        with self._room:
            with contextlib.suppress(Gone):
                for data in last_words:
                    self._pile(data)
            self._end()
            self._room.wait_for(lambda: not self._wire, PATIENCE)
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
            self._lose()

    def _end(self) -> None:
        """Let no more text in and send what is there; the lock is held."""
        if self._finished or self.gone:
            return
        self._finished = True
        self._notify()
        self._flush(time.monotonic())
        if self._wire:
            self._courier.post(self)

    def release(self) -> None:
        """Touch the socket no more: it belongs to whoever reads the next request."""
        with self._room:
            self.let_go = True

    def break_off(self) -> None:
        """Let the connection end without the body's end: the reader shall know that it is cut."""
        with self._room:
            self._flush(time.monotonic())
            self._lose()

    def carry(self) -> bool:
        """Write what has piled up; return whether some of it must wait for the reader."""
        with self._room:
            self._posted = False
            if self.gone or self.let_go:
                return False
            self._flush(time.monotonic())
            lost, waiting = self.gone, bool(self._wire)
        if lost:
            self._tell()
        return waiting

    def look(self) -> bool:
        """Look whether the reader left; return whether looking again makes sense."""
        with self._room:
            if self.gone or self.let_go:
                return False
            try:
                if self._peek():
                    return False  # the next request is waiting; its end would look the same
            except self._not_yet:
                return True
            except (OSError, ValueError):
                pass
            self._lose()
        self._tell()
        return False

    def check_stall(self, now: float) -> None:
        """Give the reader up if it has taken nothing for too long."""
        with self._room:
            if self.gone or not self._wire or now - self._progress < self._stall_seconds:
                return
            self._lose()
        self._tell()

    def _tell(self) -> None:
        """Call on_gone on another thread: it runs a backend's code, and all bodies need this one.

        Without a thread to spare it is called here.
        """
        try:
            threading.Thread(target=self._call_on_gone, name="on_gone", daemon=True).start()
        except RuntimeError:
            self._call_on_gone()

    def _call_on_gone(self) -> None:
        try:
            self.on_gone()
        except Exception as error:  # noqa: BLE001 - the courier goes on
            logger.error("giving up an answer failed: %s", describe(error))

    def _flush(self, now: float) -> None:
        """Frame and send what the socket takes now; the lock is held."""
        self._written = now
        if not self._wire:
            self._progress = now
        while True:
            self._frame()
            if not self._wire:
                return self._notify()  # also where what was piled up made no frame
            try:
                sent = self.sock.send(self._wire)
            except self._not_yet:
                return None
            except (OSError, ValueError):
                return self._lose()
            self._wire = self._wire[sent:]
            self._progress = now

    def _frame(self) -> None:
        """Turn what is piled up into wire bytes once the wire is free, then the last chunk."""
        if self._wire:
            return
        self._frame_text()
        if self._frames:
            frames = map(http1.chunk, self._frames) if self._chunked else self._frames
            self._wire = b"".join(frames)
            self._frames.clear()
        self._piled = 0
        self._call_when_room()
        if self._finished and not self._closed:
            self._closed = True
            self._wire += http1.LAST_CHUNK if self._chunked else b""

    def _frame_text(self) -> None:
        """Make one frame of the text that is ready; an empty one would be the last chunk."""
        if self._pieces:
            frame = self.encode("".join(self._pieces))
            self._pieces.clear()
            if frame:
                self._frames.append(frame)

    def _lose(self) -> None:
        self.gone = True
        self._pieces.clear()
        self._frames.clear()
        self._piled, self._wire = 0, b""
        self._notify()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


class Courier:
    """One thread that writes piled-up text and watches the readers of all bodies."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._notices_changes = hasattr(self._selector, "fileno")  # epoll and kqueue do
        self._guard = threading.Lock()
        self._posted: deque[Delivery] = deque()
        self._waiting: set[Delivery] = set()
        self._rung = self._closing = False
        self._ear, self._bell = socket.socketpair()
        self._ear.setblocking(False)
        self._bell.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def __enter__(self) -> Courier:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread; what is not written by now is lost."""
        self._closing = True
        self._ring()
        self._thread.join()
        self._selector.close()
        self._ear.close()
        self._bell.close()

    def watch(self, delivery: Delivery) -> None:
        """Notice when this body's reader leaves."""
        with self._guard:
            self._selector.register(delivery.sock, selectors.EVENT_READ, delivery)
        if not self._notices_changes:
            self._ring()

    def forget(self, delivery: Delivery) -> None:
        """Let go of this body's socket, which may be closed or reused from now on."""
        delivery.release()
        with self._guard, contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(delivery.sock)
        self._waiting.discard(delivery)

    def post(self, delivery: Delivery) -> None:
        """Ask for a body's piled-up text to be written soon."""
        self._posted.append(delivery)
        self._ring()

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            with contextlib.suppress(BlockingIOError):
                self._bell.send(b".")

    def _run(self) -> None:
        while not self._closing:
            for key, events in self._wait():
                if key.data is None:
                    self._ear.recv(4096)
                else:
                    self._serve(key.data, events)
            self._rung = False
            while self._posted:
                self._carry(self._posted.popleft())
            now = time.monotonic()
            for delivery in tuple(self._waiting):
                delivery.check_stall(now)
                if delivery.let_go:
                    self._waiting.discard(delivery)

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        try:
            return self._selector.select(TICK if self._waiting else None)
        except (OSError, ValueError):
            return []  # select() was looking at a socket that has been closed since

    def _serve(self, delivery: Delivery, events: int) -> None:
        if events & selectors.EVENT_READ and not delivery.look():
            delivery.watching = 0
        self._carry(delivery)

    def _carry(self, delivery: Delivery) -> None:
        waiting = delivery.carry()
        known = self._waiting.add if waiting else self._waiting.discard
        known(delivery)
        self._set_interest(delivery, delivery.watching | (selectors.EVENT_WRITE if waiting else 0))

    def _set_interest(self, delivery: Delivery, events: int) -> None:
        """Watch for these events from now on, unless the socket was let go."""
        with self._guard, contextlib.suppress(KeyError, ValueError):
            if delivery.let_go:
                return
            known = self._selector.get_map().get(delivery.sock)
            if known is None and events:
                self._selector.register(delivery.sock, events, delivery)
            elif known is not None and not events:
                self._selector.unregister(delivery.sock)
            elif known is not None and known.events != events:
                self._selector.modify(delivery.sock, events, delivery)

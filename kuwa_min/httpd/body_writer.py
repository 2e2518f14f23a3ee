"""Write a streamed response body to its client: at once when it is slow, coalesced when it is fast.

Knows HTTP/1.1 chunks and sockets, but no requests and no chats.
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

from kuwa_min.errors import ClientDisconnected, describe

from . import http1

logger = logging.getLogger(__name__)

COALESCE_SECONDS = 0.001  # pieces closer together than this are collected into one write
HIGH_WATER = 64 << 10  # characters and bytes that may be buffered before the producer has to wait
STALL_POLL = 0.5  # seconds between two looks at clients that take nothing
CLOSE_GRACE = 0.1  # seconds that a body which is closed early gets to reach its client

# How a body is sent
#
# - Direct writes. The producer (a chat's own thread, or the event loop) sends each piece on the
#   non-blocking socket itself, as long as the socket takes it and pieces are COALESCE_SECONDS
#   apart: a slow stream of tokens wakes no second thread.
# - Coalesced writes. Pieces that come faster, or that a slow client leaves behind, are buffered,
#   and a flush is requested from the flush thread, of which there is one for all bodies. When it
#   gets to a body, all buffered text becomes one frame (`encode`) and one send(): the higher the
#   load, the more pieces share a system call. Frames that are given as bytes are never joined to
#   others. While a flush is requested, the producer only appends to the buffer.
# - Backpressure. Nothing is framed while framed bytes wait for the socket; so a client that does
#   not read leaves the buffer to grow. Above HIGH_WATER `write` blocks, and `put` returns
#   False: its caller waits in `wait_for_room`, or lets `when_room` call it back.
# - Disconnects. The flush thread watches the socket for reading. Bytes are the client's next
#   request, which is left to the connection; the end of the stream or an error is a client that
#   left. That works while the producer is silent, too. A failed send() tells the same.
# - Stalls. A client that takes not one byte of what waits for it for `stall_seconds` is treated as
#   one that left; the flush thread checks that every STALL_POLL seconds.
# - Ends. `finish` is the producer's. `abandon` ends the body from another thread, with a valid
#   end, although the producer blocks. `break_off` leaves out the end, so that the client can see
#   that something is missing. After either, and after a disconnect, `gone` is set, nothing
#   is sent any more and the connection is not reused.
# - Locking. One lock per body guards all of its state, the socket's writing side included; it is
#   never held while waiting or while a backend's code runs.


class Delivery:
    """The body of one streamed response.

    The connection makes one per response. The producer calls `write`, or `put` with
    `wait_for_room` or `when_room`, and at last `finish`. Any thread may call `abandon`, `break_off`
    or `hurry`. The flush thread alone calls `flush`, `check_peer` and `check_stall`. All
    methods are thread-safe. What cannot be sent any more raises ClientDisconnected.

    request_flush: asks the flush thread to call `flush` soon; does not block.
    peek: returns a byte of the next request without consuming it, b"" at the end of the stream, and
    raises one of would_block if there is neither; would_block: what a socket of this kind (plain or
    TLS) raises instead of blocking; chunked: frame as HTTP/1.1 chunks, for all but HTTP/1.0.
    """

    def __init__(
        self,
        sock: socket.socket,
        request_flush: Callable[[Delivery], None],
        *,
        peek: Callable[[], bytes],
        would_block: tuple[type[OSError], ...],
        chunked: bool,
        stall_seconds: float,
    ) -> None:
        self.sock, self._request_flush = sock, request_flush
        self._peek, self._would_block, self._chunked = peek, would_block, chunked
        self._stall_seconds = stall_seconds
        self._lock = threading.Lock()  # taken by itself where it is hot: a Condition costs 2 calls
        self._changed = threading.Condition(self._lock)
        self.encode: Callable[[str], bytes] = _utf8  # makes one frame of coalesced text
        self._texts: list[str] = []  # buffered text that is not in a frame yet
        self._frames: list[bytes] = []  # buffered frames; each becomes one chunk
        self._buffered = 0  # characters and bytes in both
        self._outgoing = b""  # framed, not taken by the socket yet
        self._last_write = self._last_progress = 0.0  # time.monotonic(), the latter if bytes went
        self._flush_requested = self._skip_pauses = False
        self._finished = self._ended = False  # `finish` was called; the last chunk is framed
        self.gone = False  # the client left, or the body was ended early
        self.detached = False  # the socket belongs to the connection again
        self.read_interest = selectors.EVENT_READ  # 0 once there is nothing more to find out
        self.on_gone: Callable[[], None] = lambda: None  # see _report_disconnect
        self._on_drained: Callable[[], None] | None = None

    # -- for the producer

    def write(self, data: str | bytes) -> None:
        """Send text or a frame; block while more than HIGH_WATER is buffered.

        Raises ClientDisconnected if the client has left.
        """
        if not self.put(data):
            self.wait_for_room()

    def put(self, data: str | bytes) -> bool:
        """Send text or a frame without blocking; return whether more may be written.

        Buffered text is encoded together; a frame (bytes) is a chunk of its own. After False, use
        `wait_for_room` or `when_room` before the next piece: the buffer takes it all the same, but
        has no other limit. Raises ClientDisconnected if the client has left.
        """
        with self._lock:
            self._buffer(data)
            if not self._flush_requested:
                self._send_or_request_flush()
                if self.gone:
                    raise ClientDisconnected
            return self._buffered <= HIGH_WATER

    def wait_for_room(self) -> None:
        """Block until no more than HIGH_WATER is buffered; raises ClientDisconnected."""
        with self._changed:
            while not self._is_writable():
                self._changed.wait()
            if self.gone:
                raise ClientDisconnected

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call back once, on any thread, when `wait_for_room` would return or raise, maybe now.

        There is one callback at a time. It must not block, nor call this object.
        """
        with self._changed:
            if not self._is_writable():
                self._on_drained = callback
                return
        callback()

    def rest(self, seconds: float) -> None:
        """Block until everything is sent, then for some seconds of silence.

        `hurry`, a disconnect and the end of the body cut both short.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_pause_over() or not self._has_unsent())
            self._changed.wait_for(self._is_pause_over, seconds)

    def wait_until_gone(self) -> None:
        """Block until the body has ended or the client has left; raises ClientDisconnected."""
        with self._changed:
            self._changed.wait_for(lambda: self.gone)
        raise ClientDisconnected

    def finish(self) -> None:
        """End the body; block until the socket has taken all of it; raises ClientDisconnected."""
        with self._changed:
            self._end()
            while self._outgoing and not self.gone:
                self._changed.wait()
            if self.gone:
                raise ClientDisconnected

    # -- for any thread

    def abandon(self, final_pieces: Iterable[str | bytes] = ()) -> None:
        """End the body, then the connection, although the producer has not finished.

        Blocks for CLOSE_GRACE at most. The producer's next call raises ClientDisconnected.
        """
        with self._changed:
            with contextlib.suppress(ClientDisconnected):
                for data in final_pieces:
                    self._buffer(data)
            self._end()
            self._changed.wait_for(lambda: not self._outgoing, CLOSE_GRACE)
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
            self._disconnect()

    def break_off(self) -> None:
        """End the connection without the end of the body: the client can tell that it is cut."""
        with self._changed:
            self._send_buffered(time.monotonic())
            self._disconnect()

    def hurry(self) -> None:
        """Cut `rest` short, now and from now on: the process ends."""
        with self._changed:
            self._skip_pauses = True
            self._changed.notify_all()

    def detach(self) -> None:
        """Give the socket back to the connection: nothing here touches it any more."""
        with self._changed:
            self.detached = True

    # -- for the flush thread

    def flush(self) -> bool:
        """Send what is buffered; return whether some of it has to wait for the socket."""
        with self._changed:
            self._flush_requested = False
            if self.gone or self.detached:
                return False
            self._send_buffered(time.monotonic())
            lost, blocked = self.gone, bool(self._outgoing)
        if lost:
            self._report_disconnect()
        return blocked

    def check_peer(self) -> bool:
        """Look whether the client has left; return whether it makes sense to look again."""
        with self._changed:
            if self.gone or self.detached:
                return False
            try:
                if self._peek():
                    return False  # the next request: from now on, a disconnect cannot be seen
            except self._would_block:
                return True
            except (OSError, ValueError):
                pass
            self._disconnect()
        self._report_disconnect()
        return False

    def check_stall(self, now: float) -> None:
        """Disconnect a client that has taken nothing for `stall_seconds`; now: time.monotonic()."""
        with self._changed:
            stalled = self._outgoing and now - self._last_progress >= self._stall_seconds
            if self.gone or not stalled:
                return
            self._disconnect()
        self._report_disconnect()

    def _report_disconnect(self) -> None:
        """Call on_gone, once, on a thread of its own: a backend's abort() may block.

        If the system gives no more threads, it is called here. Not called where the producer's own
        send() fails: that raises ClientDisconnected.
        """
        try:
            threading.Thread(target=self._call_on_disconnect, name="on_gone", daemon=True).start()
        except RuntimeError:
            self._call_on_disconnect()

    def _call_on_disconnect(self) -> None:
        try:
            self.on_gone()
        except Exception as error:  # noqa: BLE001 - the flush thread goes on
            logger.error("giving up an answer failed: %s", describe(error))

    # -- with the lock held

    def _buffer(self, data: str | bytes) -> None:
        if self.gone or self._finished:
            raise ClientDisconnected
        if isinstance(data, str):
            self._texts.append(data)
        else:
            self._frame_text()
            self._frames.append(data)
        self._buffered += len(data)

    def _send_or_request_flush(self) -> None:
        now = time.monotonic()
        if now - self._last_write >= COALESCE_SECONDS:
            self._send_buffered(now)
        if self._has_unsent():
            self._flush_requested = True
            self._request_flush(self)

    def _end(self) -> None:
        """Accept no more data, and send the rest and the last chunk."""
        if self._finished or self.gone:
            return
        self._finished = True
        self._notify()
        self._send_buffered(time.monotonic())
        if self._outgoing:
            self._request_flush(self)

    def _send_buffered(self, now: float) -> None:
        """Frame and send what the socket takes without blocking."""
        self._last_write = now
        if not self._outgoing:
            self._last_progress = now
        while True:
            self._frame_buffered()
            if not self._outgoing:
                return self._notify()  # also if what was buffered made no frame
            try:
                sent = self.sock.send(self._outgoing)
            except self._would_block:
                return None
            except (OSError, ValueError):
                return self._disconnect()
            self._outgoing = self._outgoing[sent:]
            self._last_progress = now

    def _frame_buffered(self) -> None:
        """Turn what is buffered into outgoing bytes once those before it are sent."""
        if self._outgoing:
            return
        self._frame_text()
        if self._frames:
            frames = map(http1.chunk, self._frames) if self._chunked else self._frames
            self._outgoing = b"".join(frames)
            self._frames.clear()
        self._buffered = 0
        self._call_on_drained()
        if self._finished and not self._ended:
            self._ended = True
            self._outgoing += http1.LAST_CHUNK if self._chunked else b""

    def _frame_text(self) -> None:
        """Make one frame of the buffered text; an empty one would be the last chunk."""
        if self._texts:
            frame = self.encode("".join(self._texts))
            self._texts.clear()
            if frame:
                self._frames.append(frame)

    def _disconnect(self) -> None:
        self.gone = True
        self._texts.clear()
        self._frames.clear()
        self._buffered, self._outgoing = 0, b""
        self._notify()

    def _notify(self) -> None:
        """Wake the producer, whether it blocks or waits for a callback."""
        self._changed.notify_all()
        self._call_on_drained()

    def _call_on_drained(self) -> None:
        if self._on_drained is not None and self._is_writable():
            callback, self._on_drained = self._on_drained, None
            callback()

    def _is_writable(self) -> bool:
        return self._buffered <= HIGH_WATER or self.gone or self._finished

    def _has_unsent(self) -> bool:
        return bool(self._texts or self._frames or self._outgoing)

    def _is_pause_over(self) -> bool:
        return self.gone or self._finished or self._skip_pauses


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


class Courier:
    """A `with` block during which requested flushes are done and disconnects are noticed.

    A connection registers a body before it is produced and unregisters it afterwards. `register`,
    `unregister` and `request_flush` may be called from any thread and do not block.

    The selector is level-triggered: it watches each socket for reading until `check_peer` has
    nothing more to find out, and for writing only while bytes wait for it. The wakeup
    pipe (a socket pair) interrupts select() for requested flushes; until they are done, one byte is
    enough for all.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._changes_while_waiting = hasattr(self._selector, "fileno")  # epoll and kqueue do
        self._lock = threading.Lock()  # guards what the selector watches
        self._requested: deque[Delivery] = deque()
        self._blocked: set[Delivery] = set()  # whose bytes wait for their socket
        self._is_woken = self._closing = False
        self._wakeup_receiver, self._wakeup_sender = socket.socketpair()
        self._wakeup_receiver.setblocking(False)
        self._wakeup_sender.setblocking(False)
        self._selector.register(self._wakeup_receiver, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)

    def __enter__(self) -> Courier:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread; what is not sent by now is lost."""
        self._closing = True
        self._wake_up()
        self._thread.join()
        self._selector.close()
        self._wakeup_receiver.close()
        self._wakeup_sender.close()

    def register(self, writer: Delivery) -> None:
        """Watch for the client's disconnect."""
        with self._lock:
            self._selector.register(writer.sock, selectors.EVENT_READ, writer)
        if not self._changes_while_waiting:
            self._wake_up()

    def unregister(self, writer: Delivery) -> None:
        """Leave this body's socket alone: it may be closed or reused from now on."""
        writer.detach()
        with self._lock, contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(writer.sock)
        self._blocked.discard(writer)

    def request_flush(self, writer: Delivery) -> None:
        """Have a body's buffered data sent soon."""
        self._requested.append(writer)
        self._wake_up()

    def _wake_up(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(BlockingIOError):
                self._wakeup_sender.send(b".")

    def _run(self) -> None:
        while not self._closing:
            for key, events in self._select():
                if key.data is None:
                    self._wakeup_receiver.recv(4096)
                else:
                    self._handle(key.data, events)
            self._is_woken = False
            while self._requested:
                self._flush(self._requested.popleft())
            self._check_stalls()

    def _select(self) -> list[tuple[selectors.SelectorKey, int]]:
        try:
            return self._selector.select(STALL_POLL if self._blocked else None)
        except (OSError, ValueError):
            return []  # select() was looking at a socket that has been closed since

    def _handle(self, writer: Delivery, events: int) -> None:
        if events & selectors.EVENT_READ and not writer.check_peer():
            writer.read_interest = 0
        self._flush(writer)

    def _flush(self, writer: Delivery) -> None:
        blocked = writer.flush()
        change = self._blocked.add if blocked else self._blocked.discard
        change(writer)
        self._set_interest(writer, writer.read_interest | (selectors.EVENT_WRITE if blocked else 0))

    def _check_stalls(self) -> None:
        now = time.monotonic()
        for writer in tuple(self._blocked):
            writer.check_stall(now)
            if writer.detached:
                self._blocked.discard(writer)

    def _set_interest(self, writer: Delivery, events: int) -> None:
        """Watch the socket for these events from now on, unless it was given back."""
        with self._lock, contextlib.suppress(KeyError, ValueError):
            if writer.detached:
                return
            known = self._selector.get_map().get(writer.sock)
            if known is None and events:
                self._selector.register(writer.sock, events, writer)
            elif known is not None and not events:
                self._selector.unregister(writer.sock)
            elif known is not None and known.events != events:
                self._selector.modify(writer.sock, events, writer)

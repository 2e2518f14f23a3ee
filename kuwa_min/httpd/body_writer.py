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
from collections.abc import Callable, Iterable

from kuwa_min.errors import ClientDisconnected, describe
from kuwa_min.process.supervision import spawn

from . import http1

logger = logging.getLogger(__name__)

COALESCE_SECONDS = 0.001  # pieces closer together than this are collected into one write
HIGH_WATER = 64 << 10  # characters and bytes that may be buffered before the producer has to wait
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
#   not read leaves the buffer to grow. Above HIGH_WATER `write` blocks, and `write_nowait` returns
#   False: its caller waits in `drain`, or lets `when_drained` call it back.
# - Disconnects. The flush thread watches the socket for reading. Bytes are the client's next
#   request, which is left to the connection; the end of the stream or an error is a client that
#   left, and so is a hang-up behind such bytes. That works while the producer is silent, too. A
#   failed send() tells the same.
# - Stalls. A client that takes not one byte of what waits for it for `stall_seconds` is treated as
#   one that left; the flush thread checks that every STALL_POLL seconds.
# - Ends. `finish` is the producer's. `close_early` ends the body from another thread, with a valid
#   end, although the producer blocks. `truncate` leaves out the end, so that the client can see
#   that something is missing. After either, and after a disconnect, `disconnected` is set, nothing
#   is sent any more and the connection is not reused.
# - Locking. One lock per body guards all of its state, the socket's writing side included; it is
#   never held while waiting or while a backend's code runs.


class BodyWriter:
    """The body of one streamed response.

    The connection makes one per response. The producer calls `write`, or `write_nowait` with
    `drain` or `when_drained`, and at last `finish`. Any thread may call `close_early`, `truncate`
    or `skip_pauses`. The flush thread alone calls `flush`, `check_peer`, `hang_up` and
    `check_stall`. All methods are thread-safe. What cannot be sent any more raises
    ClientDisconnected.

    request_flush: asks the flush thread to call `flush` soon; does not block.
    peek: returns a byte of the next request without consuming it, b"" at the end of the stream, and
    raises one of would_block if there is neither; would_block: what a socket of this kind (plain or
    TLS) raises instead of blocking; chunked: frame as HTTP/1.1 chunks, for all but HTTP/1.0.
    """

    def __init__(
        self,
        sock: socket.socket,
        request_flush: Callable[[BodyWriter], None],
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
        self.begin: Callable[[], bytes] | None = None  # makes what is sent before all else
        self._texts: list[str] = []  # buffered text that is not in a frame yet
        self._frames: list[bytes] = []  # buffered frames; each becomes one chunk
        self._buffered = 0  # characters and bytes in both
        self._outgoing = b""  # framed, not taken by the socket yet
        self._last_write = self._last_progress = 0.0  # time.monotonic(), the latter if bytes went
        self._flush_requested = self._skip_pauses = False
        self._finished = self._ended = False  # `finish` was called; the last chunk is framed
        self.disconnected = False  # the client left, or the body was ended early
        self.detached = False  # the socket belongs to the connection again
        self.read_interest = selectors.EVENT_READ  # 0 once there is nothing more to find out
        self.on_disconnect: Callable[[], None] = lambda: None  # see _report_disconnect
        self._on_drained: Callable[[], None] | None = None

    # -- for the producer

    def write(self, data: str | bytes) -> None:
        """Send text or a frame; block while more than HIGH_WATER is buffered.

        Raises ClientDisconnected if the client has left.
        """
        if not self.write_nowait(data):
            self.drain()

    def write_nowait(self, data: str | bytes) -> bool:
        """Send text or a frame without blocking; return whether more may be written.

        Buffered text is encoded together; a frame (bytes) is a chunk of its own. After False, use
        `drain` or `when_drained` before the next piece: the buffer takes it all the same, but has
        no other limit. Raises ClientDisconnected if the client has left.
        """
        with self._lock:
            self._buffer(data)
            if not self._flush_requested:
                self._send_or_request_flush()
                if self.disconnected:
                    raise ClientDisconnected
            return self._buffered <= HIGH_WATER

    def drain(self) -> None:
        """Block until at most HIGH_WATER is buffered; raises ClientDisconnected."""
        with self._changed:
            while not self._is_writable():
                self._changed.wait()
            if self.disconnected:
                raise ClientDisconnected

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call back once, on any thread, when `drain` would return or raise; now, if it would now.

        There is one callback at a time. It must not block, nor call this object.
        """
        with self._changed:
            if not self._is_writable():
                self._on_drained = callback
                return
        callback()

    def pause(self, seconds: float) -> None:
        """Block until everything is sent, then for some seconds of silence.

        `skip_pauses`, a disconnect and the end of the body cut both short.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_pause_over() or not self._has_unsent())
            self._changed.wait_for(self._is_pause_over, seconds)

    def wait_for_disconnect(self) -> None:
        """Block until the client has left or another thread ended the body; then raise."""
        with self._changed:
            self._changed.wait_for(lambda: self.disconnected)
        raise ClientDisconnected

    def finish(self) -> None:
        """End the body, and block until the socket has taken all; raises ClientDisconnected."""
        with self._changed:
            self._end()
            while self._outgoing and not self.disconnected:
                self._changed.wait()
            if self.disconnected:
                raise ClientDisconnected

    # -- for any thread

    def close_early(self, final_pieces: Iterable[str | bytes] = ()) -> None:
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

    def truncate(self) -> None:
        """End the connection without the end of the body: the client can tell that it is cut."""
        with self._changed:
            self._send_buffered(time.monotonic())
            self._disconnect()

    def skip_pauses(self) -> None:
        """Cut `pause` short, now and from now on: the process ends."""
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
            if self.disconnected or self.detached:
                return False
            self._send_buffered(time.monotonic())
            lost, blocked = self.disconnected, bool(self._outgoing)
        if lost:
            self._report_disconnect()
        return blocked

    def abandon(self) -> None:
        """Give a body up that cannot be sent: its client is cut off, its producer told."""
        with self._changed:
            self._disconnect()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self._report_disconnect()

    def check_peer(self) -> bool:
        """Look whether the client has left; return whether it makes sense to look again."""
        with self._changed:
            if self.disconnected or self.detached:
                return False
            try:
                if self._peek():
                    return False  # the next request: it hides the end of the stream
            except self._would_block:
                return True
            except (OSError, ValueError):
                pass
            self._disconnect()
        self._report_disconnect()
        return False

    def hang_up(self) -> None:
        """Disconnect a client that was seen to leave; bytes of it may be unread."""
        with self._changed:
            if self.disconnected or self.detached:
                return
            self._disconnect()
        self._report_disconnect()

    def check_stall(self, now: float) -> None:
        """Disconnect a client that has taken nothing for `stall_seconds`; now: time.monotonic()."""
        with self._changed:
            stalled = self._outgoing and now - self._last_progress >= self._stall_seconds
            if self.disconnected or not stalled:
                return
            self._disconnect()
        self._report_disconnect()

    def _report_disconnect(self) -> None:
        """Call on_disconnect, once, on a thread of its own: a backend's abort() may block.

        If the system gives no more threads, it is called here. Not called where the producer's own
        send() fails: that raises ClientDisconnected.
        """
        try:
            spawn("on_disconnect", self._call_on_disconnect)
        except RuntimeError:
            self._call_on_disconnect()

    def _call_on_disconnect(self) -> None:
        try:
            self.on_disconnect()
        except Exception as error:  # noqa: BLE001 - the flush thread goes on
            logger.error("giving up an answer failed: %s", describe(error))

    # -- with the lock held

    def _buffer(self, data: str | bytes) -> None:
        if self.disconnected or self._finished:
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
        if self._finished or self.disconnected:
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
        if self.begin is not None and (self._outgoing or self._ended):
            self._outgoing, self.begin = self.begin() + self._outgoing, None

    def _frame_text(self) -> None:
        """Make one frame of the buffered text; an empty one would be the last chunk."""
        if self._texts:
            frame = self.encode("".join(self._texts))
            self._texts.clear()
            if frame:
                self._frames.append(frame)

    def _disconnect(self) -> None:
        self.disconnected = True
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
        return self._buffered <= HIGH_WATER or self.disconnected or self._finished

    def _has_unsent(self) -> bool:
        return bool(self._texts or self._frames or self._outgoing)

    def _is_pause_over(self) -> bool:
        return self.disconnected or self._finished or self._skip_pauses


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")

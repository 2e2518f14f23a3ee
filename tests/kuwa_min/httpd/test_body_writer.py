"""Streamed bodies on socket pairs: exact chunks, backpressure, disconnects, one flush thread."""

from __future__ import annotations

import contextlib
import random
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from kuwa_min.errors import ClientDisconnected
from kuwa_min.httpd import body_writer as module
from kuwa_min.httpd import flush_thread as flush_module
from kuwa_min.httpd.body_writer import HIGH_WATER, BodyWriter
from kuwa_min.httpd.flush_thread import FlushThread
from kuwa_min.process import supervision
from tests.support.programs import until

TIMEOUT = 60.0  # seconds until a test gives up
SHORT = 0.3  # seconds that a test waits for
NEVER = float("inf")
LAST = b"0\r\n\r\n"


class Body:
    """A streamed body on a socket pair, with its client's end."""

    def __init__(
        self, flush_thread: FlushThread, *, chunked: bool = True, stall_seconds: float = TIMEOUT
    ) -> None:
        near, self.client = socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        near.setblocking(False)
        self.client.settimeout(TIMEOUT)
        self.peeks = 0
        self.near, self._flush_thread = near, flush_thread
        self.writer = BodyWriter(
            near,
            flush_thread.request_flush,
            peek=self._peek,
            would_block=(BlockingIOError, InterruptedError),
            chunked=chunked,
            stall_seconds=stall_seconds,
        )
        self.left = threading.Event()
        self.writer.on_disconnect = self.left.set
        flush_thread.register(self.writer)

    def _peek(self) -> bytes:
        self.peeks += 1
        return self.near.recv(1, socket.MSG_PEEK)

    def close(self) -> None:
        """Unregister the body and close both ends."""
        self._flush_thread.unregister(self.writer)
        self.near.close()
        self.client.close()

    def write(self, *pieces: str) -> Body:
        """Write these pieces."""
        for piece in pieces:
            self.writer.write(piece)
        return self

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        data = b""
        while len(data) < size:
            more = self.client.recv(size - len(data))
            assert more, f"the body ended after {data!r}"
            data += more
        return data

    def chunks(self) -> list[bytes]:
        """Read every chunk up to the last."""
        with self.client.makefile("rb") as file:
            chunks = []
            while size := int(file.readline(), 16):
                chunks.append(file.read(size))
                assert file.readline() == b"\r\n"
            assert file.readline() == b"\r\n"
            return chunks

    def text(self) -> str:
        """Read the whole body; no chunk may split a character."""
        return "".join(chunk.decode() for chunk in self.chunks())

    def blocks(self) -> bool:
        """Tell whether the socket is full and the flush thread has been told."""
        return bool(self.writer._outgoing) and not self.writer._flush_requested

    def fill(self) -> int:
        """Write until socket and buffer are full; return the number of characters."""
        count, piece = 0, "x" * 4096
        while not (self.blocks() and self.writer._buffered > HIGH_WATER - len(piece)):
            if self.writer._buffered > HIGH_WATER - len(piece):
                until(self.blocks)
            else:
                self.writer.write(piece)
                count += len(piece)
        return count


@pytest.fixture(params=[selectors.DefaultSelector, selectors.SelectSelector])
def flush_thread(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FlushThread]:
    """Run a flush thread, once with the best selector and once with that of all systems."""
    monkeypatch.setattr(selectors, "DefaultSelector", request.param)
    with FlushThread() as running:
        yield running


@pytest.fixture
def bodies(flush_thread: FlushThread) -> Iterator[Callable[..., Body]]:
    """Make bodies that are unregistered at the end of the test."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Body:
            return stack.enter_context(contextlib.closing(Body(flush_thread, **options)))

        yield make


@pytest.fixture
def asleep() -> Iterator[FlushThread]:
    """Make a flush thread that is not started; the test may start it."""
    flush_thread = FlushThread()
    yield flush_thread
    if not flush_thread._thread.ident:
        flush_thread.__enter__()
    flush_thread.__exit__(None, None, None)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Run producers beside the test."""
    with ThreadPoolExecutor(100) as threads:
        yield threads


def took(action: Callable[[], object]) -> float:
    """Return the seconds that something took."""
    started = time.monotonic()
    action()
    return time.monotonic() - started


# -- what goes out


def test_slow_pieces_are_sent_at_once_without_another_thread(asleep: FlushThread) -> None:
    """Write and read in turn while the flush thread does not run."""
    with contextlib.closing(Body(asleep)) as body:
        for piece, wire in (("one", b"3\r\none\r\n"), ("你好", "6\r\n你好\r\n".encode())):
            body.write(piece)
            assert body.read(len(wire)) == wire
            until(lambda: time.monotonic() - body.writer._last_write > module.COALESCE_SECONDS)
        body.writer.finish()
        assert body.read(5) == LAST
        assert not asleep._requested


def test_buffered_pieces_are_sent_in_one_chunk_and_in_order(
    asleep: FlushThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Write faster than the flush thread, then let it run."""
    monkeypatch.setattr(module, "COALESCE_SECONDS", NEVER)
    with contextlib.closing(Body(asleep)) as body:
        body.write("one", "two", "three", "four")
        body.client.setblocking(False)
        with pytest.raises(BlockingIOError):
            body.client.recv(1)
        body.client.settimeout(TIMEOUT)
        asleep.__enter__()
        assert body.read(20) == b"f\r\nonetwothreefour\r\n"


def test_the_end_sends_what_is_buffered_in_the_same_write(
    asleep: FlushThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finish right after two pieces."""
    monkeypatch.setattr(module, "COALESCE_SECONDS", NEVER)
    with contextlib.closing(Body(asleep)) as body:
        body.write("one", "two").writer.finish()
        assert body.client.recv(100) == b"6\r\nonetwo\r\n" + LAST


def test_20_000_pieces_arrive_whole_and_in_order(
    bodies: Callable[..., Body], pool: ThreadPoolExecutor
) -> None:
    """Write as fast as possible while a client reads."""
    body, pieces = bodies(), [f"{number} " for number in range(20_000)]

    def work() -> None:
        body.write(*pieces).writer.finish()

    writing = pool.submit(work)
    assert body.text() == "".join(pieces)
    writing.result(TIMEOUT)


@pytest.mark.parametrize(
    ("piece", "wire"),
    [
        ("\ud800", b"1\r\n?\r\n"),
        ("a\ud83d\ude00b", b"4\r\na??b\r\n"),
        ("\x00\r\n", b"3\r\n\x00\r\n\r\n"),
        ("😀", b"4\r\n\xf0\x9f\x98\x80\r\n"),
        ("", b""),
    ],
)
def test_a_piece_becomes_these_bytes(bodies: Callable[..., Body], piece: str, wire: bytes) -> None:
    """Replace lone surrogates, and never write a chunk of nothing, which would be the last."""
    body = bodies()
    body.write(piece, "").writer.finish()
    assert body.read(len(wire) + 5) == wire + LAST


def test_no_chunk_splits_a_character(bodies: Callable[..., Body], pool: ThreadPoolExecutor) -> None:
    """Write characters of one to four bytes past a small buffer."""
    body, some = bodies(), random.Random(1)
    pieces = ["".join(some.choices("aé你😀", k=some.randrange(400))) for _ in range(3000)]
    writing = pool.submit(lambda: body.write(*pieces).writer.finish())
    chunks = body.chunks()
    assert b"".join(chunks).decode() == "".join(pieces)
    assert all(chunk.decode() for chunk in chunks)
    writing.result(TIMEOUT)


def test_an_http_1_0_body_has_no_chunks(bodies: Callable[..., Body]) -> None:
    """Write the text alone."""
    body = bodies(chunked=False)
    body.write("one", "", "two").writer.finish()
    body.near.shutdown(socket.SHUT_WR)
    assert body.read(6) == b"onetwo"
    assert body.client.recv(1) == b""


def test_a_body_ends_once(bodies: Callable[..., Body]) -> None:
    """Finish twice; nothing may follow."""
    body = bodies()
    body.write("one").writer.finish()
    body.writer.finish()
    with pytest.raises(ClientDisconnected):
        body.writer.write("two")
    body.near.shutdown(socket.SHUT_WR)
    assert body.chunks() == [b"one"]
    assert body.client.recv(1) == b""


def test_a_truncated_body_has_no_end(bodies: Callable[..., Body]) -> None:
    """Send what is buffered, but not the last chunk."""
    body = bodies()
    body.write("one").writer.truncate()
    with pytest.raises(ClientDisconnected):
        body.writer.finish()
    body.near.shutdown(socket.SHUT_WR)
    assert body.read(8) == b"3\r\none\r\n"
    assert body.client.recv(1) == b""


# -- slow clients


def test_a_slow_client_loses_nothing_and_blocks_the_producer(
    bodies: Callable[..., Body], pool: ThreadPoolExecutor
) -> None:
    """Write two megabytes; the producer blocks, and the buffer stays below its limit."""
    body, pieces, most = bodies(), [f"{number:07} " * 100 for number in range(2500)], 0

    def write() -> None:
        nonlocal most
        for piece in pieces:
            body.writer.write(piece)
            most = max(most, body.writer._buffered)
        body.writer.finish()

    writing = pool.submit(write)
    until(body.blocks)
    assert not writing.done()
    assert body.text() == "".join(pieces)
    writing.result(TIMEOUT)
    assert most <= HIGH_WATER


def test_a_client_that_takes_a_little_now_and_then_is_not_stalled(
    bodies: Callable[..., Body],
) -> None:
    """Count the stall limit from what was taken last, not from the first byte that waits."""
    body = bodies(stall_seconds=100)
    body.fill()
    before = body.writer._last_progress
    while body.writer._last_progress == before:
        body.client.recv(4096)
    body.writer.check_stall(before + 100)
    assert not body.writer.disconnected
    body.writer.check_stall(body.writer._last_progress + 100)
    assert body.left.wait(TIMEOUT)


def test_a_client_that_never_reads_is_disconnected(
    bodies: Callable[..., Body], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fill socket and buffer: the producer gets the exception at the stall limit, not before."""
    monkeypatch.setattr(flush_module, "STALL_POLL", 0.05)
    body = bodies(stall_seconds=SHORT)

    def write() -> None:
        while True:
            body.writer.write("x" * 4096)

    started = time.monotonic()
    with pytest.raises(ClientDisconnected):
        pool.submit(write).result(TIMEOUT)
    assert time.monotonic() - started >= SHORT
    assert body.left.wait(TIMEOUT)
    assert not body.writer._outgoing
    assert not body.writer._texts


def test_the_end_of_a_body_is_not_waited_for_longer_than_the_stall_limit(
    bodies: Callable[..., Body], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finish while the client does not read."""
    monkeypatch.setattr(flush_module, "STALL_POLL", 0.05)
    body = bodies()
    body.fill()
    body.writer._stall_seconds = SHORT
    with pytest.raises(ClientDisconnected):
        pool.submit(body.writer.finish).result(TIMEOUT)


# -- clients that leave


def test_a_disconnect_is_noticed_while_the_producer_is_silent(
    bodies: Callable[..., Body],
) -> None:
    """Hang up during silence: it takes a tenth of a second at most where the machine has time."""

    def notice() -> None:
        body = bodies()
        body.write("one")
        body.client.close()
        assert body.left.wait(TIMEOUT)
        assert body.writer.disconnected

    until(lambda: took(notice) < 0.1)


def test_a_client_that_closes_its_half_has_left(bodies: Callable[..., Body]) -> None:
    """Treat a half-closed connection as a disconnect."""
    body = bodies()
    body.client.shutdown(socket.SHUT_WR)
    assert body.left.wait(TIMEOUT)
    with pytest.raises(ClientDisconnected):
        body.writer.write("one")
    with pytest.raises(ClientDisconnected):
        body.writer.finish()


def test_a_disconnect_frees_a_blocked_producer(
    bodies: Callable[..., Body], pool: ThreadPoolExecutor
) -> None:
    """Hang up while a producer waits for the buffer to drain, and while one waits for the end."""
    ending, writing = bodies(), bodies()
    for body in (ending, writing):
        body.fill()
    end: Future[None] = pool.submit(ending.writer.finish)
    write = pool.submit(writing.write, *["x" * HIGH_WATER] * 2)
    until(lambda: ending.writer._finished and writing.writer._buffered > HIGH_WATER)
    for body, waiting in ((ending, end), (writing, write)):
        body.client.close()
        with pytest.raises(ClientDisconnected):
            waiting.result(TIMEOUT)


def test_the_write_that_finds_the_client_gone_raises(asleep: FlushThread) -> None:
    """Raise in this very write: a silent backend may not make another one for a long time."""
    with contextlib.closing(Body(asleep)) as body:
        body.client.close()
        with pytest.raises(ClientDisconnected):
            body.writer.write("one")


def test_the_write_whose_wait_ends_in_a_disconnect_raises(
    bodies: Callable[..., Body], pool: ThreadPoolExecutor
) -> None:
    """Raise in the write that waited for the buffer to drain."""
    body = bodies()
    body.fill()
    writing: Future[None] = pool.submit(body.writer.write, "x" * HIGH_WATER)
    until(lambda: body.writer._buffered > HIGH_WATER)
    body.client.close()
    with pytest.raises(ClientDisconnected):
        writing.result(TIMEOUT)


def test_a_failing_callback_does_not_stop_the_flush_thread(bodies: Callable[..., Body]) -> None:
    """Raise in on_disconnect; other bodies go on."""

    def fail() -> None:
        raise RuntimeError("can't start new thread")

    first, second = bodies(), bodies()
    first.writer.on_disconnect = fail
    first.client.close()
    until(lambda: first.writer.disconnected)
    second.client.close()
    assert second.left.wait(TIMEOUT)


@pytest.mark.parametrize("step", ["encode", "_peek"])
def test_an_unexpected_error_costs_its_own_body_only(
    bodies: Callable[..., Body], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run out of memory for one body: its client is cut off, its producer told; others go on."""

    def fail(*_: object) -> bytes:
        raise MemoryError

    first, second = bodies(), bodies()
    first.writer._last_write = NEVER  # so that the flush thread sends
    monkeypatch.setattr(first.writer, step, fail)
    first.write("x") if step == "encode" else first.client.send(b"next")
    assert first.left.wait(TIMEOUT)
    with pytest.raises(ClientDisconnected):
        first.writer.finish()
    while first.client.recv(64):
        pass
    second.write("y").writer.finish()
    assert second.text() == "y"


def test_an_error_of_the_flush_thread_itself_loses_no_request(
    bodies: Callable[..., Body], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins anew, with the bodies that it has."""
    broken, failed = threading.Event(), threading.Event()
    select = FlushThread._select

    def fail(one: FlushThread) -> object:
        if broken.is_set():
            failed.set()
            raise MemoryError
        return select(one)

    monkeypatch.setattr(supervision, "FIRST_DELAY", 0.001)
    body = bodies()
    monkeypatch.setattr(FlushThread, "_select", fail)
    broken.set()
    body.client.send(b"next")
    assert failed.wait(TIMEOUT)
    body.writer._last_write = NEVER
    body.write("x")
    broken.clear()
    body.writer.finish()
    assert body.text() == "x"


def test_a_callback_that_blocks_does_not_stop_the_flush_thread(bodies: Callable[..., Body]) -> None:
    """Wait in on_disconnect; other bodies go on."""
    first, second, hang = bodies(), bodies(), threading.Lock()
    first.writer.on_disconnect = lambda: hang.acquire() and None
    with hang:
        first.client.close()
        until(lambda: first.writer.disconnected)
        second.client.close()
        assert second.left.wait(TIMEOUT)


def test_without_another_thread_the_flush_thread_calls_back(
    bodies: Callable[..., Body], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let no thread start."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    body = bodies()
    monkeypatch.setattr(threading.Thread, "start", start)
    body.client.close()
    assert body.left.wait(TIMEOUT)


# -- ends from other threads


def test_close_early_ends_a_body_whose_producer_is_silent(bodies: Callable[..., Body]) -> None:
    """End it from another thread: the client gets a whole body and the end of the connection."""
    body = bodies()
    body.write("one").writer.close_early()
    assert body.chunks() == [b"one"]
    assert body.client.recv(1) == b""
    with pytest.raises(ClientDisconnected):
        body.writer.write("two")
    with pytest.raises(ClientDisconnected):
        body.writer.finish()


def test_close_early_frees_a_blocked_producer(
    bodies: Callable[..., Body], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End a body from another thread while its producer blocks; a fast client gets the rest."""
    monkeypatch.setattr(module, "CLOSE_GRACE", TIMEOUT)
    body = bodies()
    count = body.fill()
    writing = pool.submit(body.write, "y" * HIGH_WATER, "never taken")
    until(lambda: body.writer._buffered > HIGH_WATER)
    ending: Future[None] = pool.submit(body.writer.close_early)
    with pytest.raises(ClientDisconnected):
        writing.result(TIMEOUT)
    assert body.text() == "x" * count + "y" * HIGH_WATER
    ending.result(TIMEOUT)


def test_close_early_does_not_wait_for_a_stalled_client(
    bodies: Callable[..., Body],
) -> None:
    """Return soon: the request that aborts waits for this, and the Kernel at most 10 s for it."""
    body = bodies()
    body.fill()
    assert took(body.writer.close_early) < TIMEOUT / 2


# -- the next request during a body


def test_a_next_request_is_left_alone(bodies: Callable[..., Body]) -> None:
    """Read not a byte of what the client sends early."""
    body = bodies()
    body.client.sendall(b"GET /next")
    until(lambda: not body.writer.read_interest)
    body.write("one").writer.finish()
    assert body.chunks() == [b"one"]
    assert body.near.recv(100) == b"GET /next"
    assert not body.writer.disconnected


def test_a_slow_client_that_sent_its_next_request_still_loses_nothing(
    bodies: Callable[..., Body], pool: ThreadPoolExecutor
) -> None:
    """Wait for the socket to be writable although it is not watched for reading any more."""
    body, pieces = bodies(), [f"{number:07} " * 100 for number in range(500)]
    body.client.sendall(b"GET /next")
    until(lambda: not body.writer.read_interest)
    writing = pool.submit(lambda: body.write(*pieces).writer.finish())
    until(body.blocks)
    body.client.settimeout(TIMEOUT)
    assert body.text() == "".join(pieces)
    writing.result(TIMEOUT)


@pytest.mark.skipif(not hasattr(select, "EPOLLRDHUP"), reason="needs Linux")
@pytest.mark.parametrize("leave", [socket.SHUT_WR, socket.SHUT_RDWR, None])
def test_a_client_that_leaves_unread_bytes_behind_is_noticed(
    bodies: Callable[..., Body], leave: int | None
) -> None:
    """Hang up behind a byte of the next request, before and after it was seen."""
    for seen in (True, False):
        body = bodies()
        body.client.sendall(b"G")
        if seen:
            until(lambda body=body: not body.writer.read_interest)  # type: ignore[misc]
        if leave is None:
            body.client.close()
        else:
            body.client.shutdown(leave)
        assert body.left.wait(TIMEOUT)
        assert body.writer.disconnected
        assert body.near.recv(9, socket.MSG_PEEK) == b"G"


def test_a_body_that_was_unregistered_is_never_looked_at_again(
    flush_thread: FlushThread, bodies: Callable[..., Body]
) -> None:
    """Leave the socket to its connection, even if an event is on its way."""
    body = bodies()
    body.writer.finish()
    flush_thread.unregister(body.writer)
    body.near.settimeout(TIMEOUT)
    peeks = body.peeks
    assert took(lambda: flush_thread._handle(body.writer, selectors.EVENT_READ)) < TIMEOUT / 2
    assert body.peeks == peeks
    assert not body.writer.disconnected


# -- many bodies, one flush thread


def test_many_bodies_share_a_flush_thread(
    bodies: Callable[..., Body], pool: ThreadPoolExecutor
) -> None:
    """Stream to 40 clients, of which every fourth never reads: the others get all of theirs."""
    streams = [bodies() for _ in range(40)]
    texts = [f"{number:03} " * 20_000 for number in range(40)]

    def write(body: Body, text: str) -> None:
        for at in range(0, len(text), 1000):
            body.writer.write(text[at : at + 1000])
        body.writer.finish()

    writers = [pool.submit(write, *pair) for pair in zip(streams, texts, strict=True)]
    reads = {n: pool.submit(body.text) for n, body in enumerate(streams) if n % 4}
    for number, reading in reads.items():
        assert reading.result(TIMEOUT) == texts[number]
        writers[number].result(TIMEOUT)
    for number in range(0, 40, 4):
        assert not writers[number].done()
        streams[number].client.close()
        with pytest.raises(ClientDisconnected):
            writers[number].result(TIMEOUT)


def test_nothing_is_left_of_bodies_that_ended(
    flush_thread: FlushThread, pool: ThreadPoolExecutor
) -> None:
    """Unregister 200 bodies that ended in every way."""

    def live(number: int) -> None:
        with (
            contextlib.closing(Body(flush_thread)) as body,
            contextlib.suppress(ClientDisconnected),
        ):
            if number % 4 == 0:
                body.client.close()
            if number % 4 == 1:
                body.fill()
                body.client.close()
            if number % 4 == 2:
                body.client.sendall(b"next")
            body.write("one", "two", "three")
            body.writer.finish()

    for future in [pool.submit(live, number) for number in range(200)]:
        future.result(TIMEOUT)
    until(lambda: not flush_thread._requested)
    until(lambda: not flush_thread._blocked)
    assert not flush_thread._early
    assert len(flush_thread._selector.get_map()) <= 2  # its own wakeup pipe and epoll object


def test_a_flush_thread_ends_with_its_block() -> None:
    """Leave no thread and no descriptor."""
    with FlushThread() as flush_thread:
        thread = flush_thread._thread
        assert thread.is_alive()
    assert not thread.is_alive()
    assert flush_thread._wakeup_sender.fileno() == flush_thread._wakeup_receiver.fileno() == -1


# -- producers that must not block


def test_write_nowait_never_blocks_and_tells_whether_more_may_be_written(
    bodies: Callable[..., Body],
) -> None:
    """Write until the buffer is full, then read."""
    body, piece = bodies(), "x" * 4096
    filled = body.fill()
    while body.writer.write_nowait(piece):
        pass
    called = threading.Event()
    body.writer.when_drained(called.set)
    assert not called.is_set()
    assert not body.writer.write_nowait(piece)
    reading = threading.Thread(target=body.read, args=(filled,))
    reading.start()
    assert called.wait(TIMEOUT)
    reading.join()
    body.writer.drain()
    now = threading.Event()
    body.writer.when_drained(now.set)
    assert now.is_set()


def test_a_producer_is_called_back_when_the_client_leaves(
    bodies: Callable[..., Body],
) -> None:
    """Fill, hang up."""
    body = bodies()
    body.fill()
    while body.writer.write_nowait("x" * 4096):
        pass
    called = threading.Event()
    body.writer.when_drained(called.set)
    body.client.close()
    assert called.wait(TIMEOUT)
    assert body.left.wait(TIMEOUT)
    with pytest.raises(ClientDisconnected):
        body.writer.write_nowait("x")
    with pytest.raises(ClientDisconnected):
        body.writer.drain()


def test_a_producer_is_called_back_when_the_body_is_closed_early(
    bodies: Callable[..., Body],
) -> None:
    """Fill the buffer, then end the body."""
    body = bodies()
    body.fill()
    while body.writer.write_nowait("x" * 4096):
        pass
    called = threading.Event()
    body.writer.when_drained(called.set)
    body.writer.close_early()
    assert called.is_set()


# -- pauses between the last pieces


@pytest.mark.parametrize("piece", ["", "text"])
def test_a_pause_begins_once_all_is_sent_even_if_that_was_nothing(
    asleep: FlushThread, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, piece: str
) -> None:
    """A last piece waits for the flush thread, and so does the pause; then the thread runs."""
    monkeypatch.setattr(module, "COALESCE_SECONDS", NEVER)
    with contextlib.closing(Body(asleep)) as body:
        body.writer.write_nowait(piece)
        waiting, begun = body.writer._changed.wait, threading.Event()

        def wait(seconds: float | None = None) -> bool:
            begun.set()  # the lock is held until the wait has begun
            return waiting(seconds)

        monkeypatch.setattr(body.writer._changed, "wait", wait)
        resting = pool.submit(body.writer.pause, 0.01)
        try:
            assert begun.wait(TIMEOUT)
            asleep.__enter__()
            resting.result(TIMEOUT)
        finally:
            body.writer.skip_pauses()

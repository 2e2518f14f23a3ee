"""Check that a backend's generator is driven, cancelled and closed as promised."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable

import pytest

from kuwa_min.stream import Pause, Stream, on_stop

LONG = 20.0


def run(
    stream: Stream, make: Callable[[], AsyncGenerator[str, None]]
) -> tuple[list[str], list[BaseException]]:
    """Run a generator through a stream; return its pieces and what it raised."""
    pieces: list[str] = []
    raised: list[BaseException] = []
    try:
        stream.run(make(), pieces.append)
    except BaseException as error:  # noqa: BLE001 - that is what is looked at
        raised.append(error)
    return pieces, raised


def in_background(
    stream: Stream, generator: AsyncGenerator[str, None], write: Callable[[str], None]
) -> threading.Thread:
    """Run a stream on a thread of its own."""
    thread = threading.Thread(target=stream.run, args=(generator, write))
    thread.start()
    return thread


def test_pieces_arrive_in_order_and_the_stream_has_ended() -> None:
    """Yield with and without awaiting."""

    async def count() -> AsyncGenerator[str, None]:
        for number in range(100):
            yield str(number)
            if number % 10 == 0:
                await asyncio.sleep(0)

    stream = Stream()
    pieces, raised = run(stream, count)
    assert pieces == [str(number) for number in range(100)]
    assert not raised
    assert stream.ended.is_set()


def test_what_the_generator_raises_is_raised_after_its_pieces() -> None:
    """Fail in the middle."""

    async def fail() -> AsyncGenerator[str, None]:
        yield "before"
        raise LookupError("the middle")

    pieces, raised = run(Stream(), fail)
    assert pieces == ["before"]
    assert [type(error) for error in raised] == [LookupError]


def test_what_the_writer_raises_closes_the_generator() -> None:
    """Leave as a reader would."""
    closed = threading.Event()

    async def endless() -> AsyncGenerator[str, None]:
        try:
            while True:
                yield "x"
        finally:
            closed.set()

    def leave(_: str) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        Stream().run(endless(), leave)
    assert closed.is_set()


def test_cancelling_interrupts_a_silent_generator_and_runs_its_cleanup() -> None:
    """Cancel while it awaits something that never comes."""
    waiting, closed = threading.Event(), threading.Event()

    async def silent() -> AsyncGenerator[str, None]:
        try:
            yield "first"
            waiting.set()
            await asyncio.sleep(LONG)
        finally:
            closed.set()

    stream = Stream()
    thread = in_background(stream, silent(), lambda _: None)
    assert waiting.wait(LONG)
    stream.cancel()
    assert stream.ended.wait(1)
    assert closed.is_set()
    thread.join()


def test_cancelling_stops_a_generator_that_never_awaits() -> None:
    """Cancel between two pieces."""
    started = threading.Event()

    async def flat_out() -> AsyncGenerator[str, None]:
        while True:
            yield "x"

    stream = Stream()
    thread = in_background(stream, flat_out(), lambda _: started.set())
    assert started.wait(LONG)
    stream.cancel()
    assert stream.ended.wait(1)
    thread.join()


def test_a_stream_cancelled_before_it_starts_yields_nothing() -> None:
    """Cancel first."""

    async def one() -> AsyncGenerator[str, None]:
        yield "never"

    stream = Stream()
    stream.cancel()
    assert run(stream, one) == ([], [])
    assert stream.ended.is_set()


def test_a_stream_waits_for_the_one_it_follows() -> None:
    """Leave a blocking generation behind and start the next."""
    began, release, order = threading.Event(), threading.Event(), list[str]()

    async def blocking() -> AsyncGenerator[str, None]:
        began.set()
        release.wait(LONG)
        order.append("first ended")
        yield "too late"

    async def quick() -> AsyncGenerator[str, None]:
        yield "second began"

    first = Stream()
    before = in_background(first, blocking(), order.append)
    assert began.wait(LONG)
    first.cancel()
    second = Stream(after=[first.ended])
    behind = in_background(second, quick(), order.append)
    assert not second.ended.wait(0.1)
    release.set()
    before.join()
    behind.join()
    assert order == ["first ended", "second began"]


def test_a_waiting_stream_can_be_cancelled() -> None:
    """Cancel before the predecessor ends."""

    async def one() -> AsyncGenerator[str, None]:
        yield "never"

    pieces: list[str] = []
    stream = Stream(after=[threading.Event()])
    thread = in_background(stream, one(), pieces.append)
    stream.cancel()
    thread.join(LONG)
    assert not thread.is_alive()
    assert pieces == []


def test_tasks_that_a_generator_leaves_behind_are_ended() -> None:
    """Leave a task running on the loop."""
    ended = threading.Event()

    async def forgotten() -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            ended.set()

    async def careless() -> AsyncGenerator[str, None]:
        task = asyncio.get_running_loop().create_task(forgotten())
        await asyncio.sleep(0)
        yield "done" if not task.done() else "?"

    assert run(Stream(), careless) == (["done"], [])
    assert ended.is_set()


# -- on_stop


@pytest.mark.parametrize("on_loop", [True, False])
def test_a_generator_that_blocks_ends_when_its_stop_call_unblocks_it(on_loop: bool) -> None:
    """Block without awaiting until the call comes, from the thread that cancels."""
    blocking, unblock = threading.Event(), threading.Event()
    callers: list[threading.Thread] = []

    def stop() -> None:
        callers.append(threading.current_thread())
        unblock.set()

    async def deaf() -> AsyncGenerator[str, None]:
        on_stop(stop)
        blocking.set()
        unblock.wait(LONG)
        yield "never"

    pieces: list[str] = []
    stream = Stream()
    thread = threading.Thread(target=lambda: stream.run(deaf(), pieces.append, on_loop=on_loop))
    thread.start()
    assert blocking.wait(LONG)
    stream.cancel()
    assert stream.ended.wait(1)
    thread.join()
    stream.cancel()
    assert callers == [threading.current_thread()]
    assert pieces == []


def test_a_stop_call_of_a_stopped_generator_is_made_at_once() -> None:
    """Register while the generator is being closed."""
    order: list[str] = []
    stream = Stream()

    async def late() -> AsyncGenerator[str, None]:
        try:
            yield "first"
        finally:
            on_stop(lambda: order.append("call"))
            order.append("closed")

    stream.run(late(), lambda _: stream.cancel())
    assert order == ["call", "closed"]


def test_an_end_of_its_own_makes_no_stop_call_even_if_somebody_cancels_later() -> None:
    """End well, and fail; then cancel both."""
    calls: list[str] = []

    async def well() -> AsyncGenerator[str, None]:
        on_stop(lambda: calls.append("well"))
        yield "done"

    async def fail() -> AsyncGenerator[str, None]:
        on_stop(lambda: calls.append("fail"))
        yield "half"
        raise LookupError

    for make in (well, fail):
        stream = Stream()
        run(stream, make)
        stream.cancel()
    assert calls == []


def test_a_writer_that_takes_no_more_stops_the_generator_before_it_is_closed() -> None:
    """Leave as a reader would."""
    order: list[str] = []

    async def endless() -> AsyncGenerator[str, None]:
        on_stop(lambda: order.append("call"))
        try:
            while True:
                yield "x"
        finally:
            order.append("closed")

    def leave(_: str) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        Stream().run(endless(), leave)
    assert order == ["call", "closed"]


def test_what_a_stop_call_raises_is_logged_without_its_words_and_hurts_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Register one call that fails and one that does not."""
    calls: list[str] = []
    stream = Stream()

    def broken() -> None:
        raise ValueError("a private matter")

    async def two() -> AsyncGenerator[str, None]:
        on_stop(broken)
        on_stop(lambda: calls.append("second"))
        yield "first"
        await Pause(LONG)

    stream.run(two(), lambda _: stream.cancel(), on_loop=False)
    assert calls == ["second"]
    assert "ValueError at test_stream.py" in caplog.text
    assert "private" not in caplog.text


def test_each_stream_makes_its_own_stop_calls_only() -> None:
    """Cancel one of two."""
    ready, unblock = threading.Semaphore(0), [threading.Event(), threading.Event()]

    async def deaf(number: int) -> AsyncGenerator[str, None]:
        on_stop(unblock[number].set)
        ready.release()
        unblock[number].wait(LONG)
        yield "x"

    streams = [Stream(), Stream()]
    threads = [in_background(one, deaf(n), lambda _: None) for n, one in enumerate(streams)]
    assert all(ready.acquire(timeout=LONG) for _ in streams)
    streams[1].cancel()
    assert streams[1].ended.wait(1)
    assert not unblock[0].is_set()
    assert not streams[0].ended.is_set()
    streams[0].cancel()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def test_a_thread_whose_stream_was_stopped_and_ended_makes_no_more_calls() -> None:
    """Register where a stream ran before."""
    calls: list[str] = []

    async def one() -> AsyncGenerator[str, None]:
        yield "x"

    stream = Stream()
    stream.run(one(), lambda _: stream.cancel())
    on_stop(lambda: calls.append("outside"))
    assert calls == []

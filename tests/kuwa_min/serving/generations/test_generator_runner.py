"""Check that a backend's generator is driven, cancelled and closed as promised."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable

import pytest

from kuwa_min.serving.event_loop import EventLoop
from kuwa_min.serving.generations.generator_runner import GeneratorRunner, Pause, on_stop

LONG = 60.0
LOOP = EventLoop()  # shared, as by all chats of a process


def run(
    runner: GeneratorRunner, make: Callable[[], AsyncGenerator[str, None]]
) -> tuple[list[str], list[BaseException]]:
    """Run a generator through a runner; return its pieces and what it raised."""
    pieces: list[str] = []
    raised: list[BaseException] = []
    try:
        runner.run(make(), pieces.append, loop=LOOP)
    except BaseException as error:  # noqa: BLE001 - that is what is looked at
        raised.append(error)
    return pieces, raised


def in_background(
    runner: GeneratorRunner,
    generator: AsyncGenerator[str, None],
    write: Callable[[str], None],
    *,
    loop: EventLoop | None = LOOP,
) -> threading.Thread:
    """Run a runner beside the test."""
    thread = threading.Thread(target=lambda: runner.run(generator, write, loop=loop))
    thread.start()
    return thread


def test_pieces_arrive_in_order_and_the_stream_has_ended() -> None:
    """Yield with and without awaiting."""

    async def count() -> AsyncGenerator[str, None]:
        for number in range(100):
            yield str(number)
            if number % 10 == 0:
                await asyncio.sleep(0)

    runner = GeneratorRunner()
    pieces, raised = run(runner, count)
    assert pieces == [str(number) for number in range(100)]
    assert not raised
    assert runner.ended.is_set()


def test_what_the_generator_raises_is_raised_after_its_pieces() -> None:
    """Fail in the middle."""

    async def fail() -> AsyncGenerator[str, None]:
        yield "before"
        raise LookupError("the middle")

    pieces, raised = run(GeneratorRunner(), fail)
    assert pieces == ["before"]
    assert [type(error) for error in raised] == [LookupError]


@pytest.mark.parametrize("loop", [LOOP, None])
def test_a_piece_that_a_closed_generator_yields_in_its_finally_is_dropped(
    loop: EventLoop | None,
) -> None:
    """As executors do that end with an exit code; what stands behind it runs, too."""
    cleaned = threading.Event()

    async def end_with_a_code() -> AsyncGenerator[str, None]:
        try:
            yield "text"
        finally:
            yield "exit code"
            cleaned.set()

    def write(piece: str) -> None:
        raise BrokenPipeError(piece)

    with pytest.raises(BrokenPipeError, match="text"):
        GeneratorRunner().run(end_with_a_code(), write, loop=loop)
    assert cleaned.is_set()


def test_what_the_writer_raises_closes_the_generator() -> None:
    """Raise as for a client that left."""
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
        GeneratorRunner().run(endless(), leave, loop=LOOP)
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

    runner = GeneratorRunner()
    thread = in_background(runner, silent(), lambda _: None)
    assert waiting.wait(LONG)
    runner.cancel()
    assert runner.ended.wait(LONG / 2)
    assert closed.is_set()
    thread.join()


def test_cancelling_stops_a_generator_that_never_awaits() -> None:
    """Cancel between two pieces."""
    started = threading.Event()

    async def flat_out() -> AsyncGenerator[str, None]:
        while True:
            yield "x"

    runner = GeneratorRunner()
    thread = in_background(runner, flat_out(), lambda _: started.set())
    assert started.wait(LONG)
    runner.cancel()
    assert runner.ended.wait(LONG / 2)
    thread.join()


def test_a_stream_cancelled_before_it_starts_yields_nothing() -> None:
    """Cancel first."""

    async def one() -> AsyncGenerator[str, None]:
        yield "never"

    runner = GeneratorRunner()
    runner.cancel()
    assert run(runner, one) == ([], [])
    assert runner.ended.is_set()


def test_all_chats_share_one_loop_and_its_tasks_live_on() -> None:
    """Begin a task in the first chat, look at it from the second, end it in the third."""
    release = list[asyncio.Event]()
    background = list[asyncio.Task[str]]()

    async def begin() -> AsyncGenerator[str, None]:
        release.append(asyncio.Event())

        async def wait() -> str:
            await release[0].wait()
            return "ended"

        background.append(asyncio.get_running_loop().create_task(wait()))
        yield "begun"

    async def look() -> AsyncGenerator[str, None]:
        yield "done" if background[0].done() else "running"

    async def end() -> AsyncGenerator[str, None]:
        release[0].set()
        yield await background[0]

    answers = [run(GeneratorRunner(), make) for make in (begin, look, end)]
    assert answers == [(["begun"], []), (["running"], []), (["ended"], [])]


def test_chats_on_the_loop_take_turns_even_if_they_await_nothing() -> None:
    """Run two flat out at once; each must see pieces of the other between its own."""
    both = threading.Barrier(2)
    order: list[str] = []

    async def flat_out(name: str) -> AsyncGenerator[str, None]:
        while len(set(order)) < 2 or order[0] == order[-1]:
            yield name

    def chat(name: str) -> None:
        both.wait(LONG)
        GeneratorRunner().run(flat_out(name), order.append, loop=LOOP)

    threads = [threading.Thread(target=chat, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert set(order) == {"a", "b"}


class Full:
    """A full buffer that is drained when the test says so."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.calls: list[Callable[[], None]] = []

    def drain(self) -> None:
        """Be drained at once."""
        self.asked.release()

    def when_drained(self, call: Callable[[], None]) -> None:
        """Keep the call."""
        self.calls.append(call)
        self.asked.release()


async def three() -> AsyncGenerator[str, None]:
    """Yield three pieces."""
    for piece in "abc":
        yield piece


@pytest.mark.parametrize("loop", [LOOP, None])
def test_a_full_buffer_suspends_its_own_generator_only(loop: EventLoop | None) -> None:
    """Refuse every piece but take it; meanwhile another chat runs to its end."""
    buffer, pieces = Full(), list[str]()

    def write(piece: str) -> bool:
        pieces.append(piece)
        return False

    runner = GeneratorRunner()
    thread = threading.Thread(
        target=lambda: runner.run(three(), write, loop=loop, backpressure=buffer)
    )
    thread.start()
    for count in (1, 2, 3):
        assert buffer.asked.acquire(timeout=LONG)
        if loop is not None:
            assert len(pieces) == count
            assert run(GeneratorRunner(), three)[0] == list("abc")
            buffer.calls.pop()()
    thread.join(LONG)
    assert pieces == list("abc")


def test_cancelling_ends_the_wait_for_a_full_buffer() -> None:
    """Cancel a chat whose client does not read."""
    buffer, runner = Full(), GeneratorRunner()
    thread = threading.Thread(
        target=lambda: runner.run(three(), lambda _: False, loop=LOOP, backpressure=buffer)
    )
    thread.start()
    assert buffer.asked.acquire(timeout=LONG)
    runner.cancel()
    assert runner.ended.wait(LONG)
    thread.join(LONG)
    buffer.calls.pop()()  # too late, and harmless


def test_a_cleanup_that_awaits_is_not_interrupted_by_the_cancel_that_caused_it() -> None:
    """Cancel between two pieces; the generator's finally takes several turns of the loop."""
    cleaned = threading.Event()

    async def careful() -> AsyncGenerator[str, None]:
        try:
            while True:
                yield "x"
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            cleaned.set()

    runner = GeneratorRunner()
    runner.run(careful(), lambda _: runner.cancel(), loop=LOOP)
    assert cleaned.is_set()


def test_a_cancellation_of_the_backends_own_doing_is_a_failure() -> None:
    """Await a task that was cancelled."""

    async def awaiting() -> AsyncGenerator[str, None]:
        task = asyncio.get_running_loop().create_task(asyncio.sleep(LONG))
        task.cancel()
        await task
        yield "never"

    assert [type(error) for error in run(GeneratorRunner(), awaiting)[1]] == [
        asyncio.CancelledError
    ]


def test_a_generator_that_exits_leaves_the_loop_running(caplog: pytest.LogCaptureFixture) -> None:
    """Call sys.exit() in a chat, and in a task of one; the error is raised where it is awaited."""

    async def leave() -> None:
        raise SystemExit(2)

    async def exits() -> AsyncGenerator[str, None]:
        raise SystemExit(1)
        yield "never"

    async def task_exits() -> AsyncGenerator[str, None]:
        task = asyncio.get_running_loop().create_task(leave())
        await asyncio.wait([task])
        yield type(task.exception()).__name__

    assert [type(error) for error in run(GeneratorRunner(), exits)[1]] == [SystemExit]
    assert run(GeneratorRunner(), task_exits) == (["SystemExit"], [])
    assert run(GeneratorRunner(), three) == (list("abc"), [])
    assert [one for one in caplog.records if one.levelno > logging.DEBUG] == []


# -- on_stop


@pytest.mark.parametrize("loop", [LOOP, None])
def test_a_generator_that_blocks_ends_when_its_stop_call_unblocks_it(
    loop: EventLoop | None,
) -> None:
    """Block without awaiting until the call comes, from the thread that cancels."""
    blocking, unblock = threading.Event(), threading.Event()
    callers: list[threading.Thread] = []

    def stop() -> None:
        callers.append(threading.current_thread())
        unblock.set()

    async def blocking_one() -> AsyncGenerator[str, None]:
        on_stop(stop)
        blocking.set()
        unblock.wait(LONG)
        yield "never"

    pieces: list[str] = []
    runner = GeneratorRunner()
    thread = threading.Thread(target=lambda: runner.run(blocking_one(), pieces.append, loop=loop))
    thread.start()
    assert blocking.wait(LONG)
    runner.cancel()
    assert runner.ended.wait(LONG / 2)
    thread.join()
    runner.cancel()
    assert callers == [threading.current_thread()]
    assert pieces == []


def test_a_stop_call_of_a_stopped_generator_is_made_at_once() -> None:
    """Register while the generator is being closed."""
    order: list[str] = []
    runner = GeneratorRunner()

    async def late() -> AsyncGenerator[str, None]:
        try:
            yield "first"
        finally:
            on_stop(lambda: order.append("call"))
            order.append("closed")

    runner.run(late(), lambda _: runner.cancel(), loop=LOOP)
    assert order == ["call", "closed"]


def test_a_generator_that_ends_by_itself_makes_no_stop_call_even_if_cancelled_later() -> None:
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
        runner = GeneratorRunner()
        run(runner, make)
        runner.cancel()
    assert calls == []


def test_a_writer_that_takes_no_more_stops_the_generator_before_it_is_closed() -> None:
    """Raise as for a client that left."""
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
        GeneratorRunner().run(endless(), leave, loop=LOOP)
    assert order == ["call", "closed"]


def test_what_a_stop_call_raises_is_logged_without_its_message_and_stops_no_other_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Register one call that fails and one that does not."""
    calls: list[str] = []
    runner = GeneratorRunner()

    def broken() -> None:
        raise ValueError("a private matter")

    async def two() -> AsyncGenerator[str, None]:
        on_stop(broken)
        on_stop(lambda: calls.append("second"))
        yield "first"
        await Pause(LONG)

    runner.run(two(), lambda _: runner.cancel())
    assert calls == ["second"]
    assert "ValueError at test_generator_runner.py" in caplog.text
    assert "private" not in caplog.text


def test_each_stream_makes_its_own_stop_calls_only() -> None:
    """Cancel one of two."""
    ready, unblock = threading.Semaphore(0), [threading.Event(), threading.Event()]

    async def blocking_one(number: int) -> AsyncGenerator[str, None]:
        on_stop(unblock[number].set)
        ready.release()
        unblock[number].wait(LONG)
        yield "x"

    runners = [GeneratorRunner(), GeneratorRunner()]
    threads = [
        in_background(one, blocking_one(n), lambda _: None, loop=None)
        for n, one in enumerate(runners)
    ]
    assert all(ready.acquire(timeout=LONG) for _ in runners)
    runners[1].cancel()
    assert runners[1].ended.wait(LONG / 2)
    assert not unblock[0].is_set()
    assert not runners[0].ended.is_set()
    runners[0].cancel()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def test_a_thread_whose_stream_was_stopped_and_ended_makes_no_more_calls() -> None:
    """Register where a runner ran before."""
    calls: list[str] = []

    async def one() -> AsyncGenerator[str, None]:
        yield "x"

    runner = GeneratorRunner()
    runner.run(one(), lambda _: runner.cancel(), loop=LOOP)
    on_stop(lambda: calls.append("outside"))
    assert calls == []


def test_a_task_of_a_chat_may_register_stop_calls_until_the_chat_has_ended() -> None:
    """Register in a task that the chat began, once while it runs and once after its end."""
    calls, ended, done = list[str](), list[asyncio.Event](), threading.Event()

    async def child() -> None:
        on_stop(lambda: calls.append("during"))
        await ended[0].wait()
        on_stop(lambda: calls.append("after"))
        done.set()

    async def parent() -> AsyncGenerator[str, None]:
        ended.append(asyncio.Event())
        background.add(asyncio.get_running_loop().create_task(child()))
        await asyncio.sleep(0)
        yield "x"

    async def end() -> AsyncGenerator[str, None]:
        ended[0].set()
        yield "y"

    background = set[object]()
    runner = GeneratorRunner()
    runner.run(parent(), lambda _: runner.cancel(), loop=LOOP)
    assert calls == ["during"]
    GeneratorRunner().run(end(), lambda _: None, loop=LOOP)
    assert done.wait(LONG)
    assert calls == ["during"]

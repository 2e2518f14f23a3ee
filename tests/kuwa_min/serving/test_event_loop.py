"""Check the event loop of the process: one thread, started late, closed cleanly."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from kuwa_min.serving import event_loop
from kuwa_min.serving.event_loop import EventLoop
from tests.support.programs import until

LONG = 60.0


def test_it_starts_once_and_is_closed_with_all_that_runs_on_it() -> None:
    """Leave a task and an async generator on it."""
    loop, cancelled, closed = EventLoop(), threading.Event(), threading.Event()
    waiting = threading.Semaphore(0)
    kept: list[object] = []

    async def wait() -> None:
        try:
            waiting.release()
            await asyncio.sleep(LONG)
        finally:
            cancelled.set()

    async def numbers():  # type: ignore[no-untyped-def]
        try:
            yield 1
        finally:
            closed.set()

    async def leave() -> None:
        kept.append(generator := numbers())
        await anext(generator)
        waiting.release()

    assert loop.start() is loop.start()
    for create in (wait, leave):
        assert loop.call(create, LONG) is not None
        assert waiting.acquire(timeout=LONG)
    former = loop.start()
    loop.close()
    assert cancelled.is_set()
    assert closed.is_set()
    assert former.is_closed()
    loop.close()  # again is no error


def test_after_closing_it_starts_anew() -> None:
    """Use it, close it, use it."""
    loop = EventLoop()
    for _ in range(2):
        ended = loop.call(lambda: asyncio.sleep(0), LONG)
        assert ended is not None
        assert ended.wait(LONG)
        loop.close()


def test_a_call_on_a_loop_that_blocks_is_given_up_and_never_run() -> None:
    """Block it, call, free it."""
    loop, blocked, release, ran = EventLoop(), *(threading.Event() for _ in range(3))

    async def block() -> None:
        blocked.set()
        release.wait(LONG)

    async def late() -> None:
        ran.set()

    first = loop.call(block, LONG)
    assert blocked.wait(LONG)
    assert loop.call(late, 0.01) is None
    release.set()
    assert first is not None
    assert first.wait(LONG)
    last = loop.call(lambda: asyncio.sleep(0), LONG)
    assert last is not None
    assert last.wait(LONG)
    assert not ran.is_set()
    loop.close()


def test_a_call_whose_first_step_comes_after_one_that_blocks_is_given_up_and_never_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Let the loop block when it has made the call's task and not yet begun it."""
    loop, queued, release, ran = EventLoop(), *(threading.Event() for _ in range(3))
    running = loop.start()
    add = running.call_soon_threadsafe
    add(queued.wait, LONG)

    def add_before_one_that_blocks(*call: Any) -> None:
        add(*call)
        add(release.wait, LONG)
        queued.set()

    async def late() -> None:
        ran.set()

    with monkeypatch.context() as patch:
        patch.setattr(running, "call_soon_threadsafe", add_before_one_that_blocks)
        assert loop.call(late, 0.05) is None
    release.set()
    last = loop.call(lambda: asyncio.sleep(0), LONG)
    assert last is not None
    assert last.wait(LONG)
    assert not ran.is_set()
    loop.close()


def test_closing_does_not_wait_long_for_a_task_that_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Close during a computation."""
    monkeypatch.setattr(event_loop, "CLOSE_TIMEOUT", 0.05)
    loop, blocked, release = EventLoop(), threading.Event(), threading.Event()

    async def block() -> None:
        blocked.set()
        release.wait(LONG)

    assert loop.call(block, LONG) is not None
    assert blocked.wait(LONG)
    loop.close()
    release.set()


def test_closing_does_not_wait_long_for_a_task_that_will_not_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cancel what ignores it."""
    monkeypatch.setattr(event_loop, "CLOSE_TIMEOUT", 0.05)
    loop, begun, release = EventLoop(), threading.Event(), list[asyncio.Event]()

    async def stubborn() -> None:
        release.append(asyncio.Event())
        begun.set()
        while True:
            try:
                await release[0].wait()
                return
            except asyncio.CancelledError:
                release[0].set()

    assert loop.call(stubborn, LONG) is not None
    assert begun.wait(LONG)
    loop.close()


def test_a_loop_whose_thread_cannot_be_started_is_started_at_the_next_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A chat that found it half made would wait for ever."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    loop = EventLoop()
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(threading.Thread, "start", refuse)
        loop.start()
    done = loop.call(lambda: asyncio.sleep(0), LONG)
    assert done is not None
    assert done.wait(LONG)
    loop.close()


def test_an_error_of_the_loop_itself_is_told_and_survived(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the selector fail once, as if a file of its own had been closed."""
    loop = EventLoop()
    running = loop.start()
    selector = running._selector  # type: ignore[attr-defined]
    select, errors = selector.select, iter([OSError("closed")])

    def failing(timeout: float | None = None) -> Any:
        for error in errors:
            raise error
        return select(timeout)

    monkeypatch.setattr(selector, "select", failing)
    running.call_soon_threadsafe(print)
    until(lambda: "the thread event-loop failed: OSError" in caplog.text)
    done = loop.call(lambda: asyncio.sleep(0), LONG)
    assert done is not None
    assert done.wait(LONG)
    loop.close()


def test_a_process_that_never_closes_it_ends_without_a_word() -> None:
    """Leave it open with a task."""
    program = (
        "import asyncio\n"
        "from kuwa_min.serving import event_loop\n"
        "assert 'asyncio' not in dir(event_loop)\n"
        "loop = event_loop.EventLoop()\n"
        "loop.call(lambda: asyncio.sleep(3600), 20)\n"
    )
    assert_ends_in_silence(program)


def test_a_process_ends_although_a_call_of_to_thread_blocks() -> None:
    """Close the loop during the call."""
    assert_ends_in_silence(
        "import asyncio, threading, time\n"
        "from kuwa_min.serving import event_loop\n"
        "begun = threading.Event()\n"
        "def block():\n"
        "    begun.set()\n"
        "    time.sleep(3600)\n"
        "loop = event_loop.EventLoop()\n"
        "loop.call(lambda: asyncio.to_thread(block), 20)\n"
        "begun.wait(20)\n"
        "loop.close()\n"
    )


def assert_ends_in_silence(program: str) -> None:
    """Run a program of a few lines; asyncio's debug mode may name what was slow."""
    quiet = "import logging; logging.getLogger('asyncio').setLevel('ERROR')\n"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", quiet + program],
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_to_thread_returns_and_raises_and_any_number_of_calls_run_at_once() -> None:
    """Each of 40 calls waits for all; one fails."""
    loop, results, together = EventLoop(), list[object](), threading.Barrier(40)

    def one(number: int) -> int:
        together.wait(LONG)
        if not number:
            raise LookupError
        return number

    async def all_of_them() -> None:
        calls = [asyncio.to_thread(one, number) for number in range(40)]
        results.extend(await asyncio.gather(*calls, return_exceptions=True))

    ended = loop.call(all_of_them, LONG)
    assert ended is not None
    assert ended.wait(LONG)
    loop.close()
    assert isinstance(results[0], LookupError)
    assert results[1:] == list(range(1, 40))

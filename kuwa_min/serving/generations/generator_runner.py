"""Run a backend's async generator to its end; any thread may cancel it.

With an event loop the generator is a task on it, beside those of all other chats, and the HTTP
worker thread waits for the task's end. Without one the worker thread drives the generator itself:
it may block, needs no asyncio, and may await nothing but a Pause.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from kuwa_min.errors import describe

if TYPE_CHECKING:
    import asyncio

    from kuwa_min.serving.event_loop import EventLoop

# Cancelling is closing the generator. Python cannot interrupt code that blocks, so `cancel` does
# all that may help, from the cheapest on:
#
# 1. It sets a flag, which is read before and after each piece.
# 2. It wakes a generator that awaits: a task by Task.cancel(), a Pause by an event.
# 3. It makes the calls that the backend registered with `on_stop`, for a generator that waits for a
#    lock, a socket or an engine of its own. They are made on the thread that cancels.
# 4. The generator leaves its await or yield and is closed; its `finally` blocks run, from then on
#    without further interruption.
#
# A generator that still blocks is an orphan: the response ends without it (see Generation), and its
# slot stays taken until it has really ended, which `on_end` reports.

logger = logging.getLogger(__name__)

LOOP_SLICE = 0.001  # seconds that a generator that awaits nothing may keep the loop from others
CLOSING_PIECES = 100  # that a generator may still yield, in vain, while it is closed

_current: ContextVar[GeneratorRunner | None] = ContextVar("runner", default=None)

Pieces = AsyncGenerator[Any, None]
Write = Callable[[Any], object]  # returns False when the buffer is full
Pace = Callable[[object], "Awaitable[None] | None"]  # gets what Write returned


class Cancelled(BaseException):
    """Leave a Pause: the generation was cancelled."""


class Pause:
    """An awaitable delay in seconds that needs no asyncio; cancelling ends it at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[Pause, None, None]:
        """Suspend up to the thread that drives the generator, which waits."""
        yield self


class Backpressure(Protocol):
    """How a writer whose buffer is full says that it takes more."""

    def drain(self) -> None:
        """Block until the buffer takes more; raises what the writer would raise."""

    def when_drained(self, call: Callable[[], None]) -> None:
        """Call back once, on any thread, when `drain` would return or raise; now if it would."""


def on_stop(call: Callable[[], None]) -> None:
    """Register a call with the runner of this context, if there is one."""
    runner = _current.get()
    if runner is not None:
        runner.on_stop(call)


class GeneratorRunner:
    """One run of one generator.

    `run` is called once, on the HTTP worker thread, and returns when the generator has ended.
    `cancel` and `on_stop` may be called on any thread, before, during and after it.

    on_end: called where the generator has ended (on the event loop, in the task's done callback,
    or on the worker thread), possibly more than once; it must not wait.
    """

    def __init__(self, on_end: Callable[[], object] = lambda: None) -> None:
        self._lock = threading.Lock()
        self._on_end = on_end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None  # what the task raised
        self._closing = False  # the generator is being closed: do not interrupt it
        self._wakeup = threading.Event()  # ends a Pause
        self._stopped = False  # cancelled, or the writer raised
        self._callbacks: list[Callable[[], None]] = []
        self.cancelled = False
        self.ended = threading.Event()

    def run(
        self,
        pieces: Pieces,
        write: Write,
        *,
        loop: EventLoop | None = None,
        backpressure: Backpressure | None = None,
    ) -> None:
        """Pass every piece to `write` until the end; raises what the generator or `write` raises.

        With a loop, the generator runs and is closed on the loop's thread, where `write` is called,
        too, and must not wait; without one, on this thread. Where `write` returns False,
        `backpressure` says when to go on.
        """
        try:
            if loop is None:
                self._run_on_thread(pieces, write, backpressure)
            else:
                self._run_on_loop(loop.start(), pieces, write, backpressure)
        finally:
            self.end()

    def cancel(self) -> None:
        """Interrupt the generator at its next await or piece; never waits for its end."""
        with self._lock:
            self.cancelled = True
            self._wakeup.set()
            if self._loop is not None and not self.ended.is_set():
                with contextlib.suppress(RuntimeError):  # the loop was closed
                    self._loop.call_soon_threadsafe(self._cancel_task)
        self._stop()

    def on_stop(self, call: Callable[[], None]) -> None:
        """Call back when the generator is stopped, on the thread that stops it; or now, if it was.

        The call is made once at most, and never after the generator's own end.
        """
        with self._lock:
            if self.ended.is_set():
                return
            if not self._stopped:
                self._callbacks.append(call)
                return
        _call_back(call)

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
        for call in self._pop_callbacks():
            _call_back(call)

    def _pop_callbacks(self) -> list[Callable[[], None]]:
        with self._lock:
            calls, self._callbacks = self._callbacks, []
            return calls

    def end(self) -> None:
        """Mark the generator as ended; also called for one that never ran."""
        self._pop_callbacks()
        self._on_end()
        self.ended.set()

    async def _pump(self, pieces: Pieces, write: Write, pace: Pace) -> None:
        try:
            if self.cancelled:
                return
            async for piece in pieces:
                if self.cancelled:
                    return
                try:
                    waiting = pace(write(piece))
                    if waiting is not None:
                        await waiting
                except BaseException:  # the client disconnected, or the wait was cancelled
                    self._stop()
                    raise
        finally:
            self._closing = True
            await _close(pieces)

    # -- on the HTTP worker thread

    def _run_on_thread(
        self, pieces: Pieces, write: Write, backpressure: Backpressure | None
    ) -> None:
        def pace(writable: object) -> None:
            if writable is False and backpressure is not None:
                backpressure.drain()

        coroutine: Coroutine[Pause, None, None] = self._pump(pieces, write, pace)
        token = _current.set(self)
        try:
            pause = coroutine.send(None)
            while not self._wakeup.wait(pause.seconds):
                pause = coroutine.send(None)
            coroutine.throw(Cancelled())
        except (StopIteration, Cancelled):
            pass
        finally:
            coroutine.close()
            _current.reset(token)

    # -- on the event loop

    def _run_on_loop(
        self,
        loop: asyncio.AbstractEventLoop,
        pieces: Pieces,
        write: Write,
        backpressure: Backpressure | None,
    ) -> None:
        """Run the generator as a task; block until its end."""
        pump = self._pump(pieces, write, _LoopPacer(backpressure).pace)
        try:
            with self._lock:
                self._loop = loop
                loop.call_soon_threadsafe(self._create_task, loop, pump)
        except RuntimeError:  # the loop was closed: the process ends
            pump.close()
            raise
        self.ended.wait()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _create_task(
        self, loop: asyncio.AbstractEventLoop, pump: Coroutine[Any, Any, None]
    ) -> None:
        """Create the task in a context in which `on_stop` finds this runner."""
        token = _current.set(self)
        try:
            self._task = loop.create_task(pump)
        finally:
            _current.reset(token)
        self._task.add_done_callback(self._task_done)

    def _cancel_task(self) -> None:
        if self._task is not None and not self._closing:
            self._task.cancel()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._error = task.exception()
        elif not self.cancelled:
            import asyncio

            self._error = asyncio.CancelledError()  # the backend's own doing
        self._task = None
        self.end()


class _LoopPacer:
    """Let other tasks run between pieces: yield the loop now and then, and await backpressure."""

    def __init__(self, backpressure: Backpressure | None) -> None:
        self._backpressure, self._since = backpressure, 0.0

    def pace(self, writable: object) -> Awaitable[None] | None:
        """Return what to await after a piece, or None to go on at once."""
        if writable is False and self._backpressure is not None:
            return self._drain(self._backpressure)
        if time.monotonic() - self._since < LOOP_SLICE:
            return None
        return self._yield_loop()

    async def _yield_loop(self) -> None:
        import asyncio

        await asyncio.sleep(0)
        self._since = time.monotonic()

    async def _drain(self, backpressure: Backpressure) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        drained = loop.create_future()
        backpressure.when_drained(lambda: _resolve(loop, drained))
        await drained


def _resolve(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    """Set a future's result from any thread; its loop may have been closed."""

    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    try:
        loop.call_soon_threadsafe(resolve)
    except RuntimeError as error:
        logger.debug("a reader is ready too late: %s", error)


async def _close(pieces: Pieces) -> None:
    """Close the generator; drop what its `finally` still yields, and let the rest of it run."""
    try:
        await pieces.aclose()
    except RuntimeError as error:
        if "ignored GeneratorExit" not in str(error):
            raise
        with contextlib.suppress(GeneratorExit, StopAsyncIteration):
            for _ in range(CLOSING_PIECES):
                await pieces.__anext__()


def _call_back(call: Callable[[], None]) -> None:
    """Make a backend's call; log what it raises instead of failing the thread that stops."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - the backend's own code
        logger.error("a call of on_stop failed: %s", describe(error))

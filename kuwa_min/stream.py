"""Drive a backend's async generator; any thread may cancel it.

Backends that use asyncio run as tasks on the event loop of the process, all others on the chat's
own thread: those may await nothing but a Pause, and need neither a loop nor asyncio itself.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from . import event_loop
from .errors import describe

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger(__name__)

TURN = 0.001  # seconds for which a generator that awaits nothing may keep the loop from others
LAST_PIECES = 100  # that a generator may still yield, in vain, while it is closed

_current: ContextVar[Stream | None] = ContextVar("stream", default=None)

Pieces = AsyncGenerator[Any, None]
Write = Callable[[Any], object]  # returns False when there is no room for more
Pace = Callable[[object], "Awaitable[None] | None"]  # gets what Write returned


class Cancelled(BaseException):
    """Leave a Pause: the answer is not wanted any more."""


class Pause:
    """An awaitable delay in seconds that needs no asyncio; cancelling ends it at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[Pause, None, None]:
        """Hand the wish to the thread that drives the generator."""
        yield self


class Room(Protocol):
    """Backpressure: how a writer that has no room says when it has."""

    def wait_for_room(self) -> None:
        """Wait for room; raises what the writer would raise."""

    def when_room(self, call: Callable[[], None]) -> None:
        """Make this call, on any thread, when there is room or never will be; or now."""


def warm_up() -> None:
    """Start what the first chat on the event loop would otherwise wait for."""
    event_loop.shared.start()


def on_stop(call: Callable[[], None]) -> None:
    """Let the stream that runs in this context, if there is one, make this call when it stops."""
    stream = _current.get()
    if stream is not None:
        stream.on_stop(call)


class Stream:
    """One generation. A generator that blocks cannot be interrupted, only left behind."""

    def __init__(self, on_end: Callable[[], object] = lambda: None) -> None:
        """Make a stream that calls `on_end` where its generator has ended; it must not wait."""
        self._lock = threading.Lock()
        self._on_end = on_end  # called again by a second `end`
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None  # what the task raised
        self._closing = False  # the generator is being closed: no time to interrupt it
        self._wake = threading.Event()
        self._stopped = False  # also by a writer that takes no more
        self._calls: list[Callable[[], None]] = []
        self.cancelled = False
        self.ended = threading.Event()

    def run(
        self, pieces: Pieces, write: Write, *, on_loop: bool = True, room: Room | None = None
    ) -> None:
        """Hand every piece to `write` until the end; what the generator raises is raised here.

        The generator runs and is closed on the event loop, where `write` is called, too, and must
        not wait; without a loop, on this thread. Where `write` returns False, `room` says when to
        go on.
        """
        drive = self._drive_on_loop if on_loop else self._drive_alone
        try:
            drive(pieces, write, room)
        finally:
            self.end()

    def cancel(self) -> None:
        """Interrupt the generator at its next await or piece; never waits."""
        with self._lock:
            self.cancelled = True
            self._wake.set()
            if self._loop is not None and not self.ended.is_set():
                with contextlib.suppress(RuntimeError):  # the loop was closed
                    self._loop.call_soon_threadsafe(self._cancel_task)
        self._make_calls()

    def on_stop(self, call: Callable[[], None]) -> None:
        """Make this call when the generator is stopped, on the thread that stops it; or now.

        It is made once, and never after the generator's own end.
        """
        with self._lock:
            if self.ended.is_set():
                return
            if not self._stopped:
                self._calls.append(call)
                return
        _make(call)

    def _make_calls(self) -> None:
        with self._lock:
            self._stopped = True
        for call in self._take_calls():
            _make(call)

    def _take_calls(self) -> list[Callable[[], None]]:
        with self._lock:
            calls, self._calls = self._calls, []
            return calls

    def end(self) -> None:
        """Note that the generator has ended, or will never run."""
        self._take_calls()
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
                except BaseException:  # the reader left
                    self._make_calls()
                    raise
        finally:
            self._closing = True
            await _close(pieces)

    # -- on the chat's own thread

    def _drive_alone(self, pieces: Pieces, write: Write, room: Room | None) -> None:
        def pace(has_room: object) -> None:
            if has_room is False and room is not None:
                room.wait_for_room()

        coroutine: Coroutine[Pause, None, None] = self._pump(pieces, write, pace)
        token = _current.set(self)
        try:
            asked = coroutine.send(None)
            while not self._wake.wait(asked.seconds):
                asked = coroutine.send(None)
            coroutine.throw(Cancelled())
        except (StopIteration, Cancelled):
            pass
        finally:
            coroutine.close()
            _current.reset(token)

    # -- on the event loop

    def _drive_on_loop(self, pieces: Pieces, write: Write, room: Room | None) -> None:
        """Run the generator as a task and wait for its end."""
        loop = event_loop.shared.start()
        pump = self._pump(pieces, write, _Turns(room).pace)
        try:
            with self._lock:
                self._loop = loop
                loop.call_soon_threadsafe(self._begin, loop, pump)
        except RuntimeError:  # the loop was closed: the process ends
            pump.close()
            raise
        self.ended.wait()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _begin(self, loop: asyncio.AbstractEventLoop, pump: Coroutine[Any, Any, None]) -> None:
        """Create the task, in a context that `on_stop` knows the stream by."""
        token = _current.set(self)
        try:
            self._task = loop.create_task(pump)
        finally:
            _current.reset(token)
        self._task.add_done_callback(self._note_end)

    def _cancel_task(self) -> None:
        if self._task is not None and not self._closing:
            self._task.cancel()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._error = task.exception()
        elif not self.cancelled:
            import asyncio

            self._error = asyncio.CancelledError()  # by the backend's own doing
        self._task = None
        self.end()


class _Turns:
    """Keep one chat from having the event loop for itself: wait for room, and let others run."""

    def __init__(self, room: Room | None) -> None:
        self._room, self._since = room, 0.0

    def pace(self, has_room: object) -> Awaitable[None] | None:
        """Return what to await after a piece, if it is time for that."""
        if has_room is False and self._room is not None:
            return self._wait_for_room(self._room)
        if time.monotonic() - self._since < TURN:
            return None
        return self._give_way()

    async def _give_way(self) -> None:
        import asyncio

        await asyncio.sleep(0)
        self._since = time.monotonic()

    async def _wait_for_room(self, room: Room) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        back = loop.create_future()
        room.when_room(lambda: _resolve(loop, back))
        await back


def _resolve(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    """Set a future from any thread; its loop may have been closed by now."""

    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    try:
        loop.call_soon_threadsafe(resolve)
    except RuntimeError as error:
        logger.debug("a reader is ready too late: %s", error)


async def _close(pieces: Pieces) -> None:
    """Close the generator; what its `finally` still yields is dropped, and the rest of it runs."""
    try:
        await pieces.aclose()
    except RuntimeError as error:
        if "ignored GeneratorExit" not in str(error):
            raise
        with contextlib.suppress(GeneratorExit, StopAsyncIteration):
            for _ in range(LAST_PIECES):
                await pieces.__anext__()


def _make(call: Callable[[], None]) -> None:
    """Call what a backend registered; its failure must not hurt the thread that stops the chat."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - the backend's own code
        logger.error("a call of on_stop failed: %s", describe(error))

"""Drive a backend's async generator of text on one thread; anybody may cancel it from another.

A backend that says so is driven without asyncio: it may await nothing but a Pause. That saves an
event loop per chat, and asyncio itself. For all others asyncio is imported at the first chat, or by
`warm_up`, not at the start of the process.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any

from .errors import describe

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger(__name__)

PATIENCE = 0.05  # seconds between two looks whether a predecessor has ended

_here = threading.local()  # .stream: what runs on this thread, where it is set


class Cancelled(BaseException):
    """Leave a Pause: the answer is not wanted any more."""


class Pause:
    """Something to await without asyncio, for so many seconds; cancelling ends it at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[Pause, None, None]:
        """Hand the wish to the thread that drives the generator."""
        yield self


def warm_up() -> None:
    """Import what the first chat would otherwise wait for."""
    import asyncio  # noqa: F401


def on_stop(call: Callable[[], None]) -> None:
    """Let the stream that runs on this thread, if there is one, make this call when it stops."""
    stream: Stream | None = getattr(_here, "stream", None)
    if stream is not None:
        stream.on_stop(call)


class Stream:
    """One generation. A generator that blocks cannot be interrupted, only left behind."""

    def __init__(self, *, after: Sequence[threading.Event] = ()) -> None:
        self._after = after  # what must have ended first: a generation that was left behind
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = threading.Event()
        self._stopped = False  # also by a writer that takes no more
        self._calls: list[Callable[[], None]] = []
        self.cancelled = False
        self.ended = threading.Event()

    def run(
        self,
        pieces: AsyncGenerator[Any, None],
        write: Callable[[Any], None],
        *,
        on_loop: bool = True,
    ) -> None:
        """Hand every piece to `write` until the end; what the generator raises is raised here.

        The generator is closed on this thread, whatever happens.
        """
        drive = self._drive_on_loop if on_loop else self._drive_alone
        before, _here.stream = getattr(_here, "stream", None), self
        try:
            self._wait_for_predecessor()
            drive(self._pump(pieces, write))
        finally:
            _here.stream = before
            self._take_calls()
            self.ended.set()

    def cancel(self) -> None:
        """Interrupt the generator at its next await or piece; never waits."""
        with self._lock:
            self.cancelled = True
            self._wake.set()
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._make_calls()

    def on_stop(self, call: Callable[[], None]) -> None:
        """Make this call when the generator is stopped, on the thread that stops it; or now.

        It is made once, and never after the generator's own end.
        """
        with self._lock:
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

    def _wait_for_predecessor(self) -> None:
        for ended in self._after:
            while not self.cancelled and not ended.wait(PATIENCE):
                pass

    async def _pump(self, pieces: AsyncGenerator[Any, None], write: Callable[[Any], None]) -> None:
        try:
            if self.cancelled:
                return
            async for piece in pieces:
                if self.cancelled:
                    return
                try:
                    write(piece)
                except BaseException:  # the reader left
                    self._make_calls()
                    raise
        finally:
            await pieces.aclose()

    def _drive_alone(self, coroutine: Coroutine[Pause, None, None]) -> None:
        try:
            asked = coroutine.send(None)
            while not self._wake.wait(asked.seconds):
                asked = coroutine.send(None)
            coroutine.throw(Cancelled())
        except (StopIteration, Cancelled):
            pass
        finally:
            coroutine.close()

    def _drive_on_loop(self, coroutine: Coroutine[Any, Any, None]) -> None:
        import asyncio

        loop = asyncio.new_event_loop()
        tasks: set[asyncio.Task[Any]] = set()

        def create(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
            task = asyncio.Task(work, loop=loop, **more)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return task

        loop.set_task_factory(create)
        try:
            task = loop.create_task(coroutine)
            with self._lock:
                self._loop, self._task = loop, task
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        finally:
            with self._lock:
                self._loop = self._task = None
            _tidy(loop, tasks)


def _make(call: Callable[[], None]) -> None:
    """Call what a backend registered; whoever stops a chat must not suffer from it."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - the backend's own code
        logger.error("a call of on_stop failed: %s", describe(error))


def _tidy(loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]]) -> None:
    """End what a generator left running on its loop, then close the loop.

    The tasks were collected on the way: asyncio.all_tasks looks at the tasks of all loops.
    """
    import asyncio

    try:
        left = list(tasks)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()

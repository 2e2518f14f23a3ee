"""An asyncio event loop on a thread of its own, shared by all chats of an executor.

The chats of executors that use asyncio are tasks on it, as in Kuwa's own program: what a class
keeps in `self` (an HTTP client, a lock, a queue) is bound to one loop and works from one chat to
the next. asyncio is imported when the loop starts, so that the process itself starts without it.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from kuwa_min.errors import describe
from kuwa_min.process.supervision import SupervisedThread, spawn

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 0.5  # seconds that cancelled tasks get at the end of the process


class EventLoop:
    """An event loop that starts at its first use; every method may be called on any thread.

    Its thread is called "event-loop". A loop that was closed starts anew at its next use.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: SupervisedThread | None = None

    def start(self) -> asyncio.AbstractEventLoop:
        """Start the loop unless it runs; return it."""
        with self._lock:
            if self._loop is None:
                self._loop = loop = _create_loop()
                self._thread = SupervisedThread(
                    "event-loop", partial(self._run, loop), essential=True
                )
                try:
                    self._thread.start()
                except BaseException:  # the next chat tries again
                    self._loop = None
                    loop.close()
                    raise
                atexit.register(self.close)
            return self._loop

    def call(
        self, create: Callable[[], Coroutine[Any, Any, None]], within: float
    ) -> threading.Event | None:
        """Run a coroutine as a task; return an event that is set when the task is done.

        Return None, and never run it, if a task blocks the loop for longer than `within` seconds.
        """
        loop, started, done = self.start(), threading.Event(), threading.Event()
        claim = threading.Lock()  # acquired once: by the loop, or by the caller on timeout

        async def run() -> None:  # its first step may come after one of a task that blocks
            if claim.acquire(blocking=False):
                started.set()
                await create()

        def create_task() -> None:
            loop.create_task(run()).add_done_callback(lambda _: done.set())

        loop.call_soon_threadsafe(create_task)
        if started.wait(within) or not claim.acquire(blocking=False):
            return done
        return None

    def close(self) -> None:
        """Cancel every task, shut async generators down and close the loop, if it was started.

        A task that blocks is not waited for; its thread, a daemon, ends with the process.
        """
        with self._lock:
            loop, thread, self._loop = self._loop, self._thread, None
            if loop is None or thread is None:
                return
            loop.call_soon_threadsafe(loop.stop)
        atexit.unregister(self.close)
        thread.end_pauses()
        thread.join(2 * CLOSE_TIMEOUT)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._loop is loop:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:  # a task called sys.exit()
                # The task has its error as well: it is logged as the generation's, or by asyncio.
                logger.debug("a task on the event loop ended with %s", describe(error))
        try:
            loop.run_until_complete(_cancel_all())
            loop.run_until_complete(loop.shutdown_asyncgens())
        except BaseException as error:  # noqa: BLE001 - the executor's own code
            logger.debug("closing the event loop: %s", describe(error))
        finally:
            loop.close()


def _create_loop() -> asyncio.AbstractEventLoop:
    """Create a loop whose asyncio.to_thread runs on daemon threads, one a call.

    At exit the interpreter joins the threads of a plain ThreadPoolExecutor: a call that blocks,
    which is what to_thread is for, would keep the process from ending.
    """
    import asyncio
    from concurrent.futures import Future, ThreadPoolExecutor

    class DaemonThreads(ThreadPoolExecutor):
        def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future = Future[Any]()
            work = partial(_fulfil, future, partial(call, *args, **kwargs))
            spawn("to_thread", work)
            return future

    loop = asyncio.new_event_loop()
    loop.set_default_executor(DaemonThreads())
    return loop


def _fulfil(future: Future[Any], call: Callable[[], Any]) -> None:
    """Make a call and set a future's result or exception."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - raised where the future is awaited
        future.set_exception(error)


async def _cancel_all() -> None:
    """Cancel all other tasks and wait for their ends, CLOSE_TIMEOUT at most."""
    import asyncio

    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)

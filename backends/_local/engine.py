"""The engine: one thread that loads the model, checks it, and runs the scheduler's steps."""

# Why one thread does it all. OpenMP keeps a team of threads for each thread that ever computed.
# With a second team there are more threads than cores, and libgomp then puts them to sleep at each
# of the hundreds of barriers of a token. So no other thread computes, not even for
# the check at the start.

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import queue
import threading
from collections.abc import Callable, Iterator

from kuwa_min.errors import StartError, describe, message_of
from kuwa_min.process import supervision

from .machine.idle_measurements import IdleMeasurements
from .request import EMIT_INTERVAL, Request
from .scheduler import Scheduler

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 10.0  # seconds that close() waits for the step under way
WAIT_SLICE = 1.0  # seconds; a signal that comes just before a wait is handled after it
# Seconds. The emit interval is EMIT_INTERVAL for each running request, up to this: text of steps
# that are closer together goes to the reading thread at once, because each wake-up of that thread
# delays the engine. Models with slower steps are not affected.
MAX_EMIT_INTERVAL = 0.05


class Closed(BaseException):
    """Unwind the engine's thread: close() was called while it was loading."""


class Engine:
    """Runs a scheduler on a thread of its own: requests in by submit(), their text out by emit().

    load: loads the model and returns its scheduler; called once, on the engine's thread. interrupt:
    ends load() with an exception; called by close(), on any thread. check: raises if a failure
    means that the device computes nothing any more; called with each failure, on the engine's
    thread. The process ends then, as only a new one can load the model again.

    submit(), expecting(), close(), examine() and abandon() may be called from any thread; the
    scheduler is used by the engine's thread only.
    """

    def __init__(
        self,
        load: Callable[[], Scheduler],
        interrupt: Callable[[], None] = lambda: None,
        check: Callable[[BaseException], None] = lambda failure: None,
    ) -> None:
        self._load, self._interrupt, self._check = load, interrupt, check
        self._scheduler: Scheduler  # what load() returned
        self._loaded = threading.Event()
        self._failure: BaseException | None = None  # of load()
        self._inbox: queue.SimpleQueue[Request | BaseException | None] = queue.SimpleQueue()
        self._idle = IdleMeasurements(None)
        self._expected: set[object] = set()  # one for each block of expecting()
        self._running: list[Request] = []
        self._closing = self._lost = self._hangs = False
        self._thread = supervision.SupervisedThread("engine", self._run, essential=True)

    def start(self) -> None:
        """Start the thread and wait until load() has returned; raises what it raises.

        A signal handler's exception ends the wait and the loading.
        """
        # a daemon thread that Python ends inside native code may abort the process
        atexit.register(self.close)
        try:
            self._thread.start()
            while not self._loaded.wait(WAIT_SLICE):
                pass
        except BaseException:
            self.close()
            raise
        failure, self._failure = self._failure, None
        if failure is not None:
            self.close()
            raise failure

    @property
    def description(self) -> str:
        """Return how requests are computed, for /status."""
        return self._scheduler.description

    def check_open(self) -> None:
        """Raise Closed once close() was called; for load(), between its steps."""
        if self._closing:
            raise Closed

    def raise_closed(self) -> None:
        """Raise Closed in the engine's thread, between two of its bytecodes.

        Not for a thread in native code that calls Python: it would not pass the exception on.
        """
        thread = self._thread.ident  # None: start() has not come that far, and load() will not run
        if thread is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread), ctypes.py_object(Closed)
            )

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """Measure no speeds in this block, which prepares a request; for any thread.

        Preparing may compute, too: a picture is encoded.
        """
        one = object()
        self._expected.add(one)
        self._idle.interrupt()
        try:
            yield
        finally:
            self._expected.remove(one)

    def submit(self, request: Request) -> None:
        """Queue a request; never waits."""
        self._put(request)

    def _put(self, queued: Request | BaseException | None) -> None:
        self._inbox.put(queued)
        self._idle.interrupt()

    def examine(self, failure: BaseException) -> None:
        """End the process if a failure of another thread shows that the model is lost; never waits.

        It is examined between steps: asking a GPU spoils a CUDA graph that is being recorded, and
        the GPU then seems lost.
        """
        self._put(failure)

    def _examine(self, failure: BaseException) -> None:
        try:
            self._check(failure)
        except Exception as error:  # noqa: BLE001 - whatever the library raises
            if not self._lost:
                self._lost = True
                supervision.end_process(message_of(error) or type(error).__name__)

    def abandon(self, reason: str) -> None:
        """End all requests and the process, as the library will never return to this thread."""
        self._hangs = self._closing = True
        error = StartError(reason)
        if self._loaded.is_set():
            supervision.end_process(reason)
        else:
            self._failure = error
            self._loaded.set()
        for request in [*self._running, *self._queued()]:
            request.finish(error)

    def _queued(self) -> Iterator[Request]:
        """Take all requests out of the queue."""
        while not self._inbox.empty():
            if isinstance(queued := self._inbox.get(), Request):
                yield queued

    def close(self) -> None:
        """Cancel all running requests and wait for the end of the step under way."""
        self._closing = True
        if not self._loaded.is_set():
            self._interrupt()
        self._put(None)
        for request in list(self._running):
            request.cancel()
        if self._thread.is_alive() and not self._hangs:  # start() may not have come that far
            self._thread.join(CLOSE_TIMEOUT)
        atexit.unregister(self.close)

    def _run(self) -> None:
        if self._loaded.is_set():  # after an unexpected error
            return self._serve()
        try:
            self.check_open()
            self._scheduler = self._load()
            self._idle = IdleMeasurements(self._scheduler.measurement)
        except BaseException as error:  # noqa: BLE001 - start() raises it
            self._failure = error
            return None
        finally:
            self._loaded.set()
        return self._serve()

    def _serve(self) -> None:
        """Run steps until close(), then finish all requests."""
        while not self._closing:
            try:
                self._admit()
                if self._scheduler.has_work():
                    self._scheduler.step()
            except BaseException as error:  # noqa: BLE001 - it ends requests, not this thread
                self._fail(error)
        try:
            self._scheduler.close()
        except Exception as error:  # noqa: BLE001 - the process ends all the same
            logger.error("the engine could not keep what it knows: %s", describe(error))
        self._fail(None)
        for queued in self._queued():
            queued.finish()

    def _admit(self) -> None:
        """Move queued requests into free slots; wait for one while there is nothing to compute."""
        failures = [one.failure for one in self._running if one.failure is not None]
        if failures:
            self._examine(failures[0])
        self._running = [request for request in self._running if not request.finished]
        for request in self._running:
            request.emit_interval = min(EMIT_INTERVAL * len(self._running), MAX_EMIT_INTERVAL)
        while self._scheduler.has_free_slot():
            try:
                has_work = self._scheduler.has_work()
                queued = self._inbox.get(block=False) if has_work else self._wait()
            except queue.Empty:
                return
            if queued is None:
                return
            if isinstance(queued, BaseException):
                self._examine(queued)
                continue
            queued.start()
            if queued.should_stop:
                queued.finish()
                continue
            self._running.append(queued)
            self._scheduler.add(queued)

    def _wait(self) -> Request | BaseException | None:
        """Return what is queued next; measure speeds while nothing is."""
        self._idle.begin_quiet()
        while True:
            try:
                return self._inbox.get(timeout=self._idle.seconds_left())
            except queue.Empty:
                self._idle.run(lambda: bool(self._expected) or not self._inbox.empty())

    def _fail(self, error: BaseException | None) -> None:
        """Finish all running requests after an error that belongs to none of them alone."""
        if error is not None:
            logger.debug("the engine failed: %s", describe(error))
        for request in self._running:
            request.finish(error)  # does nothing for those that are finished
        try:
            self._scheduler.reset()
        except Exception as failure:  # noqa: BLE001 - later requests may succeed
            logger.error("the engine could not clear up: %s", describe(failure))

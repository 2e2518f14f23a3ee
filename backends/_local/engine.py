"""The engine: one thread that owns the model and runs the scheduler's steps for all requests."""

from __future__ import annotations

import atexit
import logging
import queue
import threading

from kuwa_min.errors import describe

from .request import EMIT_INTERVAL, Request
from .scheduler import Scheduler

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 10.0  # seconds that close() waits for the step under way
# Seconds. The emit interval is EMIT_INTERVAL for each running request, up to this: text of steps
# that are closer together goes to the reading thread at once, because each wake-up of that thread
# delays the engine. Models with slower steps are not affected.
MAX_EMIT_INTERVAL = 0.05


class Engine:
    """Runs a scheduler on a thread of its own: requests in by submit(), their text out by emit().

    submit() and close() may be called from any thread; the scheduler is used by this one only.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._running: list[Request] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        # a daemon thread that Python ends inside native code may abort the process
        atexit.register(self.close)

    @property
    def description(self) -> str:
        """Return how requests are computed, for /status."""
        return self._scheduler.description

    def submit(self, request: Request) -> None:
        """Queue a request; never waits."""
        self._inbox.put(request)

    def close(self) -> None:
        """Cancel all running requests and wait for the end of the step under way."""
        self._closing = True
        self._inbox.put(None)
        for request in list(self._running):
            request.cancel()
        self._thread.join(CLOSE_TIMEOUT)
        atexit.unregister(self.close)

    def _run(self) -> None:
        while not self._closing:
            try:
                self._admit()
                if self._scheduler.has_work():
                    self._scheduler.step()
            except BaseException as error:  # noqa: BLE001 - it ends requests, not this thread
                self._fail(error)
        self._fail(None)
        while not self._inbox.empty():
            queued = self._inbox.get()
            if queued is not None:
                queued.finish()

    def _admit(self) -> None:
        """Move queued requests into free slots; wait for one while there is nothing to compute."""
        self._running = [request for request in self._running if not request.finished]
        for request in self._running:
            request.emit_interval = min(EMIT_INTERVAL * len(self._running), MAX_EMIT_INTERVAL)
        while self._scheduler.has_free_slot():
            try:
                queued = self._inbox.get(block=not self._scheduler.has_work())
            except queue.Empty:
                return
            if queued is None:
                return
            queued.start()
            if queued.should_stop:
                queued.finish()
                continue
            self._running.append(queued)
            self._scheduler.add(queued)

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

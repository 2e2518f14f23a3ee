"""The executor's endpoints and slots: which generation holds which, and how all of them end.

There are N slots, in which generations run, and N + W endpoints, each of which takes one chat at a
time; the Kernel knows the endpoints only. Behind them come as many places for chats of other
clients, which take any that is free. A chat holds its endpoint from its arrival until its response
ends, and its slot from its admission until its generator has really ended. The latter is later for
an orphan: a generator that blocks while its response has ended without it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from kuwa_min.chat import catalog
from kuwa_min.errors import HTTPError
from kuwa_min.process import tune_switch_interval
from kuwa_min.process.supervision import spawn

from .admission import AdmissionQueue
from .generations.generation import Generation
from .metrics import Metrics

logger = logging.getLogger(__name__)

DRAIN_GRACE = 0.5  # seconds that cancelled generations get at the end of the process


class Slots:
    """The table of endpoints, and the queue before the slots; every method is thread-safe.

    Lock order: `_changed` before the queue's lock. `_observe_load` runs with the latter held.

    abort: the backend's own abort(), which is process-wide; called on a thread of its own. No chat
    is admitted until it has returned. others: places for chats of clients other than the Kernel.
    """

    def __init__(
        self,
        count: int,
        metrics: Metrics,
        abort: Callable[[], object] | None,
        *,
        waiting: int = 0,
        others: int = 0,
    ) -> None:
        self._metrics, self._abort = metrics, abort
        self._changed = threading.Condition()
        self._endpoints: list[Generation | None] = [None] * (count + waiting + others)
        self._places = range(count + waiting, count + waiting + others)
        self._reserved: set[int] = set()  # endpoints of chats that do not exist yet
        self._queue = AdmissionQueue(count, self._observe_load)
        self._flushing: set[Generation] = set()  # without an endpoint, sending their last pieces
        self._closed = False
        metrics.endpoints.set(count + waiting)
        metrics.longest_wait.function = self._queue.longest_wait

    # -- for the routes and the generations

    def check(self, index: int) -> None:
        """Raise HTTPError if a chat cannot have an endpoint: 429 if taken, 503 once closed."""
        if self._closed:
            raise HTTPError(503, catalog.STOPPING, Retry_After="5")
        if self._endpoints[index] is not None or index in self._reserved:
            raise HTTPError(429, catalog.ENDPOINT_BUSY)

    @contextlib.contextmanager
    def reserve(self, index: int) -> Iterator[None]:
        """Keep an endpoint for a chat while its form is parsed; raises as `check`."""
        with self._changed:
            self.check(index)
            self._reserved.add(index)
        try:
            yield
        finally:
            self._reserved.discard(index)

    def find_place(self) -> int:
        """Return a free place for another client's chat; raises HTTPError: 429 without one, 503."""
        if self._closed:
            raise HTTPError(503, catalog.STOPPING, Retry_After="5")
        for index in self._places:
            if self._endpoints[index] is None and index not in self._reserved:
                return index
        raise HTTPError(429, catalog.QUEUE_FULL, Retry_After="2")

    @contextlib.contextmanager
    def reserve_place(self) -> Iterator[int]:
        """Keep a free place as `reserve` keeps an endpoint; raises as `find_place`."""
        with self._changed:
            index = self.find_place()
            self._reserved.add(index)
        try:
            yield index
        finally:
            self._reserved.discard(index)

    def acquire(self, index: int, generation: Generation) -> None:
        """Give an endpoint to a generation, which joins the queue; called within `reserve`.

        Raises HTTPError with 503 if the process stops.
        """
        with self._changed:
            self._reserved.discard(index)
            self.check(index)
            ticket = self._queue.acquire(generation.user)
            # The slot is free where the generator ends, before the worker thread notices that.
            generation.enqueue(ticket, partial(self._queue.release, ticket))
            self._endpoints[index] = generation

    def release(self, generation: Generation) -> bool:
        """Release a generation's endpoint; return whether it was still held."""
        with self._changed:
            if self._endpoints[generation.index] is not generation:
                return False
            self._endpoints[generation.index] = None
            self._changed.notify_all()
            return True

    def cancel_and_release(self, generation: Generation) -> bool:
        """Call abort() if due, then release the endpoint; return whether it was still held."""
        with self._changed:
            if self._endpoints[generation.index] is not generation:
                return False
            self.call_abort(generation)
            return self.release(generation)

    @contextlib.contextmanager
    def flushing(self, generation: Generation) -> Iterator[None]:
        """Let `drain` wait for a generation without an endpoint while it sends its last pieces."""
        with self._changed:
            self._flushing.add(generation)
        try:
            if self._closed:
                generation.skip_pauses()
            yield
        finally:
            with self._changed:
                self._flushing.discard(generation)
                self._changed.notify_all()

    def call_abort(self, generation: Generation) -> None:
        """Call abort(), which is process-wide, only if this is the one running generation."""
        with self._changed:
            running = [one for one in self.active() if self._queue.has_slot(one.ticket)]
            if self._abort is None or running != [generation]:
                return
            self._queue.hold()
            try:
                spawn("abort", partial(self._run_abort, self._abort))
            except RuntimeError as error:  # the system has no thread left
                self._queue.resume()
                logger.error("abort() was not called: %s", error)

    def _run_abort(self, abort: Callable[[], object]) -> None:
        try:
            abort()
        finally:
            self._queue.resume()

    def leave_queue(self, generation: Generation) -> bool:
        """Dismiss a waiting generation; return False if it no longer waits."""
        return self._queue.cancel(generation.ticket)

    def queue_position(self, generation: Generation) -> tuple[int, int]:
        """Return a waiting generation's position, 1 being the next, and the queue's length."""
        return self._queue.position(generation.ticket), self._queue.waiting

    def active(self) -> list[Generation]:
        """Return the generations that hold an endpoint, waiting ones included."""
        return [generation for generation in self._endpoints if generation is not None]

    def at(self, index: int) -> Generation | None:
        """Return the generation that holds this endpoint."""
        return self._endpoints[index]

    def _observe_load(self, running: int, waiting: int) -> None:
        self._metrics.observe_load(running, waiting)
        tune_switch_interval(running)

    # -- for the end of the process, on the main thread

    @property
    def closed(self) -> bool:
        """Tell whether new chats are refused for good."""
        return self._closed

    def close(self) -> None:
        """Refuse new chats from now on; those in the queue are admitted as before."""
        with self._changed:
            self._closed = True
            flushing = list(self._flushing)
        for generation in flushing:
            generation.skip_pauses()

    def drain(self, seconds: float) -> None:
        """Wait for the end of all generations, queued ones included; cancel the rest.

        Those that do not end within DRAIN_GRACE after that are detached.
        """
        if self._wait_until_idle(seconds):
            return
        self._queue.hold()  # no queued chat is admitted now
        _call_all([generation.cancel_for_shutdown for generation in self.active()])
        if not self._wait_until_idle(DRAIN_GRACE):
            _call_all([generation.detach for generation in self.active()])

    def _wait_until_idle(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not (self.active() or self._flushing), seconds)


def _call_all(calls: list[Callable[[], None]]) -> None:
    """Make calls on threads of their own; wait DRAIN_GRACE for those that hang in a backend."""
    threads = []
    for call in calls:
        try:
            threads.append(spawn("drain", call))
        except RuntimeError:  # the system has no thread left
            call()
    deadline = time.monotonic() + DRAIN_GRACE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))

"""N + W endpoints, each of which takes one chat at a time, and N slots, in which chats compute.

A chat occupies its endpoint from its arrival until its answer has ended or was given up; it holds a
slot from its admission until its computation has really ended, which is later if that blocks.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from . import sentences
from .admission import AdmissionQueue
from .answer import Answer
from .errors import Refused
from .metrics import Metrics
from .process import share_processor
from .protocol import BUSY
from .stream import Stream

logger = logging.getLogger(__name__)

CUT_SECONDS = 0.5  # that cancelled generations get at the end of the process


class Slots:
    """Which chat is at which endpoint, and which of them compute.

    abort: the backend's own abort(), which is process-wide; called on a thread of its own. It
    returns when chats may begin again.
    """

    def __init__(
        self, count: int, metrics: Metrics, abort: Callable[[], object] | None, *, waiting: int = 0
    ) -> None:
        self._metrics, self._abort = metrics, abort
        self._changed = threading.Condition()
        self._chats: list[Answer | None] = [None] * (count + waiting)
        self._queue = AdmissionQueue(count, self._count)
        self._ending: set[Answer] = set()  # out of their slot, but not at the end of their body
        self._closed = False
        metrics.endpoints.set(count + waiting)
        metrics.longest_wait.read = self._queue.longest_wait

    def take(self, index: int, answer: Answer) -> None:
        """Give an endpoint to an answer, which joins the queue; raises Refused if it is taken."""
        with self._changed:
            if self._closed:
                raise Refused(503, sentences.STOPPING, Retry_After="5")
            if self._chats[index] is not None:
                raise Refused(429, BUSY)
            ticket = self._queue.acquire(answer.user)
            # The slot is free where the computation ends, not when the chat's thread notices that.
            answer.ticket, answer.stream = ticket, Stream(partial(self._queue.release, ticket))
            self._chats[index] = answer

    def free(self, answer: Answer) -> bool:
        """Take an answer's endpoint back; return whether it still had one."""
        with self._changed:
            if self._chats[answer.index] is not answer:
                return False
            self._chats[answer.index] = None
            self._changed.notify_all()
            return True

    @contextlib.contextmanager
    def ending(self, answer: Answer) -> Iterator[None]:
        """Keep the process from ending while an answer without a slot sends its last pieces."""
        with self._changed:
            self._ending.add(answer)
        try:
            if self._closed:
                answer.hurry()
            yield
        finally:
            with self._changed:
                self._ending.discard(answer)
                self._changed.notify_all()

    def give_up(self, answer: Answer) -> bool:
        """Interrupt an answer and take its endpoint back; return whether it still had one."""
        with self._changed:
            if self._chats[answer.index] is not answer:
                return False
            self.interrupt(answer)
            return self.free(answer)

    def interrupt(self, answer: Answer) -> None:
        """Call the backend's abort() if this chat is the only one that computes.

        No chat is admitted until that has ended.
        """
        with self._changed:
            computing = [one for one in self.running() if self._queue.has_slot(one.ticket)]
            if self._abort is None or computing != [answer]:
                return
            self._queue.hold()
            try:
                threading.Thread(target=self._call_abort, args=(self._abort,), daemon=True).start()
            except RuntimeError as error:  # the system has no thread left
                self._queue.resume()
                logger.error("abort() was not called: %s", error)

    def _call_abort(self, abort: Callable[[], object]) -> None:
        try:
            abort()
        finally:
            self._queue.resume()

    def leave_queue(self, answer: Answer) -> bool:
        """Take a chat out of the queue; return False if it does not wait any more."""
        return self._queue.cancel(answer.ticket)

    def place(self, answer: Answer) -> tuple[int, int]:
        """Return a waiting chat's position in the queue, 1 being the next, and its length."""
        return self._queue.position(answer.ticket), self._queue.waiting

    def _count(self, running: int, waiting: int) -> None:
        self._metrics.admitted(running, waiting)
        share_processor(running)

    def running(self) -> list[Answer]:
        """Return the answers that have an endpoint now, waiting ones too."""
        return [answer for answer in self._chats if answer is not None]

    def at(self, index: int) -> Answer | None:
        """Return the answer at this endpoint now."""
        return self._chats[index]

    @property
    def closed(self) -> bool:
        """Tell whether new chats are refused for good."""
        return self._closed

    def close(self) -> None:
        """Refuse new chats from now on; those that wait are admitted as before."""
        with self._changed:
            self._closed = True
            ending = list(self._ending)
        for answer in ending:
            answer.hurry()

    def drain(self, seconds: float) -> None:
        """Wait `seconds` for the end of all answers, queued ones too, then cut the rest short."""
        if self._wait_until_idle(seconds):
            return
        self._queue.hold()  # no queued chat begins now
        _call_all([answer.cut_short for answer in self.running()])
        if not self._wait_until_idle(CUT_SECONDS):
            _call_all([answer.leave_behind for answer in self.running()])

    def _wait_until_idle(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not (self.running() or self._ending), seconds)


def _call_all(calls: list[Callable[[], None]]) -> None:
    """Make calls side by side; one that hangs in a backend's code is left behind."""
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + CUT_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))

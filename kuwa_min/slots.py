"""N slots, each of which runs one chat at a time: take, answer, abort, free, drain."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from .answer import Answer
from .errors import Refused
from .metrics import Metrics
from .process import share_processor
from .protocol import BUSY
from .stream import Stream

logger = logging.getLogger(__name__)

CUT_SECONDS = 0.5  # that cancelled generations get at the end of the process
STOPPING = "This executor is being stopped. Please try again in a moment."

Interrupt = Callable[[], "threading.Event | None"]  # starts abort(); the event is set at its end


class Slots:
    """Who runs where. A slot is free as soon as its answer is ended or given up."""

    def __init__(self, count: int, metrics: Metrics, interrupt: Interrupt) -> None:
        self._metrics, self._interrupt = metrics, interrupt
        self._changed = threading.Condition()
        self._running: list[Answer | None] = [None] * count
        self._left_behind: list[list[threading.Event]] = [[] for _ in range(count)]
        self._interrupts: list[threading.Event] = []
        self._ending: set[Answer] = set()  # out of their slot, but not at the end of their body
        self._closed = False

    def take(self, index: int, answer: Answer) -> None:
        """Give a slot to an answer; raises Refused while another one runs there."""
        with self._changed:
            if self._closed:
                raise Refused(503, STOPPING, Retry_After="5")
            if self._running[index] is not None:
                raise Refused(429, BUSY)
            left = self._left_behind[index] = _pending(self._left_behind[index])
            self._interrupts = _pending(self._interrupts)
            answer.stream = Stream(after=[*left, *self._interrupts])
            self._running[index] = answer
            self._count()

    def free(self, answer: Answer) -> bool:
        """Take an answer's slot back; return whether it still had one."""
        with self._changed:
            if self._running[answer.index] is not answer:
                return False
            self._running[answer.index] = None
            self._left_behind[answer.index].append(answer.stream.ended)
            self._count()
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
        """Interrupt an answer and take its slot back; return whether it still had one."""
        with self._changed:
            if self._running[answer.index] is not answer:
                return False
            self.interrupt(answer)
            return self.free(answer)

    def interrupt(self, answer: Answer) -> None:
        """Call the backend's own abort(), which knows no slots, unless others would suffer."""
        with self._changed:
            if self.running() == [answer]:
                ended = self._interrupt()
                if ended is not None:
                    self._interrupts.append(ended)

    def _count(self) -> None:
        running = len(self.running())
        self._metrics.busy(running)
        share_processor(running)

    def running(self) -> list[Answer]:
        """Return the answers that run now."""
        return [answer for answer in self._running if answer is not None]

    def at(self, index: int) -> Answer | None:
        """Return the answer that runs in this slot now."""
        return self._running[index]

    @property
    def closed(self) -> bool:
        """Tell whether new chats are refused for good."""
        return self._closed

    def close(self) -> None:
        """Refuse new chats from now on."""
        with self._changed:
            self._closed = True
            ending = list(self._ending)
        for answer in ending:
            answer.hurry()

    def drain(self, seconds: float) -> None:
        """Let running answers end for so long, then cut the rest cleanly."""
        if self._wait_until_idle(seconds):
            return
        for answer in self.running():
            answer.cut_short()
        if self._wait_until_idle(CUT_SECONDS):
            return
        ends = [threading.Thread(target=one.leave_behind, daemon=True) for one in self.running()]
        for end in ends:
            end.start()
        for end in ends:
            end.join()

    def _wait_until_idle(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not (self.running() or self._ending), seconds)


def _pending(events: list[threading.Event]) -> list[threading.Event]:
    return [event for event in events if not event.is_set()]

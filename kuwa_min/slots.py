"""N slots, each of which runs one chat at a time: take, answer, abort, free, drain."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from .delivery import Delivery
from .errors import UNEXPECTED, AnswerError, Gone, Refused, describe
from .metrics import Metrics
from .process import share_processor
from .protocol import BUSY
from .stream import Stream

logger = logging.getLogger(__name__)

PATIENCE = 0.05  # seconds that a cancelled generator gets to end its answer itself
CUT_SECONDS = 0.5  # that cancelled generations get at the end of the process
STOPPING = "This executor is being stopped. Please try again in a moment."
CUT_SHORT = "\n<<<WARNING>>>The executor was stopped: this answer ends early.<<</WARNING>>>"

Compute = Callable[[], AsyncGenerator[str, None]]
Interrupt = Callable[[], "threading.Event | None"]  # starts abort(); the event is set at its end


class Slots:
    """Who runs where. A slot is free as soon as its answer is ended or given up."""

    def __init__(self, count: int, metrics: Metrics, interrupt: Interrupt) -> None:
        self._metrics, self._interrupt = metrics, interrupt
        self._changed = threading.Condition()
        self._running: list[Answer | None] = [None] * count
        self._left_behind: list[list[threading.Event]] = [[] for _ in range(count)]
        self._interrupts: list[threading.Event] = []
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
            return self._changed.wait_for(lambda: not self.running(), seconds)


def _pending(events: list[threading.Event]) -> list[threading.Event]:
    return [event for event in events if not event.is_set()]


class Answer:
    """One chat from the moment it has a slot to its last chunk."""

    stream: Stream

    def __init__(
        self,
        index: int,
        slots: Slots,
        metrics: Metrics,
        compute: Compute,
        *,
        on_loop: bool = True,
        listen: Callable[[str], None] | None = None,
    ) -> None:
        self.index, self._slots, self._metrics = index, slots, metrics
        self._compute: Compute | None = compute
        self._on_loop, self._listen = on_loop, listen
        self._delivery: Delivery | None = None
        self._started = time.monotonic()
        self._characters = 0
        self._outcome = "answered"
        self._farewell = ""

    def produce(self, delivery: Delivery) -> None:
        """Run the backend and bring its text to the reader; the slot is free before the end."""
        self._delivery = delivery
        delivery.on_gone = self._reader_left
        if delivery.gone:
            self._reader_left()
        self._run(delivery)
        self._slots.free(self)  # before the last chunk: the Kernel may send the next chat at once
        self._report()
        delivery.finish()

    def _pieces(self) -> AsyncGenerator[str, None]:
        """Call the backend once, and forget the request, which may be large."""
        assert self._compute is not None
        compute, self._compute = self._compute, None
        return compute()

    def _run(self, delivery: Delivery) -> None:
        try:
            self.stream.run(self._pieces(), self._write, on_loop=self._on_loop)
            if self._farewell:
                delivery.write(self._farewell)
            elif not self.stream.cancelled:
                self._metrics.answered(time.monotonic() - self._started, self._characters)
        except Gone:
            self._reader_left()
        except BaseException as error:  # noqa: BLE001 - a backend may raise anything
            self._fail(delivery, error)

    def _fail(self, delivery: Delivery, error: BaseException) -> None:
        """End the answer with the cause, if it is meant for the person, else with an apology."""
        if self.stream.cancelled:
            return logger.debug("a cancelled answer ended in %s", describe(error))
        if isinstance(error, AnswerError):
            self._outcome, sentence = "declined", str(error)
        else:
            self._outcome, sentence = "failed", UNEXPECTED
            self._metrics.failed.inc()
            logger.error("the backend failed: %s", describe(error))
        if self._listen is not None:
            self._listen(f"{type(error).__name__}: {error}")
        try:
            delivery.write(sentence)
        except Gone:
            self._reader_left()
        return None

    def _write(self, piece: Any) -> None:
        if not isinstance(piece, str):
            raise TypeError(f"llm_compute yielded {type(piece).__name__} instead of str")
        if not piece:
            return
        if not self._characters:
            self._metrics.first_piece.observe(time.monotonic() - self._started)
        self._characters += len(piece)
        if self._listen is not None:
            self._listen(piece)
        assert self._delivery is not None
        self._delivery.write(piece)

    def _reader_left(self) -> None:
        """Stop the backend for a reader who is no longer there; never waits."""
        if self._slots.give_up(self):
            self._outcome = "left by the reader"
            self._metrics.disconnected.inc()
            self.stream.cancel()

    def abort(self) -> None:
        """Stop the backend because the person said so; the answer ends within PATIENCE."""
        self._outcome = "aborted"
        self._metrics.aborted.inc()
        self._stop()
        if not self.stream.ended.wait(PATIENCE):
            self.leave_behind()

    def cut_short(self) -> None:
        """Stop the backend because the process ends, and tell the person; never waits."""
        self._outcome, self._farewell = "cut short", CUT_SHORT
        self._stop()

    def _stop(self) -> None:
        self.stream.cancel()
        self._slots.interrupt(self)

    def leave_behind(self) -> None:
        """End the answer without its backend, which blocks."""
        if self._slots.free(self) and self._delivery is not None:
            logger.info("slot %d: the backend blocks; its answer ends without it", self.index)
            self._delivery.abandon(self._farewell)

    def _report(self) -> None:
        logger.info(
            "slot %d: %s, %d characters in %.2f s",
            self.index,
            self._outcome,
            self._characters,
            time.monotonic() - self._started,
        )

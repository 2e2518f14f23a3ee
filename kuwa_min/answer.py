"""One answer under way: from the moment it has a slot to its last chunk."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from .delivery import Delivery
from .errors import UNEXPECTED, AnswerError, Gone, describe, traceback_line
from .metrics import Metrics
from .stream import Stream

logger = logging.getLogger(__name__)

PATIENCE = 0.05  # seconds that a cancelled generator gets to end its answer itself
CUT_SHORT = "\n<<<WARNING>>>The executor was stopped: this answer ends early.<<</WARNING>>>"

Compute = Callable[[], AsyncGenerator[str, None]]


class Slots(Protocol):
    """What an answer needs of the slots that it runs in."""

    def free(self, answer: Answer) -> bool:
        """Take an answer's slot back; return whether it still had one."""

    def give_up(self, answer: Answer) -> bool:
        """Interrupt an answer and take its slot back; return whether it still had one."""

    def interrupt(self, answer: Answer) -> None:
        """Call the backend's own abort(), unless others would suffer."""


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
            told = self._listen is not None or logger.isEnabledFor(logging.DEBUG)
            logger.error("the backend failed: %s", traceback_line(error, with_message=told))
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

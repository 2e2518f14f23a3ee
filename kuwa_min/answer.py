"""One answer under way: from its place in the queue to its last chunk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from typing import Protocol

from . import sentences, usage
from .admission import Ticket
from .answer_writer import HEARTBEAT_SECONDS, AnswerWriter
from .chunks import ExitCodeChunk, Piece, ProgressChunk
from .delivery import Delivery
from .errors import UNEXPECTED, AnswerError, Gone, describe, message_of, traceback_line
from .metrics import Metrics
from .stream import Stream
from .wire import Step, Wire

logger = logging.getLogger(__name__)

CANCEL_GRACE = 0.05  # seconds that a cancelled generator gets to end before it is left behind
WAITING_TIMEOUT = 240.0  # seconds; Kuwa's front end gives up after 300 without a byte
NOTABLE_WAIT = 0.05  # seconds in the queue that the log speaks of

Compute = Callable[[], AsyncGenerator[Piece, None]]


class Slots(Protocol):
    """What an answer needs of the slots and endpoints."""

    def free(self, answer: Answer) -> bool:
        """Take an answer's endpoint back; return whether it still had one."""

    def ending(self, answer: Answer) -> AbstractContextManager[None]:
        """Keep the process from ending while an answer without a slot sends its last pieces."""

    def give_up(self, answer: Answer) -> bool:
        """Interrupt an answer and take its endpoint back; return whether it still had one."""

    def interrupt(self, answer: Answer) -> None:
        """Call the backend's own abort(), unless other chats would suffer."""

    def leave_queue(self, answer: Answer) -> bool:
        """Take a chat out of the queue; return False if it does not wait any more."""

    def place(self, answer: Answer) -> tuple[int, int]:
        """Return a waiting chat's position in the queue and the queue's length."""


class Answer:
    """One chat from its place in the queue to its last chunk.

    user: whose chat it is, "" if unknown; language: the Accept-Language of the request;
    waiting_timeout: seconds that it waits for a slot at most.
    """

    stream: Stream  # both are given with the endpoint
    ticket: Ticket

    def __init__(
        self,
        index: int,
        slots: Slots,
        metrics: Metrics,
        compute: Compute,
        wire: Wire,
        *,
        on_loop: bool = True,
        listen: Callable[[str], None] | None = None,
        user: str = "",
        language: str | None = None,
        waiting_timeout: float = WAITING_TIMEOUT,
    ) -> None:
        self.user, self._language, self._waiting_timeout = user, language, waiting_timeout
        self.index, self._slots, self._metrics = index, slots, metrics
        self._compute: Compute | None = compute
        self._is_room, self._on_loop, self._listen = wire.room, on_loop, listen
        self._writer = AnswerWriter(wire, on_first=self._note_first, listen=listen)
        self._delivery: Delivery | None = None
        self._started = time.monotonic()
        self._usage = usage.Usage()
        self._unclaimed = threading.Lock()
        self._outcome = "answered"
        self._failure = self._farewell = self._dismissal = ""

    def produce(self, delivery: Delivery) -> None:
        """Run the backend and bring its pieces to the reader; the slot is free before the end."""
        self._delivery = delivery
        self._writer.open(delivery)
        delivery.on_gone = self._reader_left
        if delivery.gone:
            self._reader_left()
        with usage.counting(self._usage):
            self._run(delivery)
        with self._slots.ending(self):
            self._slots.free(self)  # before the last pieces: the next chat may come at once
            self._report()
            if not self._claim_ending():
                delivery.wait_until_gone()
            for step in self._ending():
                if step.pause:
                    delivery.rest(step.pause)
                delivery.write(step.data)
            delivery.finish()

    def _pieces(self) -> AsyncGenerator[Piece, None]:
        """Call the backend once, and forget the request, which may be large."""
        assert self._compute is not None
        compute, self._compute = self._compute, None
        return compute()

    def _wait_for_slot(self) -> bool:
        """Wait in the queue and send heartbeats; return False if the chat was stopped meanwhile.

        Raises AnswerError with a sentence for the person after `waiting_timeout`, and when the
        process ends first.
        """
        self.stream.on_stop(self._leave_queue)
        while True:
            left = self._waiting_timeout - self.ticket.age()
            if self.ticket.wait(max(0.0, min(left, HEARTBEAT_SECONDS))):
                if self._dismissal and not self.ticket.admitted:
                    raise AnswerError(self._localized(self._dismissal))
                return self.ticket.admitted and not self.stream.cancelled
            if left > HEARTBEAT_SECONDS:
                place = self._slots.place(self)
                self._writer.write(ProgressChunk(*place, "waiting for a free slot"))
            elif self._slots.leave_queue(self):
                raise AnswerError(self._localized(sentences.NO_SLOT))

    def _leave_queue(self) -> None:
        self._slots.leave_queue(self)

    def _localized(self, sentence: str) -> str:
        chinese = sentences.reads_chinese(self._language)
        return sentences.translate(sentence) if chinese else sentence

    def _run(self, delivery: Delivery) -> None:
        try:
            if self._wait_for_slot():
                self._metrics.waited.observe(self.ticket.waited)
                write = self._writer.write
                self.stream.run(self._pieces(), write, on_loop=self._on_loop, room=delivery)
                if not self.stream.cancelled:
                    seconds = time.monotonic() - self._started
                    self._metrics.answered(seconds, self._writer.characters)
        except Gone:
            self._reader_left()
        except BaseException as error:  # noqa: BLE001 - a backend may raise anything
            self._fail(error)
        finally:
            self.stream.end()  # also where it never began

    def _fail(self, error: BaseException) -> None:
        """End the answer with the cause, if it is meant for the person, else with an apology."""
        if self.stream.cancelled:
            return logger.debug("a cancelled answer ended in %s", describe(error))
        if isinstance(error, AnswerError):
            self._outcome = "declined"
        else:
            self._outcome, self._failure = "failed", UNEXPECTED
            self._metrics.failed.inc()
            line = traceback_line(error, with_message=self._listen is not None)
            logger.error("the backend failed: %s", line)
        self._writer.exit_code = ExitCodeChunk.FAILURE
        if self._listen is not None:
            self._listen(f"{type(error).__name__}: {message_of(error)}")
        if not self._failure:
            self._decline(message_of(error))
        return None

    def _decline(self, sentence: str) -> None:
        """Say why there is no answer, or no more of it; the person reads it as text."""
        try:
            self._writer.write_sentence(sentence)
        except Gone:
            self._reader_left()

    def _note_first(self) -> None:
        self._metrics.first_piece.observe(time.monotonic() - self._started)

    def _claim_ending(self) -> bool:
        """Return True once: to the thread that ends the body."""
        return self._unclaimed.acquire(blocking=False)

    def _ending(self) -> list[Step]:
        """Return what comes behind the last piece; for the thread that claimed the ending.

        To a room without a word, both front ends say that the model is at fault.
        """
        told = self._outcome == "aborted" and self._writer.is_blank and self._is_room
        sentence = [Step(self._localized(sentences.STOPPED))] if told else []
        return sentence + self._writer.ending(
            failure=self._failure, note=self._farewell, usage=self._usage
        )

    def _reader_left(self) -> None:
        """Stop the backend because the reader has left; never waits for it."""
        if self._slots.give_up(self):
            self._outcome = "left by the reader"
            self._metrics.disconnected.inc()
            self.stream.cancel()

    def abort(self) -> None:
        """Stop the backend because the person said so; the answer ends within CANCEL_GRACE."""
        self._outcome, self._writer.exit_code = "aborted", ExitCodeChunk.OK
        self._metrics.aborted.inc()
        self._stop()
        if not self.stream.ended.wait(CANCEL_GRACE):
            self.leave_behind()

    def cut_short(self) -> None:
        """Stop the backend because the process ends, and add a side note that says so."""
        self._dismissal = sentences.STOPPING
        if self._slots.leave_queue(self):
            return
        self._outcome, self._farewell = "cut short", self._localized(sentences.CUT_SHORT)
        self._writer.exit_code = ExitCodeChunk.INCOMPLETE
        self._stop()

    def _stop(self) -> None:
        self._slots.interrupt(self)  # first: it calls nothing for a chat that has ended
        self.stream.cancel()

    def leave_behind(self) -> None:
        """End the answer although its backend, which blocks, has not ended."""
        if self._slots.free(self) and self._delivery is not None and self._claim_ending():
            logger.info("endpoint %d: the backend blocks; its answer ends without it", self.index)
            self._delivery.abandon([step.data for step in self._ending()])

    def hurry(self) -> None:
        """Send the last pieces without pauses: the process ends."""
        if self._delivery is not None:
            self._delivery.hurry()

    def _report(self) -> None:
        waited = self.ticket.waited if self.ticket.admitted else self.ticket.age()
        logger.info(
            "endpoint %d: %s, %d characters in %.2f s%s",
            self.index,
            self._outcome,
            self._writer.characters,
            time.monotonic() - self._started,
            f", {waited:.2f} s of them in the queue" if waited > NOTABLE_WAIT else "",
        )

"""One answer under way: from its place in the queue to its last chunk."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from . import sentences, usage
from .admission import Ticket
from .chunks import BaseChunk, ExitCodeChunk, Piece, ProgressChunk, TextChunk
from .delivery import Delivery
from .errors import UNEXPECTED, AnswerError, BadPiece, Gone, describe, traceback_line
from .metrics import Metrics
from .stream import Stream
from .wire import Ending, Step, Wire

logger = logging.getLogger(__name__)

PATIENCE = 0.05  # seconds that a cancelled generator gets to end its answer itself
HEARTBEAT_SECONDS = 10.0  # between two signs of life to a chat that waits for a slot
WAITING_TIMEOUT = 240.0  # seconds; Kuwa's front end gives up after 300 without a byte
NOTABLE_WAIT = 0.05  # seconds in the queue that the log speaks of
CUT_SHORT = "The executor was stopped: this answer ends early."  # a side note

Compute = Callable[[], AsyncGenerator[Piece, None]]


class Slots(Protocol):
    """What an answer needs of the slots and endpoints."""

    def release(self, answer: Answer) -> None:
        """Take an answer's slot back, whose computation has ended, and its endpoint."""

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
        self._wire = wire
        self._on_loop, self._listen = on_loop, listen
        self._delivery: Delivery | None = None
        self._started = time.monotonic()
        self._characters = self._extra_cost = 0  # of texts; of chunks beyond their text
        self._usage = usage.Usage()
        self._outcome = "answered"
        self._exit_code = ExitCodeChunk.OK
        self._failure = self._farewell = self._dismissal = ""

    def produce(self, delivery: Delivery) -> None:
        """Run the backend and bring its pieces to the reader; the slot is free before the end."""
        self._delivery = delivery
        delivery.encode = self._wire.encode
        delivery.on_gone = self._reader_left
        if delivery.gone:
            self._reader_left()
        with usage.counting(self._usage):
            self._run(delivery)
        with self._slots.ending(self):
            self._slots.release(self)  # before the last pieces: the next chat may come at once
            self._report()
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
        """Wait in the queue, with a sign of life now and then; return False if it was left.

        Raises AnswerError with a sentence if that was not the doing of the person.
        """
        self.stream.on_stop(self._leave_queue)
        while True:
            left = self._waiting_timeout - self.ticket.age()
            if self.ticket.wait(max(0.0, min(left, HEARTBEAT_SECONDS))):
                if self._dismissal and not self.ticket.admitted:
                    raise AnswerError(self._localized(self._dismissal))
                return self.ticket.admitted
            if left > HEARTBEAT_SECONDS:
                self._write(ProgressChunk(*self._slots.place(self), "waiting for a free slot"))
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
                self.stream.run(self._pieces(), self._write, on_loop=self._on_loop, room=delivery)
                if not self.stream.cancelled:
                    self._metrics.answered(time.monotonic() - self._started, self._characters)
        except Gone:
            self._reader_left()
        except BaseException as error:  # noqa: BLE001 - a backend may raise anything
            self._fail(error)
        finally:
            self.stream.ended.set()  # also where it never began

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
        self._exit_code = ExitCodeChunk.FAILURE
        if self._listen is not None:
            self._listen(f"{type(error).__name__}: {error}")
        if not self._failure:
            self._decline(str(error))
        return None

    def _decline(self, sentence: str) -> None:
        """Say why there is no answer, or no more of it; the person reads it as text."""
        self._wire.gate.close()
        try:
            self._put(self._wire.gate.feed(sentence))
        except Gone:
            self._reader_left()

    def _write(self, piece: Any) -> bool:
        """Send what the backend yielded without waiting; return whether there is room for more.

        Text alone may be sent together with its neighbours.
        """
        if isinstance(piece, str):
            return self._write_text(piece)
        if type(piece) is TextChunk and not piece.annotations:
            self._extra_cost += len(piece) - len(piece.value)
            return self._write_text(piece.value)
        chunks = [_chunk(one) for one in _listed(piece)]
        for chunk in chunks:
            self._note(chunk)
        has_room = True
        for data in self._wire.pieces(chunks):
            has_room = self._put(data)
        return has_room

    def _write_text(self, text: str) -> bool:
        self._count(text)
        passed = self._wire.gate.feed(text)
        return self._put(passed) if passed or not text else True

    def _note(self, chunk: BaseChunk) -> None:
        """Keep what is counted, logged and remembered of a chunk."""
        self._extra_cost += len(chunk)
        if isinstance(chunk, TextChunk):
            self._count(chunk.value)
            self._extra_cost -= len(chunk.value)
        elif self._listen is not None:
            self._listen(repr(chunk.__jsonencode__()))
        if isinstance(chunk, ExitCodeChunk):
            self._exit_code = int(chunk.exit_code)

    def _count(self, text: str) -> None:
        if text and not self._characters:
            self._metrics.first_piece.observe(time.monotonic() - self._started)
        self._characters += len(text)
        if text and self._listen is not None:
            self._listen(text)

    def _put(self, data: str | bytes) -> bool:
        assert self._delivery is not None
        return self._delivery.put(data)

    def _ending(self) -> list[Step]:
        """Return what comes behind the last piece; to be called once."""
        self._wire.gate.add(self._farewell)
        read, written = self._usage.prompt_tokens, self._usage.completion_tokens
        if not self._usage.counted:
            written = self._characters + self._extra_cost
        return self._wire.ending(Ending(self._exit_code, self._failure, read, written))

    def _reader_left(self) -> None:
        """Stop the backend for a reader who is no longer there; never waits."""
        if self._slots.give_up(self):
            self._outcome = "left by the reader"
            self._metrics.disconnected.inc()
            self.stream.cancel()

    def abort(self) -> None:
        """Stop the backend because the person said so; the answer ends within PATIENCE."""
        self._outcome, self._exit_code = "aborted", ExitCodeChunk.OK
        self._metrics.aborted.inc()
        self._stop()
        if not self.stream.ended.wait(PATIENCE):
            self.leave_behind()

    def cut_short(self) -> None:
        """Stop the backend because the process ends, and tell the person; never waits."""
        self._dismissal = sentences.STOPPING
        if self._slots.leave_queue(self):
            return
        self._outcome, self._farewell = "cut short", CUT_SHORT
        self._exit_code = ExitCodeChunk.INCOMPLETE
        self._stop()

    def _stop(self) -> None:
        self._slots.interrupt(self)  # first: it calls nothing for a chat that has ended
        self.stream.cancel()

    def leave_behind(self) -> None:
        """End the answer without its backend, which blocks."""
        if self._slots.free(self) and self._delivery is not None:
            logger.info("slot %d: the backend blocks; its answer ends without it", self.index)
            self._delivery.abandon([step.data for step in self._ending()])

    def hurry(self) -> None:
        """Send the last pieces without pauses: the process ends."""
        if self._delivery is not None:
            self._delivery.hurry()

    def _report(self) -> None:
        waited = self.ticket.waited if self.ticket.admitted else self.ticket.age()
        logger.info(
            "slot %d: %s, %d characters in %.2f s%s",
            self.index,
            self._outcome,
            self._characters,
            time.monotonic() - self._started,
            f", {waited:.2f} s of them in the queue" if waited > NOTABLE_WAIT else "",
        )


def _listed(piece: Any) -> list[Any]:
    return piece if isinstance(piece, list) else [piece]


def _chunk(piece: Any) -> BaseChunk:
    """Return what was yielded as a chunk; raises BadPiece for what is no piece of an answer."""
    if isinstance(piece, str):
        return TextChunk(piece)
    if isinstance(piece, BaseChunk):
        return piece
    raise BadPiece(f"llm_compute yielded {type(piece).__name__} instead of str or a chunk")

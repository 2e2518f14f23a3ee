"""One answer under way: from the moment it has a slot to its last chunk."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from . import usage
from .chunks import BaseChunk, ExitCodeChunk, Piece, TextChunk
from .delivery import Delivery
from .errors import UNEXPECTED, AnswerError, Gone, describe
from .metrics import Metrics
from .stream import Stream
from .wire import Ending, Step, Wire

logger = logging.getLogger(__name__)

PATIENCE = 0.05  # seconds that a cancelled generator gets to end its answer itself
CUT_SHORT = "The executor was stopped: this answer ends early."  # a side note

Compute = Callable[[], AsyncGenerator[Piece, None]]


class Slots(Protocol):
    """What an answer needs of the slots that it runs in."""

    def free(self, answer: Answer) -> bool:
        """Take an answer's slot back; return whether it still had one."""

    def ending(self, answer: Answer) -> AbstractContextManager[None]:
        """Keep the process from ending while an answer without a slot sends its last pieces."""

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
        wire: Wire,
        *,
        on_loop: bool = True,
        listen: Callable[[str], None] | None = None,
    ) -> None:
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
        self._failure = self._farewell = ""

    def produce(self, delivery: Delivery) -> None:
        """Run the backend and bring its pieces to the reader; the slot is free before the end."""
        self._delivery = delivery
        delivery.encode = self._wire.encode
        delivery.on_gone = self._reader_left
        if delivery.gone:
            self._reader_left()
        with usage.counting(self._usage):
            self._run()
        with self._slots.ending(self):
            self._slots.free(self)  # before the last pieces: the next chat may come at once
            self._report()
            for step in self._ending():
                if step.pause:
                    delivery.rest(step.pause)
                self._send(step.data)
            delivery.finish()

    def _pieces(self) -> AsyncGenerator[Piece, None]:
        """Call the backend once, and forget the request, which may be large."""
        assert self._compute is not None
        compute, self._compute = self._compute, None
        return compute()

    def _run(self) -> None:
        try:
            self.stream.run(self._pieces(), self._write, on_loop=self._on_loop)
            if not self.stream.cancelled:
                self._metrics.answered(time.monotonic() - self._started, self._characters)
        except Gone:
            self._reader_left()
        except BaseException as error:  # noqa: BLE001 - a backend may raise anything
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End the answer with the cause, if it is meant for the person, else with an apology."""
        if self.stream.cancelled:
            return logger.debug("a cancelled answer ended in %s", describe(error))
        if isinstance(error, AnswerError):
            self._outcome = "declined"
        else:
            self._outcome, self._failure = "failed", UNEXPECTED
            self._metrics.failed.inc()
            logger.error("the backend failed: %s", describe(error))
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
            self._send(self._wire.gate.feed(sentence))
        except Gone:
            self._reader_left()

    def _write(self, piece: Any) -> None:
        """Send what the backend yielded; text alone may be sent together with its neighbours."""
        if isinstance(piece, str):
            self._write_text(piece)
        elif type(piece) is TextChunk and not piece.annotations:
            self._extra_cost += len(piece) - len(piece.value)
            self._write_text(piece.value)
        else:
            chunks = [_chunk(one) for one in _listed(piece)]
            for chunk in chunks:
                self._note(chunk)
            for data in self._wire.pieces(chunks):
                self._send(data)

    def _write_text(self, text: str) -> None:
        self._count(text)
        passed = self._wire.gate.feed(text)
        if passed or not text:
            assert self._delivery is not None
            self._delivery.write(passed)

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

    def _send(self, data: str | bytes) -> None:
        assert self._delivery is not None
        if isinstance(data, str):
            self._delivery.write(data)
        else:
            self._delivery.write_frame(data)

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
        self._outcome, self._farewell = "cut short", CUT_SHORT
        self._exit_code = ExitCodeChunk.INCOMPLETE
        self._stop()

    def _stop(self) -> None:
        self.stream.cancel()
        self._slots.interrupt(self)

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
        logger.info(
            "slot %d: %s, %d characters in %.2f s",
            self.index,
            self._outcome,
            self._characters,
            time.monotonic() - self._started,
        )


def _listed(piece: Any) -> list[Any]:
    return piece if isinstance(piece, list) else [piece]


def _chunk(piece: Any) -> BaseChunk:
    """Return what was yielded as a chunk; raises TypeError for what is no piece of an answer."""
    if isinstance(piece, str):
        return TextChunk(piece)
    if isinstance(piece, BaseChunk):
        return piece
    raise TypeError(f"llm_compute yielded {type(piece).__name__} instead of str or a chunk")

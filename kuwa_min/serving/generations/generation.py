"""One generation: a chat from its place in the queue to the last byte of its response.

It ties together the endpoint and the slot (Slots), the backend's generator (GeneratorRunner), the
encoding of its pieces (PieceWriter) and the response's body (BodyWriter).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from typing import Protocol

from kuwa_min.chat import catalog
from kuwa_min.chat.chunks import ExitCodeChunk, Piece, ProgressChunk
from kuwa_min.chat.sentence import language_of, render, sentence_of
from kuwa_min.errors import UNEXPECTED, AnswerError, ClientDisconnected, describe, traceback_line
from kuwa_min.httpd.body_writer import BodyWriter
from kuwa_min.kernel.wire import AnswerEncoder, TimedWrite
from kuwa_min.serving import usage
from kuwa_min.serving.admission import Ticket
from kuwa_min.serving.event_loop import EventLoop
from kuwa_min.serving.metrics import Metrics

from .generator_runner import GeneratorRunner
from .piece_writer import PING_INTERVAL, PieceWriter

# How a generation ends. Threads: W, the connection's HTTP worker; A, any other: the worker of an
# abort request, the thread that noticed a disconnect, one of the drain.
#
# - By itself: W leaves `_run`, releases the endpoint, and ends the body.
# - Aborted by the user (A, `abort`) or cancelled at the end of the process (A,
#   `cancel_for_shutdown`): the generator is cancelled. One that ends within CANCEL_GRACE lets W end
#   the body as above. One that blocks is orphaned: A releases the endpoint and ends the body
#   (`detach`); W waits for the generator and finds nothing left to do.
# - The client disconnects: the generator is cancelled, and there is no body to end.
#
# The endpoint is released before the last byte goes out, since the Kernel may send the next chat as
# soon as it has read that. The slot is released where the generator really ends, by its runner: an
# orphan keeps its slot. Exactly one thread ends the body: the one that `_claim_end` answers True.

logger = logging.getLogger(__name__)

CANCEL_GRACE = 0.05  # seconds that a cancelled generator gets to end before it is orphaned
NOTABLE_WAIT = 0.05  # seconds in the queue from which on the log mentions them

Compute = Callable[[], AsyncGenerator[Piece, None]]


class SlotTable(Protocol):
    """What a generation needs of `slots.Slots`, the table of endpoints and slots."""

    def release(self, generation: Generation) -> bool:
        """Release the endpoint; return whether it was still held."""

    def flushing(self, generation: Generation) -> AbstractContextManager[None]:
        """Let the drain wait for this generation while it sends its last pieces."""

    def cancel_and_release(self, generation: Generation) -> bool:
        """Call the backend's abort() if due, release the endpoint; return whether it was held."""

    def call_abort(self, generation: Generation) -> None:
        """Call the backend's abort() unless other generations would suffer."""

    def leave_queue(self, generation: Generation) -> bool:
        """Dismiss a waiting generation; return False if it no longer waits."""

    def queue_position(self, generation: Generation) -> tuple[int, int]:
        """Return a waiting generation's position, 1 being the next, and the queue's length."""


class Generation:
    """One generation.

    index: of its endpoint. compute: calls the backend. loop: runs the generator; None: the HTTP
    worker thread does. log_content: gets every piece, for a log that may hold content. user: "" if
    unknown. language: the request's Accept-Language. waiting_timeout: seconds to wait for a slot.
    log_name: what the log calls it; "endpoint" and its index unless given.

    Slots calls `enqueue` when it gives the endpoint, before any other thread can see the object.
    """

    ticket: Ticket
    runner: GeneratorRunner

    def __init__(
        self,
        index: int,
        slots: SlotTable,
        metrics: Metrics,
        compute: Compute,
        encoder: AnswerEncoder,
        *,
        waiting_timeout: float,
        loop: EventLoop | None = None,
        log_content: Callable[[str], None] | None = None,
        user: str = "",
        peer: str = "",
        language: str | None = None,
        log_name: str = "",
    ) -> None:
        self.user, self.peer, self._waiting_timeout = user, peer, waiting_timeout
        self._language = language_of(language)
        self.index, self._slots, self._metrics = index, slots, metrics
        self._log_name = log_name or f"endpoint {index}"
        self._compute: Compute | None = compute
        self._loop, self._log_content = loop, log_content
        is_our_room = encoder.chat_room and encoder.errors_apart  # of our chat page, or a terminal
        self._says_stopped = encoder.chat_room and not is_our_room
        self._first_ping = 0.0 if is_our_room else PING_INTERVAL
        self._writer = PieceWriter(
            encoder, on_first=self._observe_first, log_content=log_content, language=self._language
        )
        self._body: BodyWriter | None = None
        self._started = time.monotonic()
        self._usage = usage.Usage()
        self._end_unclaimed = threading.Lock()
        self._outcome = "answered"
        self._failure = ""  # the sentence about an unexpected failure
        self._end_note = ""  # a side note of ours
        self._dismissal = ""  # the sentence for a chat that is dismissed from the queue

    def enqueue(self, ticket: Ticket, release_slot: Callable[[], object]) -> None:
        """Take the place in the queue; release_slot is called where the generator has ended."""
        self.ticket, self.runner = ticket, GeneratorRunner(release_slot)

    # -- on the HTTP worker thread

    def produce(self, body: BodyWriter) -> None:
        """Wait for a slot, run the backend and write its pieces; raises ClientDisconnected."""
        self._body = body
        self._writer.open(body)
        body.on_disconnect = self._client_disconnected
        if body.disconnected:
            self._client_disconnected()
        with usage.counting(self._usage):
            self._run(body)
        with self._slots.flushing(self):
            self._slots.release(self)  # before the last pieces: the next chat may come at once
            self._log_outcome()
            if not self._claim_end():
                body.wait_for_disconnect()
            for step in self._final_writes():
                if step.pause:
                    body.pause(step.pause)
                body.write(step.data)
            body.finish()

    def _run(self, body: BodyWriter) -> None:
        try:
            if self._wait_for_slot():
                self._metrics.waited.observe(self.ticket.waited)
                write = self._writer.write
                self.runner.run(self._start_backend(), write, loop=self._loop, backpressure=body)
                if not self.runner.cancelled:
                    seconds = time.monotonic() - self._started
                    self._metrics.observe_answer(seconds, self._writer.characters)
        except ClientDisconnected:
            self._client_disconnected()
        except BaseException as error:  # noqa: BLE001 - a backend may raise anything
            self._fail(error)
        finally:
            self.runner.end()  # also where it never ran

    def _wait_for_slot(self) -> bool:
        """Wait in the queue and send pings; return False if the chat was stopped meanwhile.

        Raises AnswerError with a sentence for the user after `waiting_timeout`, and when the
        process ends first.
        """
        self.runner.on_stop(self._leave_queue)
        interval = self._first_ping
        while True:
            left = self._waiting_timeout - self.ticket.age()
            if self.ticket.wait(max(0.0, min(left, interval))):
                if self._dismissal and not self.ticket.admitted:
                    raise AnswerError(self._dismissal)
                return self.ticket.admitted and not self.runner.cancelled
            if left > interval:
                position = self._slots.queue_position(self)
                self._writer.write(ProgressChunk(*position, "waiting for a free slot"))
                interval = PING_INTERVAL
            elif self._slots.leave_queue(self):
                raise AnswerError(catalog.NO_SLOT)

    def _leave_queue(self) -> None:
        self._slots.leave_queue(self)

    def _start_backend(self) -> AsyncGenerator[Piece, None]:
        """Call the backend once, and drop the request, which may be large."""
        assert self._compute is not None
        compute, self._compute = self._compute, None
        return compute()

    def _fail(self, error: BaseException) -> None:
        """Note how to end the response: with the error's sentence for the user, or an apology."""
        if self.runner.cancelled:
            logger.debug("a cancelled answer ended in %s", describe(error))
            return
        if isinstance(error, AnswerError):
            self._outcome = "declined"
        else:
            self._outcome, self._failure = "failed", UNEXPECTED
            self._metrics.failed.inc()
            line = traceback_line(error, with_message=self._log_content is not None)
            logger.error("the backend failed: %s", line)
        self._writer.exit_code = ExitCodeChunk.FAILURE
        sentence = sentence_of(error)
        if self._log_content is not None:
            shown = render(sentence, self._language)
            self._log_content(f"{type(error).__name__}: {shown}")
        if not self._failure:
            self._write_sentence(sentence)

    def _write_sentence(self, sentence: str) -> None:
        try:
            self._writer.write_sentence(sentence)
        except ClientDisconnected:
            self._client_disconnected()

    def _observe_first(self) -> None:
        self._metrics.first_piece.observe(time.monotonic() - self._started)

    def _log_outcome(self) -> None:
        waited = self.ticket.waited if self.ticket.admitted else self.ticket.age()
        logger.info(
            "%s: %s, %d characters in %.2f s%s",
            self._log_name,
            self._outcome,
            self._writer.characters,
            time.monotonic() - self._started,
            f", {waited:.2f} s of them in the queue" if waited > NOTABLE_WAIT else "",
        )

    # -- on any thread

    def abort(self) -> None:
        """Stop because the user asked for it; the response ends within CANCEL_GRACE."""
        self._outcome, self._writer.exit_code = "aborted", ExitCodeChunk.OK
        self._metrics.aborted.inc()
        self._cancel()
        if not self.runner.ended.wait(CANCEL_GRACE):
            self.detach()

    def cancel_for_shutdown(self) -> None:
        """Stop because the process ends, and say so in a side note; does not wait."""
        self._dismissal = catalog.STOPPING
        if self._slots.leave_queue(self):
            return
        self._outcome = "cut short"
        self._end_note = catalog.CUT_SHORT
        self._writer.exit_code = ExitCodeChunk.INCOMPLETE
        self._cancel()

    def detach(self) -> None:
        """Release the endpoint and end the body although the generator, which blocks, goes on."""
        if self._slots.release(self) and self._body is not None and self._claim_end():
            logger.info("%s: the backend blocks; its answer ends without it", self._log_name)
            self._body.close_early([step.data for step in self._final_writes()])

    def skip_pauses(self) -> None:
        """Send the last pieces without pauses between them: the process ends."""
        if self._body is not None:
            self._body.skip_pauses()

    def _client_disconnected(self) -> None:
        """Stop because there is no client to write to; does not wait."""
        if self._slots.cancel_and_release(self):
            self._outcome = "left by the reader"
            self._metrics.disconnected.inc()
            self.runner.cancel()

    def _cancel(self) -> None:
        self._slots.call_abort(self)  # first: it calls nothing for a generation that has ended
        self.runner.cancel()

    def _claim_end(self) -> bool:
        """Return True to the first caller: that thread ends the body."""
        return self._end_unclaimed.acquire(blocking=False)

    def _final_writes(self) -> list[TimedWrite]:
        """Return the writes that follow the last piece; for the thread that claimed the end.

        In a chat room, both front ends take an answer without a word for a fault of the model;
        clients of ours do not.
        """
        wordless = self._outcome == "aborted" and self._writer.is_blank and self._says_stopped
        sentence = [TimedWrite(catalog.STOPPED.render(self._language))] if wordless else []
        return sentence + self._writer.final_writes(
            failure=self._failure, note=self._end_note, usage=self._usage
        )

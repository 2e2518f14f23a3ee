"""Let many chats share one model: one thread owns it, and computes a step for all of them in turn.

Knows no library: a backend gives the batch, which computes.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kuwa_min.errors import describe
from kuwa_min.prompt import SIDE_NOTE
from kuwa_min.text import StopWords

logger = logging.getLogger(__name__)

STEP_SECONDS = 10.0  # for which the end of the process waits for the step that is under way
SOON, LONGEST = 0.01, 0.05  # seconds for each chat and for all: tokens that are closer go to the
# chat's thread together, because waking it keeps the engine waiting. Slower models notice nothing.
LATE = SIDE_NOTE.format("The answer took longer than {:g} s and was cut off.")


class Request:
    """One answer: what is to be computed, its text as it comes, and whether anybody wants it.

    prompt: the tokens to read; options: the generation options; seconds: the longest time that
    computing may take, None for no limit; extra: what else the model reads, as its backend knows.
    The engine's thread calls start, say, flush, note and finish, and looks at `over` between two
    steps; the chat's thread calls take, and any thread may cancel.
    """

    def __init__(
        self,
        prompt: list[int],
        options: dict[str, Any],
        *,
        stop: Sequence[str] = (),
        seconds: float | None = None,
        extra: Any = None,
    ) -> None:
        self.prompt, self.options, self.extra = prompt, options, extra
        self.reused = 0  # tokens of the prompt that need not be computed
        self.written = 0  # tokens of the answer, counted by who computes them
        self._stop, self._seconds = StopWords(stop), seconds
        self._deadline = float("inf")
        self._pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        self._unsaid, self._handed_over = "", 0.0
        self.soon = SOON
        self._error: BaseException | None = None
        self.begun = self.cancelled = self.finished = False
        self.on_cancel: Callable[[], None] | None = None  # called by whoever cancels
        self.ended = False  # for whoever takes
        self.side_note = ""  # for the person, after the answer

    # -- the chat's thread

    def take(self, seconds: float | None = None) -> str:
        """Wait for text and return all that is there; raises what computing raised.

        Returns nothing at the answer's end, or after so many seconds.
        """
        if self._error is not None:
            self.ended = True
            raise self._error
        try:
            piece = self._pieces.get(timeout=seconds)
        except queue.Empty:
            return ""
        text = ""
        while isinstance(piece, str):
            text += piece
            try:
                piece = self._pieces.get_nowait()
            except queue.Empty:
                return text
        self._error = piece
        if piece is not None and not text:
            return self.take()
        self.ended = piece is None
        return text

    def cancel(self) -> None:
        """Let the engine stop before its next step, and whoever takes go on; never waits."""
        self.cancelled = True
        self._pieces.put(None)
        if self.on_cancel is not None:
            self.on_cancel()

    # -- the engine's thread

    @property
    def late(self) -> bool:
        """Tell whether computing has taken too long."""
        return time.monotonic() > self._deadline

    @property
    def over(self) -> bool:
        """Tell whether the engine is to stop: stop word, time, or nobody waits any more."""
        return self.cancelled or self._stop.hit or self.late

    def start(self) -> None:
        """Count the time from now on."""
        self.begun = True
        if self._seconds:
            self._deadline = time.monotonic() + self._seconds

    def say(self, text: str) -> None:
        """Add text to the answer, up to the first stop word."""
        self._unsaid += self._stop.feed(text)
        now = time.monotonic()
        if self._unsaid and now - self._handed_over >= self.soon:
            self._handed_over = now
            self.flush()

    def flush(self) -> None:
        """Hand over what was said, because the next step may take long."""
        if self._unsaid:
            self._pieces.put(self._unsaid)
            self._unsaid = ""

    def note(self, text: str) -> None:
        """Tell the person something that is not part of the answer."""
        if not (self.cancelled or self._stop.hit):
            self._unsaid += self._stop.finish() + text

    def finish(self, error: BaseException | None = None) -> None:
        """End the answer, with what went wrong if something did; once."""
        if self.finished:
            return
        self.finished = True
        if not self._stop.hit:
            self._unsaid += self._stop.finish()
        if self.late and self._seconds:
            self.note(LATE.format(self._seconds))
        self.flush()
        self._pieces.put(error)


class Batch(Protocol):
    """What computes several requests, on the engine's thread only."""

    def has_room(self) -> bool:
        """Tell whether another request can begin; true while nothing is computed."""

    def is_busy(self) -> bool:
        """Tell whether there is something to compute."""

    def add(self, request: Request) -> None:
        """Begin with a request at the next step."""

    def step(self) -> None:
        """Compute the next step of all; finish the requests that end with it."""

    def drop(self) -> None:
        """Forget everything: the requests were ended."""


class OneByOne:
    """The batch of a model that computes one request at a time: an answer is a single step."""

    def __init__(self, compute: Callable[[Request], None]) -> None:
        self._compute = compute
        self._current: Request | None = None

    def has_room(self) -> bool:
        """Tell whether another request can begin."""
        return self._current is None

    def is_busy(self) -> bool:
        """Tell whether there is something to compute."""
        return self._current is not None

    def add(self, request: Request) -> None:
        """Begin with a request at the next step."""
        self._current = request

    def step(self) -> None:
        """Compute an answer from its first token to its last."""
        assert self._current is not None
        self._compute(self._current)
        self._current.finish()
        self._current = None

    def drop(self) -> None:
        """Forget the request."""
        self._current = None


class Engine:
    """The thread that owns the model."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._begun: list[Request] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        # native code of a thread that Python ends in the middle may abort the process
        atexit.register(self.close)

    def submit(self, request: Request) -> None:
        """Put a request at the end of the line; never waits."""
        self._inbox.put(request)

    def close(self) -> None:
        """Stop what is computed, and wait for the end of the step that is under way."""
        self._closing = True
        self._inbox.put(None)
        for request in list(self._begun):
            request.cancel()
        self._thread.join(STEP_SECONDS)
        atexit.unregister(self.close)

    def _run(self) -> None:
        while not self._closing:
            try:
                self._admit()
                if self._batch.is_busy():
                    self._batch.step()
            except BaseException as error:  # noqa: BLE001 - it belongs to chats, not to this thread
                self._fail(error)
        self._fail(None)
        while not self._inbox.empty():
            request = self._inbox.get()
            if request is not None:
                request.finish()

    def _admit(self) -> None:
        """Begin with those who wait, as many as there is room for; wait for one if idle."""
        self._begun = [request for request in self._begun if not request.finished]
        for request in self._begun:
            request.soon = min(SOON * len(self._begun), LONGEST)
        while self._batch.has_room():
            try:
                request = self._inbox.get(block=not self._batch.is_busy())
            except queue.Empty:
                return
            if request is None:
                return
            request.start()
            if request.over:
                request.finish()
                continue
            self._begun.append(request)
            self._batch.add(request)

    def _fail(self, error: BaseException | None) -> None:
        """End what is being computed, after a failure that no single request is to blame for."""
        if error is not None:
            logger.debug("the engine failed: %s", describe(error))
        for request in self._begun:
            request.finish(error)  # nothing if it has come to its end
        try:
            self._batch.drop()
        except Exception as failure:  # noqa: BLE001 - others may have better luck
            logger.error("the engine could not clear up: %s", describe(failure))

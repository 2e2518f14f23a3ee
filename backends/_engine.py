"""Let many chats share one model: one thread owns it, and computes one request after the other.

Knows no library: a backend gives the function that computes one request.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from kuwa_min.errors import describe
from kuwa_min.prompt import SIDE_NOTE
from kuwa_min.text import StopWords

logger = logging.getLogger(__name__)

STEP_SECONDS = 10.0  # for which the end of the process waits for the step that is under way
LATE = SIDE_NOTE.format("The answer took longer than {:g} s and was cut off.")


class Request:
    """One answer: what is to be computed, its text as it comes, and whether anybody wants it.

    prompt: the tokens to read; options: the generation options; seconds: the longest time that
    computing may take, None for no limit. The engine's thread calls start, say and note, and
    looks at `over` at every token; the chat's thread calls take and cancel.
    """

    def __init__(
        self,
        prompt: list[int],
        options: dict[str, Any],
        *,
        stop: Sequence[str] = (),
        seconds: float | None = None,
    ) -> None:
        self.prompt, self.options = prompt, options
        self._stop, self._seconds = StopWords(stop), seconds
        self._deadline = float("inf")
        self._pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        self.cancelled = False
        self.ended = False

    def take(self, seconds: float) -> str:
        """Return the next piece, or nothing after so many seconds; raises what computing raised."""
        try:
            piece = self._pieces.get(timeout=seconds)
        except queue.Empty:
            return ""
        self.ended = not isinstance(piece, str)
        if isinstance(piece, BaseException):
            raise piece
        return piece or ""

    def cancel(self) -> None:
        """Let the engine stop at its next token; never waits."""
        self.cancelled = True

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
        if self._seconds:
            self._deadline = time.monotonic() + self._seconds

    def say(self, text: str) -> None:
        """Add text to the answer, up to the first stop word."""
        self._put(self._stop.feed(text))

    def note(self, text: str) -> None:
        """Tell the person something that is not part of the answer."""
        if not (self.cancelled or self._stop.hit):
            self._put(self._stop.finish() + text)

    def finish(self, error: BaseException | None = None) -> None:
        """End the answer, with what went wrong if something did."""
        if not self._stop.hit:
            self._put(self._stop.finish())
        if self.late and self._seconds:
            self.note(LATE.format(self._seconds))
        self._pieces.put(error)

    def _put(self, text: str) -> None:
        if text:
            self._pieces.put(text)


class Engine:
    """The thread that owns the model."""

    def __init__(self, compute: Callable[[Request], None]) -> None:
        self._compute = compute
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._current: Request | None = None
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
        current = self._current
        if current is not None:
            current.cancel()
        self._thread.join(STEP_SECONDS)
        atexit.unregister(self.close)

    def _run(self) -> None:
        for request in iter(self._inbox.get, None):
            self._current = request
            self._serve(request)
            self._current = None

    def _serve(self, request: Request) -> None:
        request.start()
        try:
            if not (request.cancelled or self._closing):
                self._compute(request)
        except BaseException as error:  # noqa: BLE001 - it belongs to the chat, not to this thread
            logger.debug("the engine failed: %s", describe(error))
            request.finish(error)
        else:
            request.finish()

"""One request of a chat as the engine computes it: its prompt, options, deadline and text."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from typing import Any

from kuwa_min.prompt import SIDE_NOTE
from kuwa_min.sentences import TIMED_OUT, Sentence
from kuwa_min.text import StopWords

SOON = 0.01  # seconds between two pieces of text, see Engine


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
        self.side_notes: list[str] = []  # on the answer, shown behind it
        self.prompt_note = ""  # on what the prompt lacks, shown behind those

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

    def note(self, sentence: Sentence) -> None:
        """Add a side note, unless the answer has ended otherwise."""
        if not (self.cancelled or self._stop.hit):
            self.side_notes.append(SIDE_NOTE.format(sentence))

    def finish(self, error: BaseException | None = None) -> None:
        """End the answer, with what went wrong if something did; once."""
        if self.finished:
            return
        self.finished = True
        if not self._stop.hit:
            self._unsaid += self._stop.finish()
        if self.late and self._seconds and error is None:
            self.note(TIMED_OUT.format(f"{self._seconds:g}"))
        self.flush()
        self._pieces.put(error)

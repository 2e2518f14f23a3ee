"""The text of one answer: its thoughts shown as asked for, the answer up to a stop word. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from kuwa_min.chat.text import StopWords

from . import display
from .splitter import ANSWER, MARKUP, THOUGHT, Part, ThoughtSplitter


class Splitter(Protocol):
    """Splits the text of a model into thoughts and answer, as ThoughtSplitter does."""

    @property
    def is_thinking(self) -> bool:
        """Tell whether a thought is open."""

    @property
    def closing(self) -> str:
        """Return the text that ends the thought that is open; "" if that is unknown."""

    @property
    def passes_all(self) -> bool:
        """Tell whether text that is not hidden is passed on as it is, as a part of the answer."""

    def feed(self, text: str, *, hidden: bool = False) -> list[Part]:
        """Return what the text makes clear; hidden: it is the markup of a special token."""

    def finish(self) -> list[Part]:
        """Return what was held until the end."""


class WholeText:
    """A Splitter that takes all text for the answer."""

    is_thinking, closing, passes_all = False, "", True

    def feed(self, text: str, *, hidden: bool = False) -> list[Part]:
        """Return the text; hidden: it is the markup of a special token."""
        return [(MARKUP if hidden else ANSWER, text)] if text else []

    def finish(self) -> list[Part]:
        """Return nothing: no text is held."""
        return []


class AnswerText:
    """Makes the text to show of a model's text: feed() it, then finish().

    splitter: for this answer; mode: one of display.MODES; stop: texts that end the answer, but not
    a thought.
    """

    def __init__(
        self,
        splitter: Splitter | None = None,
        mode: str = display.HIDE,
        stop: Sequence[str] = (),
    ) -> None:
        self._splitter = ThoughtSplitter() if splitter is None else splitter
        self._display, self._stop = display.create(mode), StopWords(stop)
        self._passes = False  # text is the answer's, without a look at it
        self._has_thought = self._has_answer = False
        self._is_told = False  # that a thought is one, by what it came in

    @property
    def hit(self) -> bool:
        """Tell whether a stop word has ended the answer."""
        return self._stop.hit

    @property
    def is_thinking(self) -> bool:
        """Tell whether a thought is open."""
        return self._is_told or (not self._passes and self._splitter.is_thinking)

    @property
    def closing(self) -> str:
        """Return the text that ends the thought that is open; "" if that is unknown."""
        return self._splitter.closing

    @property
    def is_only_thought(self) -> bool:
        """Tell whether there was a thought and no answer."""
        return self._has_thought and not self._has_answer

    @property
    def has_thought_apart(self) -> bool:
        """Tell whether take_thought() has something to return."""
        return bool(self._display.apart)

    def take_thought(self) -> str:
        """Return what has come of thoughts that are shown apart."""
        return self._display.take()

    def feed(self, text: str, *, hidden: bool = False) -> str:
        """Return the text to show now; hidden: it is the markup of a special token."""
        if self._passes and not hidden:
            return self._stop.feed(text)
        shown = self._show(self._splitter.feed(text, hidden=hidden))
        self._passes = self._has_answer and self._splitter.passes_all
        return shown

    def think(self, text: str) -> str:
        """Return what to show of a thought that is known to be one."""
        self._is_told = True
        return self._think(text)

    def finish(self) -> str:
        """Return what was held until the end."""
        shown = self._show(self._splitter.finish()) + self._display.finish()
        return shown if self._stop.hit else shown + self._stop.finish()

    def _think(self, text: str) -> str:
        self._has_thought = self._has_thought or not text.isspace()
        return self._display.feed(text)

    def _answer(self, text: str) -> str:
        self._is_told = False
        self._has_answer = self._has_answer or bool(text.strip())
        return self._display.finish() + self._stop.feed(text)

    def _show(self, parts: Iterable[Part]) -> str:
        shown = ""
        for kind, text in parts:
            if kind == THOUGHT:
                shown += self._think(text)
            elif kind == ANSWER:
                shown += self._answer(text)
            elif not self._splitter.is_thinking:
                shown += self._stop.feed(text, hidden=True)
        return shown

"""Show the events of an answer, harmless for a terminal, with thoughts and notes told apart."""

from __future__ import annotations

import os
from typing import TextIO

from kuwa_min.chat.sentence import ENGLISH, Language, render

from .answer import NOTE, PROGRESS, TEXT, THOUGHT, Event, Piece
from .sentences import NOTE_LINE, THINKING
from .visible_text import visible

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Screen:
    """The output of a chat. Its control sequences are the only ones, and need a terminal.

    shows_thoughts: False shows only that the model thinks.
    """

    def __init__(
        self, out: TextIO, language: Language = ENGLISH, *, shows_thoughts: bool = True
    ) -> None:
        self.shows_thoughts = shows_thoughts
        is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._language: Language = language
        self._out, self._has_styles = out, out.isatty() and not is_plain
        self._kind = TEXT  # of the last piece
        self._at_start = True  # of a line
        self._is_blank = True  # no text has come yet
        self._last = ""  # progress that was shown

    def begin(self) -> None:
        """Begin an answer."""
        self._kind, self._at_start, self._is_blank, self._last = TEXT, True, True, ""

    def show(self, event: Event) -> None:
        """Show an event; those of other kinds than pieces are not."""
        if isinstance(event, Piece) and event.kind == THOUGHT and not self.shows_thoughts:
            event = Piece(PROGRESS, THINKING)
        if not isinstance(event, Piece) or (event.kind, event.text) == (PROGRESS, self._last):
            return
        text = event.text
        if event.kind == PROGRESS:
            self._last = text
        if event.kind == TEXT and self._is_blank:
            text = text.lstrip("\n")
            self._is_blank = not text
        if not text:
            return
        if event.kind != self._kind:
            self.end_line()
        self._kind = event.kind
        if event.kind == NOTE:
            self.say(NOTE_LINE.format(text.strip()))
        elif event.kind == PROGRESS:
            self.say(event.text)
        else:
            self._write(text, is_dim=event.kind != TEXT)

    def say(self, line: str) -> None:
        """Write a line of ours in the user's language, or a note."""
        self.end_line()
        self._write(f"{render(line, self._language)}\n", is_dim=True)

    def end_line(self) -> None:
        """Begin a new line unless the last one has ended."""
        if not self._at_start:
            self._write("\n")

    def _write(self, text: str, *, is_dim: bool = False) -> None:
        shown = visible(text)
        if is_dim and self._has_styles:
            shown = f"{DIM}{shown}{PLAIN}"
        self._out.write(shown)
        self._out.flush()
        self._at_start = text.endswith("\n")

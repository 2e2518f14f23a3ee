"""What of a model's thoughts is shown: nothing, side notes, or text between tags. No I/O."""

from __future__ import annotations

from typing import Protocol

from kuwa_min.chat.side_notes import NOTE_BEGIN, NOTE_END, SIDE_NOTE

HIDE, NOTE, SHOW = MODES = ("hide", "note", "show")
APART = "apart"  # no mode of --thinking: for clients that get thoughts in a field of their own
LONGEST_PARAGRAPH = 2000  # characters of a thought in one side note
OPEN, CLOSE = "<think>", "</think>\n\n"  # whatever the model's own tags: histories are rid of them


class Display(Protocol):
    """Writes the thoughts of one answer: feed() each, then finish() it before the answer."""

    def feed(self, text: str) -> str:
        """Return what is shown of the next text of a thought."""

    def finish(self) -> str:
        """Return what is shown at the end of a thought, if one is open."""

    @property
    def apart(self) -> str:
        """Return what is kept of thoughts for a field of their own; empty but with APART."""

    def take(self) -> str:
        """Return what `apart` has, and keep it no longer."""


class NoDisplay:
    """Shows nothing."""

    apart = ""

    def take(self) -> str:
        """Return nothing: no thought is shown apart."""
        return ""

    def feed(self, text: str) -> str:
        """Return nothing."""
        return ""

    def finish(self) -> str:
        """Return nothing."""
        return ""


class NoteDisplay(NoDisplay):
    """Shows thoughts as side notes, one a paragraph: a stop then leaves none open."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, text: str) -> str:
        """Return side notes of the paragraphs that this text completes."""
        self._text += text
        paragraphs, gap, self._text = self._text.rpartition("\n\n")
        if not gap and len(self._text) > LONGEST_PARAGRAPH:
            paragraphs, self._text = self._text, ""
        return _side_note(paragraphs)

    def finish(self) -> str:
        """Return a side note of the rest."""
        text, self._text = self._text, ""
        return _side_note(text)


class TextDisplay(NoDisplay):
    """Shows thoughts as text, between the same tags for all models."""

    def __init__(self) -> None:
        self._blank, self._is_open = "", False

    def feed(self, text: str) -> str:
        """Return the text, behind a tag if it is the first one that is not blank."""
        if self._is_open:
            return text
        text, self._blank = self._blank + text, ""
        if text.isspace():
            self._blank, text = text, ""
        self._is_open = bool(text)
        return text and OPEN + text

    def finish(self) -> str:
        """Return the closing tag if a thought was shown."""
        was_open, self._is_open, self._blank = self._is_open, False, ""
        return CLOSE if was_open else ""


class ApartDisplay(NoDisplay):
    """Keeps thoughts to be taken, without the white space before the first one."""

    def __init__(self) -> None:
        self.apart = ""
        self._has_begun = False

    def feed(self, text: str) -> str:
        """Keep the text of a thought; nothing of it is part of the answer."""
        if not self._has_begun:
            text = text.lstrip()
            self._has_begun = bool(text)
        self.apart += text
        return ""

    def take(self) -> str:
        """Return what is kept."""
        taken, self.apart = self.apart, ""
        return taken


def create(mode: str) -> Display:
    """Return the display for a value of --thinking, or APART."""
    kinds: dict[str, type[Display]] = {
        HIDE: NoDisplay,
        NOTE: NoteDisplay,
        SHOW: TextDisplay,
        APART: ApartDisplay,
    }
    return kinds[mode]()


def _side_note(thought: str) -> str:
    for mark in (NOTE_BEGIN, NOTE_END):
        thought = thought.replace(mark, "")
    return SIDE_NOTE.format(thought.strip()) if thought.strip() else ""

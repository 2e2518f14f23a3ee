"""Separate side notes from the streamed text of an answer. No I/O here.

Facts about both front ends (rooms only) that this module and `wire` build on:
- A note is `<<<WARNING>>>...<<</WARNING>>>`. Both hold text that begins with `<` until it can no
  longer become the opening tag; text still held when the answer ends is lost.
- 0.4 works line by line: a note is recognised when a line's text ends with the closing tag.
  Anything after it in the same line, even a newline, loses the note and the rest of the answer.
- 0.3.4 works in windows of time, see `wire`.
So all text passes a gate: notes are collected and sent as one block after the text.
"""

from __future__ import annotations

from .sentence import Sentence

NOTE_BEGIN, NOTE_END = "<<<WARNING>>>", "<<</WARNING>>>"
SIDE_NOTE = Sentence(f"{NOTE_BEGIN}{{}}{NOTE_END}", f"{NOTE_BEGIN}{{}}{NOTE_END}")
LONGEST_OPEN = 16 << 10  # characters; a longer block that is not closed is text, not a note


class SideNoteGate:
    """Collect the side notes of one answer while its text passes through.

    The writer calls `feed` for every text, `close` at the end of the model's text, then `release`
    for the held text and `block` for the notes.
    """

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._held = ""  # a possible beginning of a tag, and one character before it
        self._open: str | None = None  # content of the open block so far

    def feed(self, text: str) -> str:
        """Take the next text of the answer; return the text to send now, held text included."""
        if "<" not in text and not self._held and self._open is None:
            return text
        passed = ""
        while text:
            if self._open is not None:
                text = self._collect(text)
                continue
            before, opened, text = (self._held + text).partition(NOTE_BEGIN)
            passed += self._hold_tail(before)
            if opened:
                self._open = ""
        return passed

    def _hold_tail(self, text: str) -> str:
        """Hold the suffix that could become a tag, and one character before it; return the rest.

        That character is sent together with the suffix if it is no tag: the front ends would lose a
        last text that begins with `<`. Called for the text before a block, too: it may be the last.
        """
        start = len(text) - tag_overlap(text)
        if start < len(text):
            start = max(0, start - 1)
        self._held = text[start:]
        return text[:start]

    def _collect(self, text: str) -> str:
        """Add text to the open block; return the text that follows the block."""
        block = (self._open or "") + text
        end = block.find(NOTE_END, max(0, len(self._open or "") - len(NOTE_END)))
        if end >= 0:
            self._open = None
            self.add(block[:end])
            return block[end + len(NOTE_END) :]
        if len(block) > LONGEST_OPEN:
            self._open = None
            return block
        self._open = block
        return ""

    def add(self, note: str) -> None:
        """Add a side note that is not part of the text."""
        note = note.replace(NOTE_BEGIN, "").replace(NOTE_END, "").strip()
        if note:
            self._notes.append(note)

    def close(self) -> None:
        """End a block that is still open, as a note: no more text of the model follows."""
        if self._open is not None:
            note, self._open = self._open, None
            self.add(note)

    def release(self) -> str:
        """Return the text that is held as a possible tag."""
        held, self._held = self._held, ""
        return held

    @property
    def notes(self) -> list[str]:
        """Return all notes."""
        return list(self._notes)

    def block(self) -> str:
        """Return all notes as one block, empty without notes."""
        return NOTE_BEGIN + "\n".join(self._notes) + NOTE_END if self._notes else ""


def tag_overlap(text: str) -> int:
    """Return the length of the longest suffix that is a prefix of the opening tag."""
    longest = min(len(NOTE_BEGIN) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(NOTE_BEGIN[:n])), 0)

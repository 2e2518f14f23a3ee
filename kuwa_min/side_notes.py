"""Keep side notes apart from the text of an answer, however it is cut into pieces. No I/O here.

Facts about both front ends (rooms only) that this module and `wire` build on:
- A note is `<<<WARNING>>>...<<</WARNING>>>`. Both hold back text that begins with `<` until it
  cannot become the opening tag any more; what they still hold when the answer ends is lost.
- 0.4 works line by line: a note is recognised when a line's text ends with the closing tag.
  Anything behind it in the same line, even a newline, loses the note and the rest of the answer.
- 0.3.4 works in windows of time, see `wire`.
So all text passes a gate: notes are collected and sent as one block behind the text.
"""

from __future__ import annotations

NOTE_BEGIN, NOTE_END = "<<<WARNING>>>", "<<</WARNING>>>"
LONGEST_OPEN = 16 << 10  # characters after which a block that is not closed was no note


class SideNoteGate:
    """Collect the side notes of one answer; `feed` returns the text that may be sent at once."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._held = ""  # what may be the beginning of a tag, and one character before it
        self._open: str | None = None  # what the block that is open holds so far

    def feed(self, text: str) -> str:
        """Take the next text of the answer; return what of it, and of before, is sent now."""
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
        """Hold the end that could become a tag, with a character to send it with; return the rest.

        So is the text before a block, behind which the text may end.
        """
        start = len(text) - tag_overlap(text)
        if start < len(text):
            start = max(0, start - 1)
        self._held = text[start:]
        return text[:start]

    def _collect(self, text: str) -> str:
        """Add text to the open block; return what does not belong to it."""
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
        """Take a side note that stands in no text."""
        note = note.replace(NOTE_BEGIN, "").replace(NOTE_END, "").strip()
        if note:
            self._notes.append(note)

    def close(self) -> None:
        """Make a note of a block that is still open: no more text of the model follows."""
        if self._open is not None:
            note, self._open = self._open, None
            self.add(note)

    def release(self) -> str:
        """Return the text that was held because it might have become a tag."""
        held, self._held = self._held, ""
        return held

    def block(self) -> str:
        """Return all notes as one whole block, empty if there are none."""
        return NOTE_BEGIN + "\n".join(self._notes) + NOTE_END if self._notes else ""


def tag_overlap(text: str) -> int:
    """Return how many characters at the end of text could be the beginning of the opening tag."""
    longest = min(len(NOTE_BEGIN) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(NOTE_BEGIN[:n])), 0)

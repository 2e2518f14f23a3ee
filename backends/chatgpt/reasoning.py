"""Write a model's reasoning as side notes. No I/O."""

from __future__ import annotations

from kuwa_min.chat.side_notes import NOTE_BEGIN, NOTE_END, SIDE_NOTE

LONGEST_PARAGRAPH = 2000  # characters of reasoning in one side note


class ReasoningNotes:
    """Write a model's reasoning as side notes, one a paragraph: a stop then leaves none open."""

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


def _side_note(reasoning: str) -> str:
    for mark in (NOTE_BEGIN, NOTE_END):
        reasoning = reasoning.replace(mark, "")
    return SIDE_NOTE.format(reasoning.strip()) if reasoning.strip() else ""

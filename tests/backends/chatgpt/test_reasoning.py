"""Reasoning as side notes."""

from __future__ import annotations

from backends.chatgpt.reasoning import LONGEST_PARAGRAPH, ReasoningNotes
from kuwa_min.chat.side_notes import SIDE_NOTE


def test_each_paragraph_is_a_note() -> None:
    """Which is closed, so that a stop leaves none open; marks in it go."""
    notes = ReasoningNotes()
    assert notes.feed("a\n") == ""
    assert notes.feed("\nb <<<WARNING>>>c") == SIDE_NOTE.format("a")
    assert notes.finish() == SIDE_NOTE.format("b c")
    assert notes.finish() == ""


def test_a_paragraph_without_an_end_is_cut() -> None:
    """Before it is long."""
    notes = ReasoningNotes()
    long = "x" * (LONGEST_PARAGRAPH + 1)
    assert notes.feed(long) == SIDE_NOTE.format(long)

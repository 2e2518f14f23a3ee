"""Thoughts are hidden, side notes, or text between the same tags for all models."""

from __future__ import annotations

import pytest

from kuwa_min.chat.thinking import display

PIECES = ("", "\n", "I think", " on.\n\nAnd", " on.\n")
NOTE = "<<<WARNING>>>{}<<</WARNING>>>"


@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        (display.HIDE, [""] * 6),
        (display.NOTE, ["", "", "", NOTE.format("I think on."), "", NOTE.format("And on.")]),
        (
            display.SHOW,
            ["", "", "<think>\nI think", " on.\n\nAnd", " on.\n", "</think>\n\n"],
        ),
        (display.APART, [""] * 6),
    ],
)
def test_what_is_shown(mode: str, shown: list[str]) -> None:
    """As it comes; a note is whole."""
    one = display.create(mode)
    assert [*map(one.feed, PIECES), one.finish()] == shown
    assert one.finish() == ""


@pytest.mark.parametrize("mode", display.MODES)
def test_a_thought_without_a_word_is_not_shown(mode: str) -> None:
    """As of a model that was told not to think."""
    one = display.create(mode)
    assert [one.feed("\n\n"), one.finish()] == ["", ""]


def test_notes_hold_no_marks_of_notes_and_are_bounded() -> None:
    """A thought about them would end its note; one without paragraphs would never be shown."""
    one = display.create(display.NOTE)
    assert one.feed("<<</WARNING>>>a<<<WARNING>>>") == ""
    assert one.finish() == NOTE.format("a")
    assert one.feed("a" * 2001) == NOTE.format("a" * 2001)


def test_a_thought_apart_is_taken_as_it_comes() -> None:
    """Without the white space before its first word; other displays keep nothing."""
    one = display.create(display.APART)
    taken = []
    for piece in PIECES:
        one.feed(piece)
        taken.append(one.take())
    assert taken == ["", "", "I think", " on.\n\nAnd", " on.\n"]
    assert [display.create(mode).take() for mode in display.MODES] == [""] * 3

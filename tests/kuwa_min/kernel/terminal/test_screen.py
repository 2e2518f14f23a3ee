"""What a terminal gets to see."""

from __future__ import annotations

import io

import pytest

from kuwa_min.kernel.terminal.answer import NOTE, PROGRESS, TEXT, THOUGHT, Finish, Piece
from kuwa_min.kernel.terminal.screen import Screen


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def shown(out: io.StringIO, *events: Piece | Finish) -> str:
    """Show an answer and return what was written."""
    screen = Screen(out)
    screen.begin()
    for one in events:
        screen.show(one)
    screen.end_line()
    return out.getvalue()


def test_kinds_begin_lines_of_their_own() -> None:
    """Progress once, thoughts, text without its leading newlines, a note, the end."""
    events = [
        Piece(PROGRESS, "waiting"),
        Piece(PROGRESS, "waiting"),
        Piece(THOUGHT, "hm"),
        Piece(TEXT, "\n\n"),
        Piece(TEXT, "\na"),
        Piece(TEXT, "b"),
        Piece(NOTE, "n\n"),
        Finish("stop"),
    ]
    assert shown(io.StringIO(), *events) == "waiting\nhm\nab\nnote: n\n"


def test_thoughts_can_be_hidden() -> None:
    """It says once that the model thinks."""
    out = io.StringIO()
    screen = Screen(out, shows_thoughts=False)
    screen.begin()
    for piece in (Piece(THOUGHT, "hm"), Piece(THOUGHT, "well"), Piece(TEXT, "a")):
        screen.show(piece)
    assert out.getvalue() == "thinking…\na"


def test_only_our_control_sequences_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dim for thoughts and notes; those of the model are spelled out, in every kind."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    evil = "\x1b[2J"
    kinds = (TEXT, THOUGHT, NOTE, PROGRESS)
    written = shown(Terminal(), *(Piece(kind, evil) for kind in kinds))
    assert written.replace("\x1b[2m", "").replace("\x1b[0m", "").count("\x1b") == 0
    assert written.count("\\x1b[2J") == len(kinds)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown(Terminal(), Piece(THOUGHT, evil))

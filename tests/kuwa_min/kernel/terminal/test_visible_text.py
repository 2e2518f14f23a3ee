"""What a model writes cannot control a terminal."""

from __future__ import annotations

import pytest

from kuwa_min.kernel.terminal.visible_text import visible


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x1b]52;c;ZXZpbA==\x1b\\", "\\x1b]52;c;ZXZpbA==\\x1b\\"),  # writes the clipboard
        ("\x9b2J", "\\x9b2J"),  # CSI in one character
        ("safe\r\x08evil\x7f", "safe\\x08evil\\x7f"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("\u202etxt.exe\u2066 \u2028", "\\u202etxt.exe\\u2066 \\u2028"),
        ("\ud83d", "\\ud83d"),
        ("héllo 你好 🙂 👩‍💻", "héllo 你好 🙂 👩‍💻"),
    ],
)
def test_controls_are_spelled_out_and_text_stays(hostile: str, shown: str) -> None:
    """Escape sequences, carriage returns, directions, surrogates; emoji with joiners stay."""
    assert visible(hostile) == shown


def test_no_control_character_passes() -> None:
    """Of the two ranges of controls."""
    every = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
    assert {one for one in visible(every) if not one.isprintable()} == {"\n", "\t"}

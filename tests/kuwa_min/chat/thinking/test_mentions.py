"""A tag that is quoted, or within a line of text, is a word."""

from __future__ import annotations

import pytest

from kuwa_min.chat.thinking.mentions import Line


@pytest.mark.parametrize(
    ("text", "quote"),
    [
        ("", ""),
        ("a", ""),
        ("a `", "`"),
        ('"a" and "', '"'),
        ('"a"', ""),
        ("```", "`"),
        ("don't '", ""),
        ("`\n", ""),
        ("`a\n`", "`"),
    ],
)
def test_a_quote_opens_at_the_end_of_a_line(text: str, quote: str) -> None:
    """In whatever pieces it comes; one that closes there opens nothing."""
    line, pieces = Line(), Line()
    line.feed(text)
    for one in text:
        pieces.feed(one)
    assert (line.quote, pieces.quote) == (quote, quote)


def test_opening_tags_within_text_are_words_at_the_end_of_their_line() -> None:
    """Those that the line closes are not, nor is one that stands alone in it."""
    line = Line()
    assert line.feed("a ") == 0
    line.open()
    line.open()
    line.close()
    assert line.feed(" b") == 0
    assert line.feed("\nc\n") == 1
    line.open()
    assert line.feed("\n") == 0
    assert line.feed("d\n") == 0

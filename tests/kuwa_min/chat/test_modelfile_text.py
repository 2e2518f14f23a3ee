"""The text of a Modelfile's arguments: values, quotes, comments, surrogates."""

from __future__ import annotations

from typing import Any

import pytest

from kuwa_min.chat.modelfile_text import (
    convert_value,
    extract_text_from_quotes,
    is_unicode,
    read_prompt,
    replace_surrogates,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("007", 7),
        ("9007199254740993", 9007199254740993),
        ("1.0", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("none", None),
        ("None", None),
        ("yes", "yes"),
        ("null", "null"),
        ("1.2.3", "1.2.3"),
        ("0x10", "0x10"),
        ("C#", "C#"),
        ("", ""),
        ("gpt-4o mini", "gpt-4o mini"),
        (None, None),
    ],
)
def test_a_value_becomes_what_it_looks_like(text: str | None, value: Any) -> None:
    """Int, else float, else true, false or none in any case, else text."""
    converted = convert_value(text)
    assert converted == value
    assert type(converted) is type(value)


def test_a_number_of_any_length_is_converted() -> None:
    """More digits than int() takes are a float, not an error."""
    assert convert_value("9" * 5000) == float("inf")


@pytest.mark.parametrize(
    ("quoted", "text"),
    [
        ('"This is a text"', "This is a text"),
        ("'This is a text'", "This is a text"),
        ('"""two\nlines"""', "two\nlines"),
        ('"It\'s fine"', "It's fine"),
        ("'Made with \"love\"'", 'Made with "love"'),
        ('"""He said "hello""""', 'He said "hello"'),
        ('  "spaces around"\n', "spaces around"),
        ('"  spaces inside  "', "  spaces inside  "),
        ("no quotes", "no quotes"),
        ("invalid 'syntax'", "invalid 'syntax'"),
        ("\"opened by one, closed by the other'", "\"opened by one, closed by the other'"),
        ('"never closed', '"never closed'),
        ('never opened"', 'never opened"'),
        ('""', ""),
        ('""""""', ""),
        ('"', '"'),
        ('"""', '"'),
        ('"""""', '"""'),
        ("'", "'"),
        ("", ""),
    ],
)
def test_quotes_go_only_if_the_same_one_opens_and_closes(quoted: str, text: str) -> None:
    """Quotes that are part of the text stay."""
    assert extract_text_from_quotes(quoted) == text


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ("Translate to English: ", "Translate to English: "),
        ("\n\nIn one line.\n", "\n\nIn one line.\n"),
        ("\t", "\t"),
        ("", ""),
        (' "spaces outside " \n', "spaces outside "),
        ("'one kind of quotes' ", "one kind of quotes"),
        ("\"opened here, closed there' ", "\"opened here, closed there' "),
        ("use C# here # and there ", "use C# here # and there "),
        ('Say "yes" or "no". ', 'Say "yes" or "no". '),
        ('Say "yes" # or "no"', 'Say "yes" # or "no"'),
        ('"yes" # or', '"yes" # or'),
        ('the sign " stands', 'the sign " stands'),
        ('a screen of 5"', 'a screen of 5"'),
    ],
)
def test_every_character_of_a_prompt_is_kept(args: str, text: str) -> None:
    """White space at the ends belongs to it; only quotes around the whole go."""
    assert read_prompt(args) == text


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ('Be kind."\n', "Be kind."),
        ('Say "hi" first."\n\n', 'Say "hi" first.'),
        ('Be kind." # or "rude"', "Be kind."),
        ('Be kind."# or not', "Be kind."),
        ('Two\nlines."""\t# both', "Two\nlines."),
    ],
)
def test_a_closing_quote_whose_opening_one_was_taken_ends_the_text(args: str, text: str) -> None:
    """The front end leaves it where a blank line or a comment stands behind it."""
    assert read_prompt(args) == text


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("plain", "plain"),
        ("\U0001f600 測試", "\U0001f600 測試"),
        ("a\ud800b\udfff", "a\ufffdb\ufffd"),
        ("\ud83d", "\ufffd"),
    ],
)
def test_a_lone_surrogate_is_replaced(text: str, whole: str) -> None:
    """One replacement character for each."""
    assert replace_surrogates(text) == whole
    assert is_unicode(text) is (text == whole)

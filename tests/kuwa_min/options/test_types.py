"""The types of options."""

from __future__ import annotations

import argparse

import pytest

from kuwa_min.options import types


@pytest.mark.parametrize(
    ("least", "most", "text", "value"),
    [(1, None, "1", 1), (1, None, "9" * 30, int("9" * 30)), (-1, 5, "-1", -1), (-1, 5, "5", 5)],
)
def test_whole_numbers_are_read(least: int, most: int | None, text: str, value: int) -> None:
    """From the least to the most."""
    assert types.whole(least, most)(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1", "1.0", "x", "1e3", " 1", "²", "１", "--1", "-"])
def test_others_are_refused(text: str) -> None:
    """With what is needed and what was found."""
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        types.whole(1)(text)
    assert str(refused.value) == f"a whole number of at least 1 is needed, not {text!r}"


@pytest.mark.parametrize("text", ["-2", "6", "99999999999999999999"])
def test_both_bounds_are_said(text: str) -> None:
    """Where there are two."""
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        types.whole(-1, 5)(text)
    assert str(refused.value) == f"a whole number from -1 to 5 is needed, not {text!r}"


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("AUTO", "auto"), ("7", 7)])
def test_a_number_may_be_left_to_the_program(text: str, value: int | str) -> None:
    """In either case of letters; then there is none."""
    assert types.whole_or_auto(1, 8)(text) == value
    assert types.unless_auto(value) == (None if value == "auto" else value)


@pytest.mark.parametrize("text", ["", "0", "9", "automatic", "1.5"])
def test_what_is_neither_number_nor_auto_is_refused(text: str) -> None:
    """With both."""
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        types.whole_or_auto(1, 8)(text)
    assert str(refused.value) == f"auto or a whole number from 1 to 8 is needed, not {text!r}"


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("0.5", 0.5), ("1e3", 1000)])
def test_seconds_are_read(text: str, value: float) -> None:
    """Zero only where that makes sense."""
    assert types.seconds(text) == value
    if value:
        assert types.positive_seconds(text) == value


@pytest.mark.parametrize("text", ["", "-1", "x", "nan", "inf", "1 s"])
def test_other_seconds_are_refused(text: str) -> None:
    """With what is needed and what was found."""
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        types.seconds(text)
    assert str(refused.value) == f"a number of seconds is needed, not {text!r}"
    for other in (text, "0"):
        with pytest.raises(argparse.ArgumentTypeError) as refused:
            types.positive_seconds(other)
        assert str(refused.value) == f"a number of seconds above 0 is needed, not {other!r}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("12345", 12345),
        ("500MB", 500_000_000),
        ("4GiB", 4 << 30),
        ("4G", 4 << 30),
        ("1.5 kib", 1536),
        ("2tb", 2 * 10**12),
        ("7B", 7),
    ],
)
def test_sizes_are_read(text: str, value: int) -> None:
    """MB has a million bytes, MiB and M 2^20, as nearly everywhere."""
    assert types.size(text) == value


@pytest.mark.parametrize("text", ["", "-1", "x", "1e3", "4 GiBs", "GiB", "0x10", "１GB", "9" * 20])
def test_other_sizes_are_refused(text: str) -> None:
    """With what is needed and what was found."""
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        types.size(text)
    assert str(refused.value) == f"a size such as 4GiB, 500MB or 0 is needed, not {text!r}"


def test_escaped_surrogates_without_a_partner_are_replaced() -> None:
    """So that engines and services can encode them; pairs are characters."""
    lone = r'["\uD800", "\ud83d\ude00"]'
    assert types.convert(list, lone) == ["\ufffd", "\U0001f600"]
    assert types.convert(dict, r'{"\ud800": ["\udfff"]}') == {"\ufffd": ["\ufffd"]}
    assert types.convert(types.Schema, r'{"const": "\ud800"}') == '{"const":"\ufffd"}'

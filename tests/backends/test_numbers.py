"""Numbers of the command line."""

from __future__ import annotations

import argparse

import pytest

from backends import _numbers


@pytest.mark.parametrize(
    ("least", "most", "text", "value"),
    [(1, None, "1", 1), (1, None, "9" * 30, int("9" * 30)), (-1, 5, "-1", -1), (-1, 5, "5", 5)],
)
def test_whole_numbers_are_read(least: int, most: int | None, text: str, value: int) -> None:
    """From the least to the most."""
    assert _numbers.whole(least, most)(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1", "1.0", "x", "1e3", " 1", "²", "１", "--1", "-"])
def test_others_are_refused(text: str) -> None:
    """With what is needed and what was found."""
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        _numbers.whole(1)(text)
    assert str(refused.value) == f"a whole number of at least 1 is needed, not {text!r}"


@pytest.mark.parametrize("text", ["-2", "6", "99999999999999999999"])
def test_both_bounds_are_said(text: str) -> None:
    """Where there are two."""
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        _numbers.whole(-1, 5)(text)
    assert str(refused.value) == f"a whole number from -1 to 5 is needed, not {text!r}"

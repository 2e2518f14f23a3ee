"""How long to wait for a service, and what the log may say of it."""

from __future__ import annotations

import email.utils
import time

import pytest

from backends._refusal import MOST_PATIENCE, TRIES, Passing, asked_to_wait, clean, wait_before


def test_waits_grow_until_nobody_waits_any_more() -> None:
    """Each about twice the one before, and never the same for all."""
    waits = [wait_before(attempt, Passing("s")) for attempt in range(1, TRIES + 1)]
    assert waits[-1] is None
    for number, wait in enumerate(waits[:-1]):
        assert wait is not None
        assert 0.75 * 0.5 * 2**number <= wait <= 0.5 * 2**number
    assert len({wait_before(1, Passing("s")) for _ in range(20)}) > 1


def test_a_service_that_says_how_long_is_obeyed_within_bounds() -> None:
    """But not past the last try."""
    assert wait_before(1, Passing("s", after=3)) == 3
    assert wait_before(1, Passing("s", after=MOST_PATIENCE + 1)) is None
    assert wait_before(TRIES, Passing("s", after=0)) is None


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({}, None),
    ],
)
def test_how_services_say_it(fields: dict[str, str], seconds: float | None) -> None:
    """In seconds, in milliseconds, or as a moment."""
    assert asked_to_wait(fields) == seconds


def test_a_moment_that_is_to_come_is_waited_for() -> None:
    """By this machine's clock."""
    found = asked_to_wait({"retry-after": email.utils.formatdate(time.time() + 60, usegmt=True)})
    assert found == pytest.approx(60, abs=2)


@pytest.mark.parametrize(
    "words",
    [
        "your key my-odd-key is wrong",
        "key sk-abcdefgh12345678",
        "key sk-proj-abc_def-12345678 ended",
        "Incorrect API key provided: sk-abcd1***********wxyz",
        "Authorization: Bearer my.token.of.mine",
        "AIzaSyA1234567890abcdefg",
    ],
)
def test_no_key_stays_in_a_services_words(words: str) -> None:
    """Neither ours nor one that looks like any."""
    cleaned = clean(words, "my-odd-key")
    assert "***" in cleaned
    for secret in ("my-odd-key", "12345678", "abcd1", "wxyz", "my.token", "SyA123"):
        assert secret not in cleaned


def test_a_services_words_are_one_short_line() -> None:
    """Whatever it sends."""
    assert clean("a\n\tb\r c " + "x" * 1000) == "a b c " + "x" * 294

"""The retry policy, and what the log may say of a service's errors."""

from __future__ import annotations

import email.utils
import time

import pytest

from backends._cloud.errors import (
    MAX_ATTEMPTS,
    MAX_RETRY_AFTER,
    RetryableError,
    backoff_seconds,
    parse_retry_after,
    redact,
)


def test_the_backoff_grows_until_the_last_attempt() -> None:
    """Each about twice the one before, and never the same for all."""
    waits = [
        backoff_seconds(attempt, RetryableError("s")) for attempt in range(1, MAX_ATTEMPTS + 1)
    ]
    assert waits[-1] is None
    for number, wait in enumerate(waits[:-1]):
        assert wait is not None
        assert 0.75 * 0.5 * 2**number <= wait <= 0.5 * 2**number
    assert len({backoff_seconds(1, RetryableError("s")) for _ in range(20)}) > 1


def test_a_service_that_says_how_long_is_obeyed_within_bounds() -> None:
    """But not past the last try."""
    assert backoff_seconds(1, RetryableError("s", retry_after=3)) == 3
    assert backoff_seconds(1, RetryableError("s", retry_after=MAX_RETRY_AFTER + 1)) is None
    assert backoff_seconds(MAX_ATTEMPTS, RetryableError("s", retry_after=0)) is None


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after": " 20s "}, 20),
        ({"retry-after-ms": "soon", "retry-after": "3"}, 3),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "Wed, 99 Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({}, None),
    ],
)
def test_retry_after_headers_are_parsed(fields: dict[str, str], seconds: float | None) -> None:
    """In seconds, in milliseconds, or as a date."""
    assert parse_retry_after(fields) == seconds


@pytest.mark.parametrize(
    "moment",
    [
        "Wed, 21 Oct 2015 07:28:30 GMT",
        "Wed, 21 Oct 2015 07:28:30 -0000",
        "Wednesday, 21-Oct-15 07:28:30 GMT",
        "Wed Oct 21 07:28:30 2015",
        "Wed, 21 Oct 2015 09:28:30 +0200",
    ],
)
def test_a_date_is_measured_from_that_of_the_response(moment: str) -> None:
    """However wrong a clock is, the service's or ours, and however it writes the date."""
    fields = {"retry-after": moment, "date": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert parse_retry_after(fields) == 30
    assert parse_retry_after({**fields, "date": moment}) == 0
    assert parse_retry_after({**fields, "date": "Wed, 21 Oct 2015 08:00:00 GMT"}) == 0


def test_a_date_in_the_future_is_waited_for() -> None:
    """By this machine's clock, if the response has no date."""
    found = parse_retry_after(
        {"retry-after": email.utils.formatdate(time.time() + 60, usegmt=True)}
    )
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
    redacted = redact(words, "my-odd-key")
    assert "***" in redacted
    for secret in ("my-odd-key", "12345678", "abcd1", "wxyz", "my.token", "SyA123"):
        assert secret not in redacted


def test_a_services_words_are_one_short_line() -> None:
    """Whatever it sends."""
    assert redact("a\n\tb\r c " + "x" * 1000) == "a b c " + "x" * 294

"""Errors of a service, each with a sentence for the user; and the retry policy.

Knows no service: each backend classifies its own library's errors as these.
"""

from __future__ import annotations

import datetime
import email.utils
import random
import re
import time
from collections.abc import Mapping

from backends._http.transport_errors import ConnectionFailed, Failure
from kuwa_min.chat import catalog
from kuwa_min.log.redaction import clean_service

# Retry policy: a request is retried only until the first piece of its answer was shown, and only
# for errors that may pass (RetryableError). The wait is the one that the service asks for, unless
# that is longer than a user would wait; else it doubles from BACKOFF_FIRST to BACKOFF_MAX, with
# jitter, so that chats that were refused together do not come back together. A request that was
# changed because of the error (RetryModified, ContextLengthExceeded, ImageRejected) is sent at once
# and costs no attempt: each of those changes can be made a limited number of times.
MAX_ATTEMPTS = 4
BACKOFF_FIRST, BACKOFF_MAX = 0.5, 8.0  # seconds
MAX_RETRY_AFTER = 30.0  # seconds
FIT_MARGIN = 0.95  # of the share of a prompt that fits: our token counts are estimates
LONGEST_CAUSE = 300  # characters of the log


class ServiceError(Exception):
    """An error that ends the answer: `sentence` is for the user, the message for the log."""

    def __init__(self, sentence: str, cause: str = "") -> None:
        super().__init__(cause or sentence)
        self.sentence = sentence


class RetryableError(ServiceError):
    """An error that may pass; `retry_after`: seconds that the service asks us to wait."""

    def __init__(self, sentence: str, cause: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(sentence, cause)
        self.retry_after = retry_after


class ContextLengthExceeded(ServiceError):
    """A prompt with more tokens than we estimated; `share` of it might fit."""

    def __init__(self, sentence: str, cause: str = "", *, share: float | None = None) -> None:
        super().__init__(sentence, cause)
        self.share = share


class ImageRejected(ServiceError):
    """A model that takes no images, or not this one."""


class RetryModified(ServiceError):
    """A parameter that the model does not take: the same request is sent again without it."""


# What a failed connection means: the sentence, and whether another attempt may succeed.
FAILURES = {
    Failure.CERTIFICATE: (catalog.NOT_TRUSTED, False),
    Failure.TLS: (catalog.GARBLED, False),
    Failure.LOOKUP: (catalog.UNREACHABLE, True),
    Failure.CONNECT_TIMEOUT: (catalog.UNREACHABLE, True),
    Failure.READ_TIMEOUT: (catalog.TOO_SLOW, False),
    Failure.PROTOCOL: (catalog.GARBLED, False),
    Failure.REDIRECT: (catalog.GARBLED, False),
    Failure.CONNECTION: (catalog.UNREACHABLE, True),
}


def from_connection_failure(
    failed: ConnectionFailed, meanings: Mapping[Failure, tuple[str, bool]] = FAILURES
) -> ServiceError:
    """Classify a failed connection."""
    sentence, is_retryable = meanings[failed.failure]
    cause = redact(f"{failed.failure.value}: {failed}")
    return RetryableError(sentence, cause) if is_retryable else ServiceError(sentence, cause)


def backoff_seconds(attempt: int, error: RetryableError) -> float | None:
    """Return the seconds to wait after this attempt, counted from 1; None: give up."""
    if attempt >= MAX_ATTEMPTS:
        return None
    if error.retry_after is not None:
        return error.retry_after if error.retry_after <= MAX_RETRY_AFTER else None
    wait: float = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** (attempt - 1))
    return wait * random.uniform(0.75, 1.0)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header, which may hold a date; None without one.

    A date is measured from the response's own, so that the two clocks need not agree.
    """
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?s?", headers.get(name, "").strip())
        if value:
            return float(value[1]) / unit
    moment = _timestamp(headers.get("retry-after", ""))
    if moment is None:
        return None
    now = _timestamp(headers.get("date", ""))
    return max(0.0, moment - (time.time() if now is None else now))


def _timestamp(date: str) -> float | None:
    """Return the time of an HTTP date, which is in GMT whether it says so or not."""
    try:
        found = email.utils.parsedate_to_datetime(date)
        return (found if found.tzinfo else found.replace(tzinfo=datetime.timezone.utc)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def redact(cause: str, *secrets: str) -> str:
    """Return a service's own words for the log: without keys, on one line, and not long."""
    return clean_service(cause, secrets)[:LONGEST_CAUSE]

"""Say what a service gave instead of an answer: a sentence for the person, a cause for the log.

Knows no service: each backend makes its own library's errors into these.
"""

from __future__ import annotations

import email.utils
import random
import re
import time
from collections.abc import Mapping

from kuwa_min import sentences

from ._transport_errors import ConnectionFailed, Failure

TRIES = 4  # in all, until the first piece of an answer
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds; each wait is twice the one before
MOST_PATIENCE = 30.0  # seconds: a service that asks for more is not waited for
LONGEST_CAUSE = 300  # characters of the log
KEYS = re.compile(r"\b(?:(?:sk|pk|gsk|xai|hf)[-_]|AIza)[\w*-]{8,}[\w*.-]*|(?<=Bearer )\S+")


class Refusal(Exception):
    """End an answer: `sentence` is for the person, and the message for the log."""

    def __init__(self, sentence: str, cause: str = "") -> None:
        super().__init__(cause or sentence)
        self.sentence = sentence


class Passing(Refusal):
    """Report what may be over in a moment; `after` is how long the service asks us to wait."""

    def __init__(self, sentence: str, cause: str = "", *, after: float | None = None) -> None:
        super().__init__(sentence, cause)
        self.after = after


class ContextFull(Refusal):
    """Report a chat that is too long, although we thought it fits; `share` of it might fit."""

    def __init__(self, sentence: str, cause: str = "", *, share: float | None = None) -> None:
        super().__init__(sentence, cause)
        self.share = share


class ImageRefused(Refusal):
    """Report a model that takes no images, or not this one."""


class Again(Refusal):
    """Report a request that is to be made once more at once, in other words."""


# What a failed connection means: the sentence, and whether another attempt may succeed.
FAILURES = {
    Failure.CERTIFICATE: (sentences.NOT_TRUSTED, False),
    Failure.TLS: (sentences.GARBLED, False),
    Failure.LOOKUP: (sentences.UNREACHABLE, True),
    Failure.CONNECT_TIMEOUT: (sentences.UNREACHABLE, True),
    Failure.READ_TIMEOUT: (sentences.TOO_SLOW, False),
    Failure.PROTOCOL: (sentences.GARBLED, False),
    Failure.CONNECTION: (sentences.UNREACHABLE, True),
}


def of_failure(
    failed: ConnectionFailed, meanings: Mapping[Failure, tuple[str, bool]] = FAILURES
) -> Refusal:
    """Classify a failed connection."""
    sentence, passes = meanings[failed.failure]
    cause = clean(f"{failed.failure.value}: {failed}")
    return Passing(sentence, cause) if passes else Refusal(sentence, cause)


def wait_before(attempt: int, refusal: Passing) -> float | None:
    """Return seconds to wait before another attempt, the first being 1; None: give up."""
    if attempt >= TRIES:
        return None
    if refusal.after is not None:
        return refusal.after if refusal.after <= MOST_PATIENCE else None
    wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1))
    return wait * random.uniform(0.75, 1.0)  # so that many chats do not come back at once


def asked_to_wait(fields: Mapping[str, str]) -> float | None:
    """Return the seconds that a service's header fields ask us to wait, if they do."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = fields.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
            return float(value) / unit
    try:
        moment = email.utils.parsedate_to_datetime(fields.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    return max(0.0, moment.timestamp() - time.time())


def clean(cause: str, *secrets: str) -> str:
    """Return a service's own words for the log: without keys, on one line, and not long."""
    for secret in filter(None, secrets):
        cause = cause.replace(secret, "***")
    return " ".join(KEYS.sub("***", cause).split())[:LONGEST_CAUSE]

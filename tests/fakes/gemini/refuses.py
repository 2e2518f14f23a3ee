"""What Gemini says instead of an answer, as Google words and wraps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .server import Handler

INFO = "type.googleapis.com/google.rpc.ErrorInfo"
RETRY = "type.googleapis.com/google.rpc.RetryInfo"
QUOTA = "type.googleapis.com/google.rpc.QuotaFailure"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"


def error(code: int, status: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    """Return an error as Google writes it."""
    return {"code": code, "message": message, "status": status, "details": list(details)}


WRONG_KEY = error(
    400,
    "INVALID_ARGUMENT",
    "API key not valid. Please pass a valid API key.",
    {"@type": INFO, "reason": "API_KEY_INVALID", "domain": "googleapis.com"},
)
BUSY = error(503, "UNAVAILABLE", "The model is overloaded. Please try again later.")
TOO_MANY = error(
    429,
    "RESOURCE_EXHAUSTED",
    "You exceeded your current quota.",
    {"@type": RETRY, "retryDelay": "0.05s"},
)
USED_UP = error(
    429,
    "RESOURCE_EXHAUSTED",
    "You exceeded your current quota.",
    {"@type": QUOTA, "violations": [{"quotaId": PER_DAY}]},
    {"@type": RETRY, "retryDelay": "0.05s"},
)
TOO_LONG = error(
    400,
    "INVALID_ARGUMENT",
    "The input token count (2000) exceeds the maximum number of tokens allowed (1000).",
)
NO_MODEL = error(404, "NOT_FOUND", "models/none is not found for API version v1beta.")
NOT_HERE = error(400, "FAILED_PRECONDITION", "User location is not supported for the API use.")
FORBIDDEN = error(403, "PERMISSION_DENIED", "Your API key was reported as leaked.")
BAD_TOP_P = error(
    400,
    "INVALID_ARGUMENT",
    "* GenerateContentRequest.generation_config.top_p: top_p must be in the range [0.0, 1.0]",
)
NO_IMAGES = error(400, "INVALID_ARGUMENT", "Image input modality is not enabled for models/x")
BROKEN = error(500, "INTERNAL", "An internal error has occurred.")


def always(status: int, what: Any, **fields: str) -> Callable[[Handler], None]:
    """Refuse everything."""
    return lambda talk: talk.refuse(status, what, **fields)


def so_many_times(times: int, what: dict[str, Any], **fields: str) -> Callable[[Handler], None]:
    """Refuse the first requests, and answer the next one."""

    def talk_later(talk: Handler) -> None:
        if talk.number <= times:
            return talk.refuse(what["code"], what, **fields)
        return talk.tell("here I am")

    return talk_later


def in_the_middle(talk: Handler) -> None:
    """Say half, then send an error as the next object."""
    talk.begin()
    talk.say("half of ")
    talk.send_object({"error": BROKEN})
    talk.close_array()


def all_but_short_chats(talk: Handler) -> None:
    """Find more than one message too long."""
    if len(talk.asked.said) > 1:
        return talk.refuse(400, TOO_LONG)
    return talk.tell("short")


def all_pictures(talk: Handler) -> None:
    """Take text only."""
    if any("<picture>" in text for _, text in talk.asked.said):
        return talk.refuse(400, NO_IMAGES)
    return talk.tell("text")

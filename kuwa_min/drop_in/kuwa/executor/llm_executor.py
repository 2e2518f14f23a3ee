"""The executor class, and functions that prepare a chat's history.

Histories are lists of {"role", "content"}; the functions return new ones.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Any

from kuwa_min.chat.history import extract_last_url, to_openai_chat_format
from kuwa_min.errors import describe
from kuwa_min.executor import LLMExecutor

from . import _fetch
from .cache import lru_cache_with_ttl

__all__ = [
    "URL_REGEX",
    "LLMExecutor",
    "extract_last_url",
    "extract_user_attachment",
    "get_mime_type",
    "rectify_chat_history",
    "to_openai_chat_format",
]

logger = logging.getLogger(__name__)

URL_REGEX = r"(https?://[^\s]+)"


def rectify_chat_history(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Insert an empty user message before a leading assistant's, as Kuwa 0.4 does."""
    for at, message in enumerate(history):
        if message["role"] == "user":
            break
        if message["role"] == "assistant":
            return [*history[:at], {"role": "user", "content": ""}, *history[at:]]
    return list(history)


@lru_cache_with_ttl()
def get_mime_type(url: str) -> str | None:
    """Return the MIME type of a URL by a HEAD request; None if that fails."""
    try:
        return _fetch.head(url)
    except (OSError, ValueError) as error:
        logger.debug("no MIME type of an address: %s", describe(error))
        return None


def extract_user_attachment(
    chat_history: list[dict[str, Any]], allowed_mime_type: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Move the URLs of these types out of the user's messages, into "attachments".

    allowed_mime_type: patterns such as "image/*".
    Returns a copy, in which user messages have "attachments": [{"url", "mime_type"}].
    """
    patterns = set(allowed_mime_type)

    def split(message: dict[str, Any]) -> dict[str, Any]:
        attachments: list[dict[str, str]] = []

        def take(found: re.Match[str]) -> str:
            kind = get_mime_type(found[0])
            if kind is None or not any(fnmatch(kind, pattern) for pattern in patterns):
                return found[0]
            attachments.append({"url": found[0], "mime_type": kind})
            return ""

        text = re.sub(URL_REGEX, take, message["content"], flags=re.IGNORECASE)
        return {**message, "content": text, "attachments": attachments}

    return [split(one) if one["role"] == "user" else dict(one) for one in chat_history]

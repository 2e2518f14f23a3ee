"""Turn Kuwa's chat history into the messages that models read. Knows nothing of HTTP."""

from __future__ import annotations

import re
from typing import Any

from .modelfile import Message

URL = re.compile(r"https?://\S+")


def to_openai_chat_format(history: list[dict[str, Any]]) -> list[Message]:
    """Convert [{"isbot", "msg"}] to [{"role", "content"}]; a null msg is empty text."""
    return [
        {"role": "assistant" if entry["isbot"] else "user", "content": entry.get("msg") or ""}
        for entry in history
    ]


def rectify_chat_history(history: list[Message]) -> list[Message]:
    """Drop the assistant's messages that stand before the first one of the user."""
    spoken = [message["role"] for message in history if message["role"] != "system"]
    leading = spoken.index("user") if "user" in spoken else len(spoken)
    kept = []
    for message in history:
        if message["role"] != "system" and leading:
            leading -= 1
        else:
            kept.append(message)
    return kept


def extract_last_url(chat_history: list[Message]) -> tuple[str | None, list[Message]]:
    """Find the user's latest URL; return it and the history from that message on, without it."""
    for index in range(len(chat_history) - 1, -1, -1):
        message = chat_history[index]
        urls = URL.findall(message["content"]) if message["role"] == "user" else []
        if urls:
            text = URL.sub("", message["content"]).strip()
            return urls[-1], [{**message, "content": text}, *chat_history[index + 1 :]]
    return None, list(chat_history)

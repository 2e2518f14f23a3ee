"""Convert Kuwa's chat history to messages with roles. No HTTP here."""

from __future__ import annotations

import json
import re
from typing import Any

from .modelfile import Message
from .modelfile_text import replace_surrogates

URL = re.compile(r"https?://\S+")
FALSE_WORDS = {"", "0", "f", "false"}  # as databases write a false isbot when they write text


def to_openai_chat_format(history: list[dict[str, Any]]) -> list[Message]:
    """Convert [{"isbot", "msg"}] to [{"role", "content"}]; other keys are dropped."""
    return [
        {
            "role": "assistant" if _is_true(entry.get("isbot")) else "user",
            "content": _to_text(entry.get("msg")),
        }
        for entry in history
    ]


def _is_true(value: object) -> bool:
    """Parse isbot: a boolean, 0 or 1, null, or any of these as text, depending on the database."""
    return value.lower() not in FALSE_WORDS if isinstance(value, str) else bool(value)


def _to_text(value: object) -> str:
    """Return the text of a msg: empty for null, the text parts of OpenAI's content parts."""
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, list):
        return "\n".join(filter(None, map(_to_text, value)))
    if isinstance(value, dict):
        return _to_text(value.get("text"))
    return "" if value is None else json.dumps(value)


def keep_client_system(history: list[Message]) -> list[Message]:
    """Turn the assistant's messages before the user's first one into system messages.

    For API calls: Kuwa's front end turns every role but user into the assistant, so a client's
    system message arrives as one. A chat room's history begins with the user, or with a welcome
    message that rectify_chat_history drops.
    """
    leading = next((at for at, one in enumerate(history) if one["role"] == "user"), len(history))
    return [{**one, "role": "system"} for one in history[:leading]] + history[leading:]


def rectify_chat_history(history: list[Message]) -> list[Message]:
    """Drop the assistant's messages before the first one of the user."""
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

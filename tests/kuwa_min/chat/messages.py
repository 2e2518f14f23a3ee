"""Messages of chats, for the tests of what composes and shortens them."""

from __future__ import annotations

History = list[dict[str, str]]


def user(text: str) -> dict[str, str]:
    """Return a user's message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    """Return what the model said."""
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    """Return what the operator or the bot's author said."""
    return {"role": "system", "content": text}

"""A service whose model has a strict chat template, and words of its own for what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .server import Handler

Refuse = Callable[[Handler, str], None]


def strict(words: str, refuse: Refuse, *, takes_system: bool = False) -> Callable[[Handler], None]:
    """Return what answers chats of user and assistant in turn, and refuses all others.

    takes_system: whether a system message may come first.
    """

    def talk(one: Handler) -> None:
        roles = [message["role"] for message in one.asked.body["messages"]]
        others = roles[1:] if takes_system and roles[0] == "system" else roles
        if others == [("user", "assistant")[n % 2] for n in range(len(others))]:
            one.tell("fine")
        else:
            refuse(one, words)

    return talk


def with_status(status: int, wrap: Callable[[str], Any] | None = None) -> Refuse:
    """Return what refuses in a response with this status; wrap: returns its body."""

    def refuse(one: Handler, words: str) -> None:
        one.answer(wrap(words) if wrap else {"error": {"message": words}}, status)

    return refuse


def with_event(body: Callable[[str], Any], prefix: str = "data: ") -> Refuse:
    """Return what begins an answer with status 200 and refuses in its first event."""

    def refuse(one: Handler, words: str) -> None:
        one.begin()
        one.raw(f"{prefix}{json.dumps(body(words))}\n\n".encode())
        one.end()

    return refuse


def behind_the_head(one: Handler, words: str) -> None:
    """Refuse as llama-cpp-python's server does: a stream ends without a word."""
    if one.asked.body["stream"]:
        one.begin()
        one.wfile.write(b"0\r\n\r\n")
    else:
        with_status(500)(one, words)

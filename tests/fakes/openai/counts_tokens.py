"""A service that finds a chat too long when it has more than a number of messages."""

from __future__ import annotations

from collections.abc import Callable

from .server import Handler


def most(
    messages: int, words: str, *, status: int = 400, code: str = ""
) -> Callable[[Handler], None]:
    """Return what accepts at most `messages` messages, and refuses more with these words."""

    def talk(one: Handler) -> None:
        if len(one.asked.said) > messages:
            one.answer({"error": {"message": words, "code": code}}, status)
        else:
            one.tell(" | ".join(one.asked.said))

    return talk

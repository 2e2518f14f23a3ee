"""A service that refuses: always, at first, or in the middle of an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .server import Handler


def always(status: int, body: Any, **fields: str) -> Callable[[Handler], None]:
    """Return what refuses every request."""

    def talk(one: Handler) -> None:
        one.answer(body, status, **fields)

    return talk


def at_first(times: int, status: int, body: Any = None, **fields: str) -> Callable[[Handler], None]:
    """Return what refuses the first requests and answers the next."""

    def talk(one: Handler) -> None:
        if one.number < times:
            one.answer(body or {"error": {"message": "not now"}}, status, **fields)
        else:
            one.tell("at last")

    return talk


def midway(error: Any) -> Callable[[Handler], None]:
    """Return what begins an answer and ends it with an error."""

    def talk(one: Handler) -> None:
        one.begin()
        one.say("so far ")
        one.event({"error": error})
        one.wfile.write(b"0\r\n\r\n")

    return talk


def echoing_the_key(talk: Handler) -> None:
    """Repeat the key in the refusal, and what was said, too."""
    message = f"Incorrect API key provided: {talk.asked.key}. You said {talk.asked.said[-1]}"
    talk.answer({"error": {"message": message, "code": "invalid_api_key"}}, 401)


def option(name: str, message: str) -> Callable[[Handler], None]:
    """Return what refuses requests with an option that it does not know."""

    def talk(one: Handler) -> None:
        if name in one.asked.body:
            one.answer({"error": {"message": message.format(name), "param": name}}, 400)
        else:
            one.tell("fine")

    return talk


def moved(status: int, path: str) -> Callable[[Handler], None]:
    """Return what sends chats to another path of the same service, and answers there."""
    elsewhere = redirecting(status, path)

    def talk(one: Handler) -> None:
        one.tell("fine") if one.path == path else elsewhere(one)

    return talk


def redirecting(status: int, location: str) -> Callable[[Handler], None]:
    """Return what sends chats elsewhere."""

    def talk(one: Handler) -> None:
        one.answer(b"<html>moved</html>", status, kind="text/html", Location=location)

    return talk

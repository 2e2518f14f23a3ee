"""A service that closes the connection at the wrong moment."""

from __future__ import annotations

from .server import Handler


def in_the_middle(talk: Handler) -> None:
    """Say half, and leave."""
    talk.begin()
    talk.say("half of ")
    talk.break_off()


def in_an_object(talk: Handler) -> None:
    """Say half, begin another object, and end the body as if that were all."""
    talk.begin()
    talk.say("half of ")
    talk.raw(b',\r\n{"candidates": [{"content"')
    talk.wfile.write(b"0\r\n\r\n")


def once_before_the_head(talk: Handler) -> None:
    """Leave at the first request without a word; answer the second."""
    if talk.number == 1:
        return talk.break_off()
    return talk.tell("here I am")


def once_before_the_first_word(talk: Handler) -> None:
    """Leave after the head of the first answer; answer the second request."""
    if talk.number == 1:
        talk.begin()
        return talk.break_off()
    return talk.tell("here I am")


def always(talk: Handler) -> None:
    """Leave without a word."""
    talk.break_off()

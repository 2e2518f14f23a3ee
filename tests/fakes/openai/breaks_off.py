"""A service that closes the connection in the middle of an answer."""

from __future__ import annotations

from .server import Handler


def in_the_middle(talk: Handler) -> None:
    """Say half, and leave."""
    talk.begin()
    talk.say("half of ")
    talk.break_off()


def without_a_reason(talk: Handler) -> None:
    """Say half, and end the body as if that were all."""
    talk.begin()
    talk.say("half of ")
    talk.wfile.write(b"0\r\n\r\n")


def once_before_the_first_word(talk: Handler) -> None:
    """Leave at the first request; answer the second."""
    if not talk.number:
        talk.begin()
        return talk.break_off()
    return talk.tell("here I am")


def always_before_the_head(talk: Handler) -> None:
    """Leave without a word."""
    talk.break_off()


def once_answered(talk: Handler) -> None:
    """Close a kept connection without having said so."""
    talk.tell("one")
    talk.close_connection = True

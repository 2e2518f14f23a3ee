"""A service that says nothing more, and notes when the other side leaves."""

from __future__ import annotations

from .server import Handler


def before_the_head(talk: Handler) -> None:
    """Take the request, and say nothing."""
    talk.wait_until_gone()


def before_the_first_word(talk: Handler) -> None:
    """Send the head, and nothing else."""
    talk.begin()
    talk.wait_until_gone()


def after_the_first_word(talk: Handler) -> None:
    """Begin an answer, and stop in the middle."""
    talk.begin()
    talk.say("one")
    talk.wait_until_gone()


def after_the_last_word(talk: Handler) -> None:
    """Say that this was all, and keep the connection open."""
    talk.begin()
    talk.say("all", finish="stop")
    talk.raw(b"data: [DONE]\n\n")
    talk.wait_until_gone()

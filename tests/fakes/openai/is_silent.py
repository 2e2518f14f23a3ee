"""A service that says nothing more, and notes when the other side leaves."""

from __future__ import annotations

from .server import Talk


def before_the_head(talk: Talk) -> None:
    """Take the request, and say nothing."""
    talk.wait_until_gone()


def before_the_first_word(talk: Talk) -> None:
    """Send the head, and nothing else."""
    talk.begin()
    talk.wait_until_gone()


def after_the_first_word(talk: Talk) -> None:
    """Begin an answer, and stop in the middle."""
    talk.begin()
    talk.say("one")
    talk.wait_until_gone()


def after_the_last_word(talk: Talk) -> None:
    """Say that this was all, and keep the connection open."""
    talk.begin()
    talk.say("all", finish="stop")
    talk.raw(b"data: [DONE]\n\n")
    talk.wait_until_gone()

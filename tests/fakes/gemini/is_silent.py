"""A service that says nothing for as long as the client waits."""

from __future__ import annotations

from .server import Handler


def before_the_head(talk: Handler) -> None:
    """Send nothing at all."""
    talk.wait_until_gone()


def before_the_first_word(talk: Handler) -> None:
    """Send the head only."""
    talk.begin()
    talk.wait_until_gone()


def after_the_first_word(talk: Handler) -> None:
    """Say a word, and no more."""
    talk.begin()
    talk.say("word")
    talk.wait_until_gone()

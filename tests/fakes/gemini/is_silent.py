"""A service that says nothing for as long as the client waits."""

from __future__ import annotations

from .server import Talk


def before_the_head(talk: Talk) -> None:
    """Send nothing at all."""
    talk.wait_until_gone()


def before_the_first_word(talk: Talk) -> None:
    """Send the head only."""
    talk.begin()
    talk.wait_until_gone()


def after_the_first_word(talk: Talk) -> None:
    """Say a word, and no more."""
    talk.begin()
    talk.say("word")
    talk.wait_until_gone()

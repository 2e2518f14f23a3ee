"""A module beside the executor."""

from __future__ import annotations


def greet(words: str, name: str) -> str:
    """Return the words with the name in them."""
    return words.strip().format(name) + "\n"

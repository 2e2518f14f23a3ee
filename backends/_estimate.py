"""Guess how many tokens a chat has, rather too many than too few, without any tokenizer.

A tokenizer would have to be downloaded, and belongs to one model. A service that counts more than
was guessed here says so, and the chat is shortened then.
"""

from __future__ import annotations

from kuwa_min.modelfile import Message

from ._links import numbers

LETTERS = 3  # characters of ASCII in a token: 4 in English prose, 3 in programs
BYTES = 2  # beyond ASCII, one token more for each two bytes that a character has beyond its first
PER_MESSAGE = 4  # tokens that say who speaks
PER_FILE = 1000  # tokens of a picture; of other files a guess would be wild, and services count


def tokens(text: str) -> int:
    """Return a guess at the tokens of a text.

    A Chinese character, three bytes of UTF-8, counts one and a third: tokenizers need from 0.7 to
    1.3 for one in their own language, more where they know it badly.
    """
    if text.isascii():
        return len(text) // LETTERS + 1
    size = len(text.encode("utf-8", "replace"))
    return len(text) // LETTERS + (size - len(text)) // BYTES + 1


def chat_tokens(messages: list[Message]) -> int:
    """Return a guess at the tokens of a chat and of the files whose signs stand in it."""
    return sum(
        tokens(one["content"]) + PER_MESSAGE + PER_FILE * len(numbers(one["content"]))
        for one in messages
    )

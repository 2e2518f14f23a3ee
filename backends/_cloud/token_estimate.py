"""Estimate the tokens of a chat without a tokenizer, rather too high than too low.

A tokenizer would have to be downloaded, and belongs to one model. Where a service counts more than
is estimated here, it refuses the chat, which is truncated then.
"""

from __future__ import annotations

from backends._media.links import placeholder_numbers
from kuwa_min.chat.modelfile import Message

CHARACTERS_PER_TOKEN = 3  # of ASCII: 4 in English prose, 3 in programs
BYTES_PER_TOKEN = 2  # of UTF-8, beyond the first byte of each character
PER_MESSAGE = 4  # tokens that mark a message's role
PER_FILE = 1000  # tokens of an image; other files vary too much for an estimate


def text_tokens(text: str) -> int:
    """Estimate the tokens of a text.

    A Chinese character, three bytes of UTF-8, counts one and a third: tokenizers need from 0.7 to
    1.3 for one in a language that they know well, and more in others.
    """
    if text.isascii():
        return len(text) // CHARACTERS_PER_TOKEN + 1
    size = len(text.encode("utf-8", "replace"))
    return len(text) // CHARACTERS_PER_TOKEN + (size - len(text)) // BYTES_PER_TOKEN + 1


def chat_tokens(messages: list[Message]) -> int:
    """Estimate the tokens of messages and of the files whose placeholders stand in them."""
    return sum(
        text_tokens(one["content"])
        + PER_MESSAGE
        + PER_FILE * len(placeholder_numbers(one["content"]))
        for one in messages
    )

"""Keep the markup of special tokens out of what a model reads as its own earlier answers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kuwa_min.chat.modelfile import Message


class MarkupFilter:
    """Removes the text of special tokens from the assistant's messages.

    Answers do not show special tokens, but a model may spell one out with ordinary tokens. In the
    next prompt it would be the special token itself: the end of a turn in the midst of a message.

    texts: of the special tokens. Those that may be words, such as ChatGLM's "sop", stay.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        marks = sorted(filter(_is_markup, texts), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, marks))) if marks else None

    def apply(self, history: list[Message]) -> list[Message]:
        """Return the history without markup in the assistant's messages."""
        pattern = self._pattern
        if pattern is None:
            return history
        return [
            {**one, "content": pattern.sub("", one["content"])}
            if one["role"] == "assistant"
            else one
            for one in history
        ]


def _is_markup(text: str) -> bool:
    """Tell whether a text cannot be mistaken for words or punctuation."""
    ends = f"{text[:1]}{text[-1:]}"
    return len(text) > 2 and not any(end.isalnum() or end.isspace() for end in ends)
